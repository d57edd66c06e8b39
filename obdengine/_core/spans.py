# SPDX-License-Identifier: Apache-2.0
"""spans - compressed files that are read from points within, and their indexes."""

from __future__ import annotations

from typing import Any, NamedTuple

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
from obdengine._core.blobs import Blob

__all__ = [
    "GZIP",
    "MEMBERS",
    "POINT_MEMBER",
    "POINT_SIZE",
    "SPAN_MAX",
    "TARGET_BIT",
    "WINDOW_SIZE",
    "ZSTD",
    "IndexStep",
    "Indexer",
    "SpansBlob",
    "Spans",
    "TurboBlob",
    "chunk_memory",
    "limit_chunks",
    "spans_blob",
]

GZIP: int = lib.OBD_SPANS_GZIP
MEMBERS: int = lib.OBD_SPANS_MEMBERS
ZSTD: int = lib.OBD_SPANS_ZSTD

# Bytes that lie between two points at most, inflated.
SPAN_MAX: int = lib.OBD_SPAN_MAX

POINT_SIZE = 29
WINDOW_SIZE = 32768

# Instead of the bits of a point: a member or frame starts there.
POINT_MEMBER: int = lib.OBD_POINT_MEMBER

# Of an offset of a TurboBlob: it is one of the target's.
TARGET_BIT = 1 << 63


class Spans:
    """The points of a compressed file; fed with them, entry by entry."""

    def __init__(
        self,
        kind: int,
        *,
        packed: bool,
        index_fd: int,
        windows_end: int,
        size: int,
        file_size: int,
        name: str,
        table_offset: int,
    ) -> None:
        """Expect the points of a file of file_size bytes that inflates to size.

        The windows, packed by zlib or not, are before windows_end of index_fd,
        which is borrowed. name is that of the index, for errors, and
        table_offset is where it has the table.
        """
        pointer = lib.obd_spans_new(
            kind, packed, index_fd, windows_end, size, file_size
        )
        self._c = ffi.gc(made(pointer, "an index"), lib.obd_spans_free)
        self._name = name
        self._at = table_offset

    def feed(self, raw: Buffer) -> None:
        """Take the next entries, 29 bytes each; raises BadTargetIndex."""
        src, fault = source(raw), new_fault()
        status = lib.obd_spans_feed(self._c, src, len(src) // POINT_SIZE, fault)
        check(status, fault, self._name, self._at)

    def finish(self, sums: Buffer = b"") -> None:
        """Judge what was fed; sums: 4 bytes of crc for each span, or none."""
        fault = new_fault()
        check(lib.obd_spans_finish(self._c, fault), fault, self._name, self._at)
        if sums:
            src = source(sums)
            status = lib.obd_spans_sum(self._c, src, len(src) // 4)
            check(status, fault, self._name)

    def __len__(self) -> int:
        """Return the number of points."""
        return int(lib.obd_spans_count(self._c))

    def _hand_over(self) -> Any:
        """Give the table to a blob, which frees it."""
        pointer = self._c
        ffi.gc(pointer, None)
        del self._c
        return pointer


class SpansBlob(Blob):
    """The stream that a compressed file inflates to."""

    def span(self, number: int) -> tuple[int, int]:
        """Return offset and size, in the file, of what a span is stored in."""
        out = ffi.new("uint64_t[2]")
        lib.obd_blob_span(self._c, number, out, out + 1)
        return out[0], out[1]


def spans_blob(
    fd: int, spans: Spans, *, name: str, track: int | None = None
) -> SpansBlob:
    """Return the stream that a compressed file inflates to; takes spans.

    fd and the index's descriptor are borrowed; track as of Blob.plain().
    """
    return SpansBlob(lib.obd_blob_new_spans(fd, spans._hand_over()), name, track)


class TurboBlob(Blob):
    """The stream of a TurboOCI layer, and with TARGET_BIT that of its target."""

    def __init__(self, meta: Blob, below: Blob) -> None:
        """Put two blobs side by side, and keep them."""
        super().__init__(lib.obd_blob_new_turbo(meta._c, below._c), meta.name, None)
        self.meta, self.below = meta, below
        self.guarded = meta.guarded or below.guarded

    def side(self, offset: int) -> tuple[Blob, int]:
        """Return whose an offset of the stream or the file is, without the bit."""
        blob = self.below if offset & TARGET_BIT else self.meta
        return blob, offset & ~TARGET_BIT

    def name_at(self, fault: Any) -> str:
        """Return what a fault is about, and take the bits off."""
        blob, fault.at = self.side(fault.at)
        fault.block &= ~TARGET_BIT
        return blob.name


class IndexStep(NamedTuple):
    """What a step of an Indexer did; used, made, out and at are bytes.

    Attributes:
        used: of what it was given.
        made: that it has inflated.
        out: inflated since the start.
        at: of the file since the start.
        bits: of the point that is here, or None.
        ended: whether a member or frame has.
    """

    used: int
    made: int
    out: int
    at: int
    bits: int | None
    ended: bool


class Indexer:
    """Inflates a gzip or zstd file and says at which places reading can start."""

    def __init__(self, kind: int, span: int, name: str) -> None:
        """Expect a file of that kind; points are at least span bytes apart."""
        pointer = made(lib.obd_indexer_new(kind, span), "a decoder")
        self._c = ffi.gc(pointer, lib.obd_indexer_free)
        self._step = ffi.new("struct obd_index_step *")
        self._name = name

    def step(self, data: Buffer, into: bytearray | memoryview) -> IndexStep:
        """Go on with data, up to the next point or end.

        Raises BadBlock or BadChecksum for a damaged file, BadTargetIndex when
        no point comes for too long.
        """
        src, dst, fault = source(data), target(into), new_fault()
        status = lib.obd_indexer_step(
            self._c, src, len(src), dst, len(dst), self._step, fault
        )
        check(status, fault, self._name)
        return self._facts()

    def next(self) -> IndexStep:
        """Begin with the next member or frame, where one has ended."""
        status = lib.obd_indexer_next(self._c, self._step)
        check(status, new_fault(), self._name)
        return self._facts()

    def window(self) -> bytes:
        """Return the 32 KiB before a point."""
        out = bytearray(WINDOW_SIZE)
        lib.obd_indexer_window(self._c, target(out))
        return bytes(out)

    def _facts(self) -> IndexStep:
        s = self._step
        bits = int(s.bits) if s.event == lib.OBD_INDEX_POINT else None
        ended = s.event == lib.OBD_INDEX_END
        return IndexStep(s.used, s.made, s.out, getattr(s, "in"), bits, ended)


def limit_chunks(budget: int) -> None:
    """Keep at most so many bytes of inflated chunks, of all disks together."""
    lib.obd_chunks_limit(budget)


def chunk_memory() -> tuple[int, int]:
    """Return the bytes of inflated chunks that are kept, and may be at most."""
    budget = ffi.new("size_t *")
    kept = lib.obd_chunks_memory(budget)
    return int(kept), int(budget[0])
