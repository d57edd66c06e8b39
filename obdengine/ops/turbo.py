# SPDX-License-Identifier: Apache-2.0
"""
turbo - one TurboOCI layer: the metadata of a file system, its data in the tar.

    original layer -> indexed, unpacked -> applied, data of files left out
    upper's metadata + where the data is in the tar -> fs.meta

The original layer stays as it is. Where its tar does not have what a block of
the file system must have, as in the last sector of a file in an odd tar, the
sector is stored. How an image is made of layers is none of its business.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from obdengine import ext4
from obdengine.blob import Target, open_target
from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.layer import LayerWriter
from obdengine.ops.contents import contents
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.ops.layers import open_layers
from obdengine.source import FileSource
from obdengine.units import SECTOR, round_up

__all__ = ["TurboLayer", "write_turbo"]

# Blocks of the file system: what is behind the end of a file reads as zeros.
_BLOCK = 4096


class _Run(NamedTuple):
    """Sectors of the disk: those of the target from sector, or bytes, or zeros."""

    start: int
    length: int
    sector: int | None
    data: bytes | memoryview | None = None

    @property
    def end(self) -> int:
        return self.start + self.length

    def part(self, start: int, end: int) -> _Run:
        """Return the sectors from start to end."""
        skip, data = start - self.start, self.data
        if data is not None:
            data = data[skip * SECTOR : (end - self.start) * SECTOR]
        sector = None if self.sector is None else self.sector + skip
        return _Run(start, end - start, sector, data)


@dataclass(frozen=True)
class TurboLayer:
    """What a layer is made of.

    Attributes:
        upper: the sealed file with what was written to the disk.
        below: the layers that it is on.
        mapped: data that was left in the tar, as ext4 tells it.
        target: the original layer.
        index: the index over it, None for a tar as it is.
    """

    upper: Path
    below: Sequence[LayerFile]
    mapped: Sequence[ext4.Mapped]
    target: Path
    index: Path | None


def write_turbo(
    layer: TurboLayer, dst: Path, size: int, options: LayerOptions
) -> Written:
    """Write the layer's fs.meta to dst; size is of the disk, in bytes.

    Raises LimitError for more index entries than can be read, and what reading
    and writing raise; dst is untouched then.
    """
    with ExitStack() as opened:
        index = FileSource(layer.index) if layer.index else None
        target = open_target(FileSource(layer.target), index)
        opened.callback(target.close)
        upper = LayerFile(layer.upper)
        alone = opened.enter_context(
            Device(open_layers([upper], opened), str(layer.upper))
        )
        below, whole = None, alone
        if layer.below:
            lowers = open_layers(layer.below, opened)
            below = opened.enter_context(Device(lowers, str(dst), size=size))
            parts = open_layers([*layer.below, upper], opened)
            whole = opened.enter_context(Device(parts, str(dst)))
        runs = _latest(_runs(layer.mapped, target, below))
        lost, runs = _settle(alone, whole, runs)

        def fill(writer: LayerWriter) -> None:
            pieces = _without(_pieces(alone, bool(below)), lost)
            for run in heapq.merge(pieces, runs, key=lambda run: run.start):
                _write(writer, run)

        return write_layer(dst, size, fill, options)


def _write(writer: LayerWriter, run: _Run) -> None:
    if run.sector is not None:
        writer.target(run.start, run.length, run.sector)
    elif run.data is not None:
        writer.data(run.start, run.data)
    else:
        writer.zero(run.start, run.length)


def _pieces(alone: Device, zeros: bool) -> Iterator[_Run]:
    """Yield what the upper has; zeros only where they may hide something."""
    for piece in contents(alone):
        if piece.data is not None or zeros:
            yield _Run(piece.start, piece.length, None, piece.data)


# -- From files to sectors


def _runs(
    mapped: Iterable[ext4.Mapped], target: Target, below: Device | None
) -> Iterator[_Run]:
    """Yield the sectors of mapped, in the order of the tar."""
    for offset, tar, size in mapped:
        start, whole, odd = offset // SECTOR, size // SECTOR, size % SECTOR
        tail = b""
        if odd:
            at = tar + whole * SECTOR
            tail = target.pread(at, min(SECTOR, target.size - at))
        if len(tail) == SECTOR and not any(tail[odd:]):
            whole, tail = whole + 1, b""
        if whole:
            yield _Run(start, whole, tar // SECTOR)
        if tail:
            yield _Run(start + whole, 1, None, tail[:odd].ljust(SECTOR, b"\0"))
        end = start + whole + bool(tail)
        rest = round_up(offset + size, _BLOCK) // SECTOR - end
        if rest and below and _has(below, end, rest):
            yield _Run(end, rest, None)


def _has(below: Device, start: int, length: int) -> bool:
    """Tell whether anything is stored in these sectors."""
    extents = below.extents(start * SECTOR, length * SECTOR)
    return any(extent.data for extent in extents)


def _latest(runs: Iterable[_Run]) -> list[_Run]:
    """Return runs in the disk's order; where some overlap, the last given counts.

    They do where a member of the tar takes the place of another one.
    """
    numbered = sorted(enumerate(runs), key=lambda pair: pair[1].start)
    found: list[_Run] = []
    waiting: list[tuple[int, _Run]] = []  # a heap, the last given on top
    position = 0
    for number, run in [*numbered, (-1, _Run(1 << 62, 0, None))]:
        while waiting and position < run.start:
            top = waiting[0][1]
            if top.end <= position:
                heapq.heappop(waiting)
                continue
            first = max(top.start, position)
            position = min(top.end, run.start)
            found.append(top.part(first, position))
        position = run.start
        heapq.heappush(waiting, (-number, run))
    return found


# -- Blocks that had more than one use while the tar was applied


def _settle(
    alone: Device, whole: Device, runs: list[_Run]
) -> tuple[list[tuple[int, int]], list[_Run]]:
    """Decide where the upper and runs overlap: files have what is theirs.

    Return the sectors (start, end) where the upper's data does not count, and
    the runs without those sectors where they do not.
    """
    both = list(_overlaps(alone, runs))
    if not both:
        return [], runs
    owned = _file_blocks(whole)
    lost: list[tuple[int, int]] = []
    kept: list[tuple[int, int]] = []
    for start, end in both:
        for low in range(start, end):
            (lost if _inside(owned, low) else kept).append((low, low + 1))
    return lost, list(_without(runs, kept))


def _overlaps(alone: Device, runs: Sequence[_Run]) -> Iterator[tuple[int, int]]:
    starts = [run.start for run in runs]
    for extent in alone.extents():
        if extent.layer is None:
            continue
        start, end = extent.offset // SECTOR, extent.end // SECTOR
        number = max(bisect_right(starts, start) - 1, 0)
        while number < len(runs) and runs[number].start < end:
            low, high = max(start, runs[number].start), min(end, runs[number].end)
            if low < high:
                yield low, high
            number += 1


def _file_blocks(whole: Device) -> list[tuple[int, int]]:
    """Return the sectors (start, end) that regular files have, in order."""
    found = []
    with ext4.open_file_system(whole, readonly=True) as volume:
        for entry in volume.walk():
            if entry.mode & 0o170000 == 0o100000:
                for run in volume.file_extents(entry.path):
                    end = round_up(run.device_offset + run.length, _BLOCK)
                    found.append((run.device_offset // SECTOR, end // SECTOR))
    return sorted(found)


def _inside(ranges: Sequence[tuple[int, int]], sector: int) -> bool:
    number = bisect_right(ranges, (sector, 1 << 62)) - 1
    return number >= 0 and sector < ranges[number][1]


def _without(runs: Iterable[_Run], holes: Sequence[tuple[int, int]]) -> Iterator[_Run]:
    """Yield runs without the sectors of holes; both are in order."""
    for run in runs:
        position = run.start
        number = max(bisect_right(holes, (run.start, 1 << 62)) - 1, 0)
        while number < len(holes) and holes[number][0] < run.end:
            start, end = holes[number]
            if position < start:
                yield run.part(position, start)
            position = max(position, end)
            number += 1
        if position < run.end:
            yield run.part(position, run.end)
