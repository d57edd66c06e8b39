# SPDX-License-Identifier: Apache-2.0
"""
layer_file - one layer on its way into a file, which appears when it is whole.

    LayerWriter -> ZWriter (threads) or PlainWriter -> tar wrapper -> file

The same content and options give the same bytes, however many threads work.
What the content is, is the caller's to say.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from obdengine.blob import BlockTooLarge, PlainWriter, StreamWriter, ZWriter, tar
from obdengine.blob.pool import cpus
from obdengine.layer import LayerWriter, Totals
from obdengine.ops.disks import STREAM
from obdengine.source.output import Output
from obdengine.units import KIB, MIB

__all__ = ["write_layer", "LayerOptions", "Written"]

# A block of 64 KiB that does not compress takes more than the readers of the
# format have room for; one of 32 KiB never does.
_SAFE_BLOCK_SIZE = 32 * KIB

# Gives a LayerWriter everything but the end.
_Fill = Callable[[LayerWriter], None]


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
        uuid: of the layer, or None for all zeros.
        parent_uuid: likewise, of the layer below.
    """

    path: str
    size: int
    digest: str
    virtual_size: int
    entries: int
    data_size: int
    zero_size: int
    block_size: int | None
    uuid: str | None = None
    parent_uuid: str | None = None


def write_layer(
    dst: str | os.PathLike[str],
    virtual_size: int,
    fill: _Fill,
    options: LayerOptions,
) -> Written:
    """Write a layer of virtual_size bytes to dst, "-" for standard output.

    fill may be called twice, and must do the same again. Raises UsageError for
    options that make no sense, and what fill and writing raise; dst is
    untouched then.
    """
    if os.fspath(dst) == STREAM:
        return _to_stream(virtual_size, fill, options)
    try:
        return _write(dst, virtual_size, fill, options)
    except BlockTooLarge:
        # Where in the disk it happened does not matter: the whole layer gets
        # the smaller blocks, so that the result depends on content alone.
        smaller = replace(options, block_size=_SAFE_BLOCK_SIZE)
        return _write(dst, virtual_size, fill, smaller)


def _to_stream(virtual_size: int, fill: _Fill, options: LayerOptions) -> Written:
    """Write a layer to standard output, by way of a file: its head comes last."""
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        path = Path(folder) / "layer"
        written = write_layer(path, virtual_size, fill, options)
        with path.open("rb") as layer:
            shutil.copyfileobj(layer, sys.stdout.buffer, MIB)
        sys.stdout.buffer.flush()
    return replace(written, path=STREAM)


def _write(
    dst: str | os.PathLike[str],
    virtual_size: int,
    fill: _Fill,
    options: LayerOptions,
) -> Written:
    with Output(dst) as out:
        head = tar.HEAD_SIZE if options.tar else 0
        out.append(bytes(head))
        # Of what is written front to back, the hash is known at the end.
        hasher = None if options.tar or options.codec else hashlib.sha256()
        with closing(_stream_writer(out, options, hasher)) as stream:
            layer = LayerWriter(
                stream,
                virtual_size=virtual_size,
                uuid=options.uuid,
                parent_uuid=options.parent_uuid,
                message=options.message,
            )
            fill(layer)
            totals = layer.finish()
        if options.tar:
            size = out.position - head
            out.append(tar.tail(size))
            out.patch(0, tar.head(size))
        digest = hasher.hexdigest() if hasher else _sha256(out)
        written = _facts(out, virtual_size, options, totals, digest)
        out.commit()
    return written


def _stream_writer(
    out: Output, options: LayerOptions, hasher: hashlib._Hash | None
) -> StreamWriter:
    if options.codec is None:
        return PlainWriter(out, hasher.update if hasher else None)
    return ZWriter(
        out,
        codec=options.codec,
        level=options.level,
        block_size=options.block_size,
        threads=options.threads,
        verify=options.verify,
    )


def _facts(
    out: Output,
    virtual_size: int,
    options: LayerOptions,
    totals: Totals,
    digest: str,
) -> Written:
    return Written(
        path=out.name,
        size=out.position,
        digest=f"sha256:{digest}",
        virtual_size=virtual_size,
        entries=totals.entries,
        data_size=totals.data_size,
        zero_size=totals.zero_size,
        block_size=options.block_size if options.codec else None,
        uuid=options.uuid,
        parent_uuid=options.parent_uuid,
    )


def _sha256(out: Output) -> str:
    """Return the hash of the file; it is read again, as its head came last."""
    digest, offset = hashlib.sha256(), 0
    while data := out.pread(offset, MIB):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
