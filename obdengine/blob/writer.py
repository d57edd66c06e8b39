# SPDX-License-Identifier: Apache-2.0
"""
writer - the bytes of a layer's stream on their way into a file.

PlainWriter stores them as they are, ZWriter as a ZFile; both have write(),
finish() and close(). What comes out depends on what goes in and on the
options, never on how write() calls cut it or on the number of threads.
The tar wrapper is tar.head() before and tar.tail() after.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from typing import Protocol

from obdengine import _core
from obdengine.blob import format, zfile
from obdengine.blob.batches import Batch, Batches
from obdengine.errors import LimitError, UsageError
from obdengine.source.output import Output
from obdengine.units import KIB, MIB

__all__ = ["DEFAULT_LEVELS", "BlockTooLarge", "PlainWriter", "StreamWriter", "ZWriter"]

# The table takes 4 bytes a block, 1 GiB for a disk of 1 TiB: it is kept in
# memory up to here and in a file behind.
_TABLE_IN_MEMORY = 4 * MIB

# overlaybd reads a stored block into a buffer of this size.
_MAX_STORED = 64 * KIB

DEFAULT_LEVELS = {"lz4": 1, "zstd": 3}
_LEVELS = {"lz4": range(1, 13), "zstd": range(1, 23)}


class BlockTooLarge(LimitError):
    """A block grew under compression beyond what overlaybd can read."""


class StreamWriter(Protocol):
    """What takes the stream of a layer, front to back."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add data to the stream; the caller may change it afterwards."""

    def finish(self) -> None:
        """Write what belongs behind the stream. Nothing may follow."""

    def close(self) -> None:
        """Stop all work; a writer that was not finished leaves a broken file."""


class PlainWriter:
    """A stream stored as it is."""

    def __init__(
        self, out: Output, sees: Callable[[memoryview], None] | None = None
    ) -> None:
        """Write to out, from where it stands.

        sees: called with all of the stream in order, on a thread of its own.
        """
        self._out = out
        self._sees = sees
        self._batches = Batches(self._look, self._store, threads=1)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add data to the stream; raises SourceError when the disk refuses."""
        self._batches.write(data)

    def finish(self) -> None:
        """Write the rest: a plain stream has no end mark of its own."""
        self._batches.finish()
        self.close()

    def close(self) -> None:
        """Drop what is not written yet and end the threads."""
        self._batches.close()

    def _look(self, batch: Batch) -> None:
        if self._sees:
            self._sees(batch.data)

    def _store(self, batch: Batch) -> None:
        self._out.append(batch.data)


class ZWriter:
    """A stream stored as a ZFile, compressed on threads, written in order."""

    def __init__(
        self,
        out: Output,
        *,
        codec: str,
        level: int | None = None,
        block_size: int = 4096,
        threads: int = 1,
        verify: bool = True,
        rewrite_header: bool = True,
    ) -> None:
        """Write to out, from where it stands.

        rewrite_header: put the final values in the header too, which spares
        readers of a remote blob one request.
        Raises UsageError when an option is out of its range.
        """
        _judge_options(codec, level, block_size)
        self._out = out
        self._start = out.position
        self._rewrite = rewrite_header
        self._values = format.ZHeader(
            flags=format.HEADER | format.DATA | format.DIGEST,
            block_size=block_size,
            algo=format.CODECS[codec],
            verify=int(verify),
        )
        self._level = DEFAULT_LEVELS[codec] if level is None else level
        self._size = 0
        self._table = _Table(out)
        out.append(_sealed(self._values))
        self._batches = Batches(self._encode, self._store, max(1, threads))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add data to the stream; it may wait for the compression of what was before.

        Raises BlockTooLarge, SourceError when the disk refuses.
        """
        self._size += len(data)
        self._batches.write(data)

    def finish(self) -> None:
        """Write the rest, the table and the trailer; raises as write() does."""
        self._batches.finish()
        final = self._values._replace(
            flags=format.DATA | format.SEALED | format.DIGEST,
            index_offset=self._out.position - self._start,
            index_size=self._table.entries,
            original_size=self._size,
            index_crc=self._table.crc,
        )
        self._table.copy_to(self._out)
        self._out.append(_sealed(final))
        if self._rewrite:
            flags = self._values.flags | format.HEADER_REWRITTEN
            self._out.patch(self._start, _sealed(final._replace(flags=flags)))
        self.close()

    def close(self) -> None:
        """Drop what is not compressed yet and end the threads."""
        self._batches.close()
        self._table.close()

    def _encode(self, batch: Batch) -> None:
        """Compress one batch, on a thread of the pool."""
        stored, batch.lengths = _core.encode_blocks(
            batch.data,
            algo=self._values.algo,
            level=self._level,
            block_size=self._values.block_size,
            verify=bool(self._values.verify),
            room=batch.made,
        )
        batch.stored = len(stored)

    def _store(self, batch: Batch) -> None:
        """Write one batch behind those before it, on the thread for that."""
        longest = max(batch.lengths)
        if longest > _MAX_STORED:
            raise BlockTooLarge(
                f"{self._out.name}: a block of {self._values.block_size} bytes takes "
                f"{longest}, and readers of the format have room for {_MAX_STORED}"
            )
        self._out.append(memoryview(batch.made)[: batch.stored])
        self._table.add(batch.lengths)


class _Table:
    """The lengths of the blocks, until they go behind the last one."""

    def __init__(self, out: Output) -> None:
        self.entries = 0
        self.crc = 0
        self._spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - close() does
            max_size=_TABLE_IN_MEMORY, dir=str(out.folder)
        )

    def add(self, lengths: list[int]) -> None:
        raw = struct.pack(f"<{len(lengths)}I", *lengths)
        self.entries += len(lengths)
        self.crc = _core.crc32c(raw, self.crc)
        self._spool.write(raw)

    def copy_to(self, out: Output) -> None:
        self._spool.seek(0)
        while raw := self._spool.read(MIB):
            out.append(raw)

    def close(self) -> None:
        self._spool.close()


def _judge_options(codec: str, level: int | None, block_size: int) -> None:
    if codec not in format.CODECS:
        raise UsageError(f"no codec {codec!r}", hint="there are lz4 and zstd")
    if level is not None and level not in _LEVELS[codec]:
        last = _LEVELS[codec][-1]
        raise UsageError(f"no level {level} of {codec}", hint=f"from 1 to {last}")
    inside = format.MIN_BLOCK_SIZE <= block_size <= format.MAX_BLOCK_SIZE
    if not inside or block_size & (block_size - 1):
        raise UsageError(
            f"block size {block_size}", hint="a power of two from 4096 to 65536"
        )


def _sealed(header: format.ZHeader) -> bytes:
    """Return the slot of header with its digest in place."""
    digest = zfile.digest_of(format.pack_header(header))
    return format.pack_header(header._replace(digest=digest))
