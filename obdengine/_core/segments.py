# SPDX-License-Identifier: Apache-2.0
"""segments - index entries as C has them: an array, folded, looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from obdengine._core.binding import (
    Buffer,
    check,
    ffi,
    lib,
    made,
    new_fault,
    source,
    target,
)
from obdengine.errors import UsageError
from obdengine.segment import ENTRY_SIZE, Segment

__all__ = ["SegMap", "Segments", "merge"]


class Segments(Sequence[Segment]):
    """Index entries in order, 16 bytes each, as C has them."""

    def __init__(self, array: Any, count: int) -> None:
        """Wrap count entries of a C array, which is kept."""
        self._array = array
        self._count = count

    @classmethod
    def from_list(cls, segments: Iterable[Segment]) -> Segments:
        """Make an array of segments; UsageError where a number does not fit."""
        rows = list(segments)
        array = ffi.new("struct obd_segment[]", len(rows))
        for row, s in zip(array, rows, strict=True):
            if not (0 <= s.start < 1 << 50 and 0 <= s.length < 1 << 14):
                raise UsageError(f"a segment cannot be {s}")
            if not (0 <= s.moffset < 1 << 55 and 0 <= s.layer < 256):
                raise UsageError(f"a segment cannot be {s}")
            row.lo = s.start | s.length << 50
            row.hi = s.moffset | int(s.zeroed) << 55 | s.layer << 56
        return cls(array, len(rows))

    @classmethod
    def unpack(
        cls,
        raw: Buffer,
        *,
        name: str,
        offset: int,
        disk_sectors: int,
        data_start: int,
        data_end: int,
        target_sectors: int | None = None,
    ) -> Segments:
        """Unpack on-disk entries: padding dropped, tags cleared, rules checked.

        name and offset (bytes) say where raw comes from. disk_sectors 0 means
        that the disk's size is unknown. target_sectors: of the target's stream,
        for a TurboOCI layer, whose tags count. Raises BadIndex.
        """
        src, count = source(raw), len(raw) // ENTRY_SIZE
        array = ffi.new("struct obd_segment[]", count)
        kept, fault = ffi.new("size_t *"), new_fault()
        bounds = ffi.new("struct obd_bounds *", [disk_sectors, data_start, data_end])
        if target_sectors is None:
            status = lib.obd_record_unpack(src, count, bounds, array, kept, fault)
        else:
            status = lib.obd_record_unpack_turbo(
                src, count, bounds, target_sectors, array, kept, fault
            )
        check(status, fault, name, offset)
        return cls(array, kept[0])

    def pack(self) -> bytes:
        """Return the entries as they are on disk, with tag 0, without padding."""
        out = bytearray(self._count * ENTRY_SIZE)
        lib.obd_record_pack(self._array, self._count, target(out))
        return bytes(out)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __getitem__(self, i: Any) -> Any:
        """Return the Segment with number i, or a list for a slice."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._count))]
        if not -self._count <= i < self._count:
            raise IndexError(i)
        s = self._array[i + self._count if i < 0 else i]
        return _segment(s.lo, s.hi)

    def __iter__(self) -> Iterator[Segment]:
        """Yield each Segment."""
        for i in range(self._count):
            s = self._array[i]
            yield _segment(s.lo, s.hi)


def _segment(lo: int, hi: int) -> Segment:
    return Segment(
        lo & (1 << 50) - 1,
        lo >> 50,
        hi & (1 << 55) - 1,
        bool(hi >> 55 & 1),
        hi >> 56,
    )


def merge(layers: Sequence[Segments]) -> Segments:
    """Fold the indexes of a stack, bottom first, into one.

    The newest layer that maps a sector wins, and its number becomes the
    segment's layer. Zeroed entries are kept. O(N log k).
    """
    arrays = ffi.new("struct obd_segment *[]", [s._array for s in layers])
    counts = ffi.new("size_t[]", [len(s) for s in layers])
    out, n = ffi.new("struct obd_segment **"), ffi.new("size_t *")
    status = lib.obd_merge(arrays, counts, len(layers), out, n)
    check(status, new_fault(), "merge")
    return Segments(ffi.gc(out[0], lib.free, n[0] * ENTRY_SIZE), n[0])


class SegMap:
    """Which segment covers a sector; copies the segments."""

    def __init__(self, segments: Segments) -> None:
        """Build the look-up structure over segments in order, below 2^50."""
        pointer = lib.obd_segmap_new(segments._array, len(segments))
        pointer = made(pointer, "a look-up map")
        size = lib.obd_segmap_memory(pointer)
        self._c = ffi.gc(pointer, lib.obd_segmap_free, size)
        self.segments = segments
        self.memory = int(size)

    def __len__(self) -> int:
        """Return how many segments there are."""
        return int(self._c.n)

    def find(self, sector: int) -> int:
        """Return the number of the first segment that ends after sector."""
        return int(lib.obd_segmap_search(self._c, sector))
