# SPDX-License-Identifier: Apache-2.0
"""
convert - a disk into a layer, and a stack into a raw disk.

    disk -> difference -> LayerWriter -> ZWriter (threads) -> file

The same content and options give the same bytes, however many threads work
and wherever the source has holes. The result appears when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from obdengine import _core
from obdengine.blob import (
    BlockTooLarge,
    PlainWriter,
    Progress,
    StreamWriter,
    ZWriter,
    tar,
)
from obdengine.blob.pool import cpus, ordered_map
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.layer import LayerWriter, Totals
from obdengine.ops.difference import write_difference
from obdengine.ops.disks import STREAM, Disk, RawDisk, StackDisk
from obdengine.source.output import DeviceOutput, Output, open_output
from obdengine.units import KIB, MIB

__all__ = ["to_layer", "to_raw", "LayerOptions", "Written"]

# A block of 64 KiB that does not compress takes more than the readers of the
# format have room for; one of 32 KiB never does.
_SAFE_BLOCK_SIZE = 32 * KIB

_COPY = 4 * MIB  # bytes of a disk that to_raw() hands to a thread at once
_GRANULE = 4096


@dataclass(frozen=True)
class LayerOptions:
    """How a layer is written.

    Attributes:
        codec: "lz4", "zstd" or None for a plain layer.
        level: of the codec; None for its usual one (lz4: 1, zstd: 3).
        block_size: bytes compressed as one block, a power of two, 4 to 64 KiB.
        threads: that compress; they have no influence on the result.
        tar: put the layer into the wrapper that registries need.
        uuid: of the layer; None for all zeros.
        parent_uuid: of the layer below; None for that of the base's top.
        message: at most 255 bytes of UTF-8.
        verify: put a crc behind each block.
    """

    codec: str | None = "lz4"
    level: int | None = None
    block_size: int = 4096
    threads: int = field(default_factory=cpus)
    tar: bool = False
    uuid: str | None = None
    parent_uuid: str | None = None
    message: str = ""
    verify: bool = True


@dataclass(frozen=True)
class Written:
    """The layer that was written.

    Attributes:
        path: as it was asked for; "-" for standard output.
        size: bytes of the file.
        digest: "sha256:" and the hash of the file in hexadecimal.
        virtual_size: bytes of the disk.
        entries: of the index, without padding.
        data_size: bytes of the disk that the layer has data for.
        zero_size: bytes that it says are zero.
        block_size: as used, None for a plain layer. It is less than asked for
            when 64 KiB were too much for data that does not compress.
    """

    path: str
    size: int
    digest: str
    virtual_size: int
    entries: int
    data_size: int
    zero_size: int
    block_size: int | None


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
        options = replace(options, parent_uuid=base.layers[-1].uuid)
    below = StackDisk(base) if base else None
    with ExitStack() as opened:
        if isinstance(src, (str, os.PathLike)):
            src = opened.enter_context(RawDisk(src))
        disk = StackDisk(src) if isinstance(src, Device) else src
        if not disk.size:
            # A layer of no size takes that of the layer below.
            raise UsageError(f"{disk.name}: the disk is empty")
        if os.fspath(dst) == STREAM:
            return _to_stream(disk, below, options, progress)
        return _to_file(disk, dst, below, options, progress)


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


def _to_stream(
    disk: Disk, base: Disk | None, options: LayerOptions, progress: Progress | None
) -> Written:
    """Write a layer to standard output, by way of a file: its head comes last."""
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        path = Path(folder) / "layer"
        written = _to_file(disk, path, base, options, progress)
        with path.open("rb") as layer:
            shutil.copyfileobj(layer, sys.stdout.buffer, MIB)
        sys.stdout.buffer.flush()
    return replace(written, path=STREAM)


def _to_file(
    disk: Disk,
    dst: str | os.PathLike[str],
    base: Disk | None,
    options: LayerOptions,
    progress: Progress | None,
) -> Written:
    try:
        return _write(disk, dst, base, options, progress)
    except BlockTooLarge:
        # Where in the disk it happened does not matter: the whole layer gets
        # the smaller blocks, so that the result depends on content alone.
        smaller = replace(options, block_size=_SAFE_BLOCK_SIZE)
        return _write(disk, dst, base, smaller, progress)


def _write(
    disk: Disk,
    dst: str | os.PathLike[str],
    base: Disk | None,
    options: LayerOptions,
    progress: Progress | None,
) -> Written:
    with Output(dst) as out:
        head = tar.HEAD_SIZE if options.tar else 0
        out.append(bytes(head))
        with closing(_stream_writer(out, options)) as stream:
            totals = _write_layer(disk, base, options, stream, progress)
        if options.tar:
            size = out.position - head
            out.append(tar.tail(size))
            out.patch(0, tar.head(size))
        written = _facts(disk, out, options, totals)
        out.commit()
    return written


def _stream_writer(out: Output, options: LayerOptions) -> StreamWriter:
    if options.codec is None:
        return PlainWriter(out)
    return ZWriter(
        out,
        codec=options.codec,
        level=options.level,
        block_size=options.block_size,
        threads=options.threads,
        verify=options.verify,
    )


def _write_layer(
    disk: Disk,
    base: Disk | None,
    options: LayerOptions,
    stream: StreamWriter,
    progress: Progress | None,
) -> Totals:
    layer = LayerWriter(
        stream,
        virtual_size=disk.size,
        uuid=options.uuid,
        parent_uuid=options.parent_uuid,
        message=options.message,
    )
    write_difference(disk, base, layer, progress)
    return layer.finish()


def _facts(disk: Disk, out: Output, options: LayerOptions, totals: Totals) -> Written:
    return Written(
        path=out.name,
        size=out.position,
        digest=f"sha256:{_sha256(out)}",
        virtual_size=disk.size,
        entries=totals.entries,
        data_size=totals.data_size,
        zero_size=totals.zero_size,
        block_size=options.block_size if options.codec else None,
    )


def _sha256(out: Output) -> str:
    """Return the hash of the file; it is read again, as its head came last."""
    digest, offset = hashlib.sha256(), 0
    while data := out.pread(offset, MIB):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


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
