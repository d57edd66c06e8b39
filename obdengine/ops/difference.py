# SPDX-License-Identifier: Apache-2.0
"""
difference - what a layer must hold so that base and layer read as a disk.

The disk is compared granule by granule (4096 bytes, aligned):

  without a base   zero: nothing, else: data
  with one         as the base: nothing, zero: a zeroed entry, else: data

What comes out depends on the bytes of disk and base alone, never on where
either has holes. Nothing is written here but into a LayerWriter.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator

from obdengine import _core
from obdengine.blob import Progress
from obdengine.layer import LayerWriter
from obdengine.layer.writer import MAX_RUN
from obdengine.ops.disks import Base, Disk
from obdengine.units import MIB, SECTOR, round_up

__all__ = ["Budget", "write_difference"]

# 1 MiB at a time: as much as is compressed as one batch.
_CHUNK = MIB

_SMALLEST = 4096
_STEPS = 7  # 4 KiB, 16 KiB, ... 16 MiB

_DATA, _ZERO = b"\1", b"\2"
_RUN = re.compile(b"\1+|\2+")
_STORED_UNLESS_ZERO = bytes.maketrans(b"\0\1", b"\1\0")


class Budget:
    """How coarse the comparison must be for the index not to get too long.

    Half of the entries go to granules of 4 KiB, a quarter to 16 KiB, an eighth
    to 64 KiB, and so on up to 16 MiB; with the last 128th all that comes is
    stored. Entries for a disk that is all data are kept back from the start.
    It depends on the entries used, so on content alone.
    """

    def __init__(self, layer: LayerWriter, size: int) -> None:
        """Watch over layer, for a disk of size bytes."""
        solid = round_up(size, MAX_RUN * SECTOR) // (MAX_RUN * SECTOR)
        self._layer = layer
        self._entries = layer.limit - min(solid, layer.limit // 2)

    def granule(self) -> int | None:
        """Return the granule in bytes; None: store everything from now on."""
        for step in range(_STEPS):
            granule = _SMALLEST << 2 * step
            # What one chunk can take at the most must still be there.
            most = self._layer.entries + max(1, _CHUNK // granule)
            if most <= self._entries - (self._entries >> step + 1):
                return granule
        return None


class _Ranges:
    """Where anything can be found at all: ranges in order of their starts."""

    def __init__(self, ranges: Iterable[tuple[int, int]], size: int) -> None:
        self._ranges = iter(ranges)
        self._size = size
        self._start = self._end = 0

    def first(self, offset: int) -> int:
        """Return the first byte at or after offset in a range, or the size."""
        while self._end <= offset:
            self._start, self._end = next(self._ranges, (self._size, self._size))
            if self._start >= self._size:
                return self._size
        return max(offset, self._start)


def write_difference(
    disk: Disk,
    base: Base | None,
    layer: LayerWriter,
    progress: Progress | None = None,
) -> None:
    """Give layer all that disk has and base has not; finishing it is left.

    Memory does not grow with the disk. Raises what reading disk and base and
    writing layer raise.
    """
    comparison = _Comparison(disk, base)
    for offset, granule, step in _chunks(disk, base, Budget(layer, disk.size)):
        data, kinds = comparison.chunk(offset, step, granule)
        for run in _RUN.finditer(kinds):
            start = run.start() * (granule or step)
            end = min(run.end() * (granule or step), len(data))
            first = (offset + start) // SECTOR
            if kinds[run.start()] == _DATA[0]:
                layer.data(first, data[start:end])
            else:
                layer.zero(first, (end - start) // SECTOR)
        if progress:
            progress(offset + len(data), disk.size)
    if progress:
        progress(disk.size, disk.size)


def _chunks(
    disk: Disk, base: Base | None, budget: Budget
) -> Iterator[tuple[int, int | None, int]]:
    """Yield (offset, granule, size) of what must be compared, all in bytes.

    Holes are passed over in whole steps, so that what follows one is cut as
    it would be after zeros.
    """
    found = [disk.ranges(), base.ranges()] if base else [disk.ranges()]
    ranges = _Ranges(heapq.merge(*found), disk.size)
    offset = 0
    while offset < disk.size:
        wanted = budget.granule()
        granule = wanted or _CHUNK
        while offset % granule:
            granule >>= 2
        step = max(granule, _CHUNK)
        nearest = ranges.first(offset) if wanted else offset
        if nearest < offset + step:
            yield offset, granule if wanted else None, step
            offset += step
        elif granule == wanted:
            offset = nearest // step * step
        else:
            offset += step


class _Comparison:
    """The buffers into which disk and base are read, used again and again."""

    def __init__(self, disk: Disk, base: Base | None) -> None:
        self._disk = disk
        self._base = base
        self._mine = self._other = memoryview(b"")

    def chunk(
        self, offset: int, step: int, granule: int | None
    ) -> tuple[memoryview, bytes]:
        """Return the bytes at offset, and a kind for each granule of them."""
        if len(self._mine) < step:
            self._mine = memoryview(bytearray(step))
            self._other = memoryview(bytearray(step if self._base else 0))
        size = min(step, self._disk.size - offset)
        mine = self._mine[:size]
        self._disk.pread_into(offset, mine)
        if granule is None:
            return mine, _DATA
        zero = _core.zero_granules(mine, granule)
        if self._base is None:
            return mine, zero.translate(_STORED_UNLESS_ZERO)
        other = self._other[:size]
        self._base.pread_into(offset, other)
        same = _core.same_granules(mine, other, granule)
        if self._base.is_hidden(offset, size):
            same = bytes(
                is_same and not self._base.is_hidden(offset + n * granule, granule)
                for n, is_same in enumerate(same)
            )
        return mine, _kinds(zero, same)


def _kinds(zero: bytes, same: bytes) -> bytes:
    if all(same):
        return b""
    return bytes(
        0 if is_same else 1 + is_zero
        for is_zero, is_same in zip(zero, same, strict=True)
    )
