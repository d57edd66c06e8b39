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
from contextlib import closing
from functools import partial
from typing import NamedTuple

from obdengine import _core
from obdengine.blob import Progress
from obdengine.blob.pool import cpus, ordered_map
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


class _Chunk(NamedTuple):
    """What was compared.

    Attributes:
        offset: bytes, from the start of the disk.
        unit: bytes that each kind is of; the last may be fewer.
        data: of the disk.
        kinds: nothing, data or zeros, for each unit.
        room: that data is in.
    """

    offset: int
    unit: int
    data: memoryview
    kinds: bytes
    room: _Room


def write_difference(
    disk: Disk,
    base: Base | None,
    layer: LayerWriter,
    progress: Progress | None = None,
) -> None:
    """Give layer all that disk has and base has not; finishing it is left.

    Both are read by several threads, somewhat ahead. Memory does not grow with
    the disk. Raises what reading disk and base and writing layer raise.
    """
    comparison = _Comparison(disk, base)
    for chunk in comparison.chunks(Budget(layer, disk.size)):
        for run in _RUN.finditer(chunk.kinds):
            start = run.start() * chunk.unit
            end = min(run.end() * chunk.unit, len(chunk.data))
            first = (chunk.offset + start) // SECTOR
            if chunk.kinds[run.start()] == _DATA[0]:
                layer.data(first, chunk.data[start:end])
            else:
                layer.zero(first, (end - start) // SECTOR)
        if progress:
            progress(chunk.offset + len(chunk.data), disk.size)
        comparison.give_back(chunk)
    if progress:
        progress(disk.size, disk.size)


# Buffers for a chunk of the disk and one of the base.
_Room = tuple[memoryview, memoryview]


class _Comparison:
    """Reads disk and base, and tells where they differ."""

    def __init__(self, disk: Disk, base: Base | None) -> None:
        self._disk = disk
        self._base = base
        self._spare: list[_Room] = []

    def give_back(self, chunk: _Chunk) -> None:
        """Use the memory of a chunk again."""
        self._spare.append(chunk.room)

    def chunks(self, budget: Budget) -> Iterator[_Chunk]:
        """Yield all that may differ, in order.

        As long as the budget lets the finest granule be, which it does for all
        but a few disks, it is known ahead what comes next.
        """
        offset = 0
        finest = partial(self._chunk, step=_CHUNK, granule=_SMALLEST)
        with closing(ordered_map(finest, self._places(), cpus())) as ahead:
            while budget.granule() == _SMALLEST and (chunk := next(ahead, None)):
                yield chunk
                offset = chunk.offset + _CHUNK
        for place, granule, step in self._rest(offset, budget):
            yield self._chunk(place, step, granule)

    def _ranges(self) -> _Ranges:
        found = [self._disk.ranges()]
        if self._base:
            found.append(self._base.ranges())
        return _Ranges(heapq.merge(*found), self._disk.size)

    def _places(self) -> Iterator[int]:
        """Yield the offset of every chunk that has a part of a range."""
        ranges, offset = self._ranges(), 0
        while (nearest := ranges.first(offset)) < self._disk.size:
            offset = nearest // _CHUNK * _CHUNK
            yield offset
            offset += _CHUNK

    def _rest(
        self, offset: int, budget: Budget
    ) -> Iterator[tuple[int, int | None, int]]:
        """Yield (offset, granule, size) of what is to be compared from offset on.

        Holes are passed over in whole steps, so that what follows one is cut as
        it would be after zeros.
        """
        ranges = self._ranges()
        while offset < self._disk.size:
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

    def _chunk(self, offset: int, step: int, granule: int | None) -> _Chunk:
        """Compare step bytes at offset, granule by granule; None: all is data."""
        room = self._spare.pop() if self._spare else self._new_room(step)
        if len(room[0]) < step:
            room = self._new_room(step)
        size = min(step, self._disk.size - offset)
        mine = room[0][:size]
        self._disk.pread_into(offset, mine)
        if granule is None:
            return _Chunk(offset, step, mine, _DATA, room)
        if self._base:
            kinds = self._compare(self._base, offset, mine, room[1][:size], granule)
        else:
            zero = _core.zero_granules(mine, granule)
            kinds = zero.translate(_STORED_UNLESS_ZERO)
        return _Chunk(offset, granule, mine, kinds, room)

    def _compare(
        self, base: Base, offset: int, mine: memoryview, other: memoryview, granule: int
    ) -> bytes:
        base.pread_into(offset, other)
        same = _core.same_granules(mine, other, granule)
        if base.is_hidden(offset, len(mine)):
            same = bytes(
                is_same and not base.is_hidden(offset + n * granule, granule)
                for n, is_same in enumerate(same)
            )
        return _kinds(_core.zero_granules(mine, granule), same)

    def _new_room(self, step: int) -> _Room:
        other = bytearray(step if self._base else 0)
        return memoryview(bytearray(step)), memoryview(other)


def _kinds(zero: bytes, same: bytes) -> bytes:
    if all(same):
        return b""
    return bytes(
        0 if is_same else 1 + is_zero
        for is_zero, is_same in zip(zero, same, strict=True)
    )
