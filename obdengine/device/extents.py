# SPDX-License-Identifier: Apache-2.0
"""extents - what a range of a disk is made of, run by run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from obdengine import _core

__all__ = ["Extent", "walk"]


class Extent(NamedTuple):
    """A run of bytes of the disk that all come from the same place.

    Attributes:
        offset: where it starts, bytes.
        length: bytes.
        layer: number of the layer that maps it, 0 at the bottom; None for a
            hole, which no layer maps.
        zero: whether it reads as zeros without looking.
        data: whether bytes are stored for it.
        present: whether those bytes are on this machine.
    """

    offset: int
    length: int
    layer: int | None
    zero: bool
    data: bool
    present: bool

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


def walk(core: _core.Device, offset: int, length: int) -> Iterator[Extent]:
    """Yield the extents of a range, each as long as it can be.

    They cover the range without gaps. Presence is as it was when the core was
    asked, some hundreds of extents at a time.
    """
    end = offset + length
    held: Extent | None = None
    while offset < end:
        for raw in core.extents(offset, end - offset):
            extent = Extent(*raw)
            offset = extent.end
            # Where one batch ends and the next begins, a run may go on.
            if held and held[2:] == extent[2:]:
                held = held._replace(length=held.length + extent.length)
                continue
            if held:
                yield held
            held = extent
    if held:
        yield held
