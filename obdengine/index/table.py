# SPDX-License-Identifier: Apache-2.0
"""
table - the merged index of a stack, and which segment covers a sector.

The newest layer that maps a sector wins; a zeroed entry hides what is below
it and stays in the table. Folding and look-up are the core's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from weakref import WeakValueDictionary

from obdengine import _core
from obdengine.errors import LimitError
from obdengine.segment import MAX_LAYERS, Segment

__all__ = ["Table", "table_of"]


class Table:
    """The merged index of layers, bottom first. It does not change.

    Attributes:
        segmap: what the core looks sectors up in.
    """

    def __init__(self, layers: Sequence[_core.Segments]) -> None:
        """Fold layers: O(N log k) for N entries in k layers.

        Raises LimitError for more than 255 layers.
        """
        if len(layers) > MAX_LAYERS:
            raise LimitError(
                f"{len(layers)} layers are too many, a stack has at most {MAX_LAYERS}",
                hint="flatten some of them with `obd convert`",
            )
        # Alive as long as this, so that nothing else is where they are.
        self._layers = tuple(layers)
        # Nothing below is as good as a layer that maps nothing.
        self.segmap = _core.SegMap(
            _core.merge(layers or [_core.Segments.from_list([])])
        )

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.segmap)

    def __iter__(self) -> Iterator[Segment]:
        """Yield the segments in order; their layer counts from 0 at the bottom."""
        return iter(self.segmap.segments)

    @property
    def memory(self) -> int:
        """Bytes of memory that the table takes."""
        return self.segmap.memory

    def at(self, sector: int) -> Segment | None:
        """Return the segment that covers sector, or None. About 5 ns in C."""
        number = self.segmap.find(sector)
        if number == len(self):
            return None
        found: Segment = self.segmap.segments[number]
        return found if found.start <= sector else None

    def check(self) -> None:
        """Assert what must always hold. O(n); tests call it."""
        for segment in self:
            assert segment.length > 0, segment
        for a, b in pairwise(self):
            assert a.end <= b.start, (a, b)


_lock = threading.Lock()
_tables: WeakValueDictionary[tuple[int, ...], Table] = WeakValueDictionary()


def table_of(layers: Sequence[_core.Segments]) -> Table:
    """Return the table of layers, the same for the same objects in that order.

    Many disks over the same layers have one. Raises LimitError as Table does.
    """
    key = tuple(map(id, layers))
    with _lock:
        table = _tables.get(key)
    if table is None:
        table = Table(layers)
        with _lock:
            table = _tables.setdefault(key, table)
    return table
