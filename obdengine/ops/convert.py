# SPDX-License-Identifier: Apache-2.0
"""
convert - a disk into a layer, and a stack into a raw disk.

    disk -> difference -> layer_file

The same content and options give the same bytes, however many threads work
and wherever the source has holes. The result appears when it is whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from obdengine import _core
from obdengine.blob import Progress
from obdengine.blob.pool import cpus, ordered_map
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.difference import write_difference
from obdengine.ops.disks import STREAM, BaseDisk, RawDisk, StackDisk
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.source.output import DeviceOutput, Output, open_output
from obdengine.units import MIB

__all__ = ["to_layer", "to_raw"]

_COPY = 4 * MIB  # bytes of a disk that to_raw() hands to a thread at once
_GRANULE = 4096


def to_layer(
    src: RawDisk | Device | str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    base: Device | None = None,
    options: LayerOptions | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write src as one layer to dst, "-" for standard output.

    src: a raw disk (or its path), or a stack, which is flattened. base: leave
    out what reads the same there. Memory does not grow with the disk.
    Raises LimitError when the layer would need more index entries than can be
    read, UsageError for options that make no sense, and what reading src and
    base and writing dst raise; dst is untouched then.
    """
    options = options or LayerOptions()
    if base and options.parent_uuid is None:
        top = base.upper or base.layers[-1]
        options = replace(options, parent_uuid=top.uuid)
    with ExitStack() as opened:
        if isinstance(src, (str, os.PathLike)):
            src = opened.enter_context(RawDisk(src))
        disk = StackDisk(src) if isinstance(src, Device) else src
        if not disk.size:
            # A layer of no size takes that of the layer below.
            raise UsageError(f"{disk.name}: the disk is empty")
        below = BaseDisk(base, disk.size) if base else None
        return write_layer(
            dst,
            disk.size,
            lambda layer: write_difference(disk, below, layer, progress),
            options,
        )


def to_raw(
    device: Device,
    dst: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write all of device to dst: a sparse file, a block device, or "-".

    A file appears when it is whole; a block device must be large enough.
    Raises what reading device and writing dst raise.
    """
    threads = threads or cpus()
    if os.fspath(dst) == STREAM:
        _raw_to_stream(device, threads, progress)
        return
    with open_output(dst) as out:
        out.resize(device.size)
        _raw_to_file(device, out, threads, progress)
        out.commit()


def _raw_to_stream(device: Device, threads: int, progress: Progress | None) -> None:
    pieces = _pieces([(0, device.size)])
    ends = (min(end, device.size) for end in range(_COPY, device.size + _COPY, _COPY))
    read = ordered_map(lambda piece: device.pread(*piece), pieces, threads)
    for data, end in zip(read, ends, strict=True):
        sys.stdout.buffer.write(data)
        if progress:
            progress(end, device.size)
    sys.stdout.buffer.flush()


def _raw_to_file(
    device: Device,
    out: Output | DeviceOutput,
    threads: int,
    progress: Progress | None,
) -> None:
    def copy(piece: tuple[int, int]) -> int:
        offset, size = piece
        data = memoryview(bytearray(size))
        device.pread_into(offset, data)
        for start, end in _stored(data) if out.sparse else [(0, size)]:
            out.patch(offset + start, data[start:end])
        return offset + size

    ranges = StackDisk(device).ranges() if out.sparse else iter([(0, device.size)])
    for end in ordered_map(copy, _pieces(ranges), threads):
        if progress:
            progress(end, device.size)
    if progress:
        progress(device.size, device.size)


def _pieces(
    ranges: Iterator[tuple[int, int]] | list[tuple[int, int]],
) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of ranges cut into pieces for a thread."""
    for start, end in ranges:
        for offset in range(start, end, _COPY):
            yield offset, min(_COPY, end - offset)


def _stored(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of granules in data that are not zero."""
    zero = _core.zero_granules(data, _GRANULE)
    start = zero.find(0)
    while start >= 0:
        end = zero.find(1, start)
        end = end if end >= 0 else len(zero)
        yield start * _GRANULE, min(end * _GRANULE, len(data))
        start = zero.find(0, end)
