# SPDX-License-Identifier: Apache-2.0
"""
target_index - gzip.meta read and written: the index over a compressed target.

An index counts if and only if
  (1) it begins with a header of 333 bytes: right magic, a version that is
      known, right crc;
  (2) it is as large as the header says, and so is the target;
  (3) the table of points ends the file, and inflates to as many entries as
      the header says;
  (4) positions rise from 0, each below the size of what it is in, and no
      stretch between two of them inflates to more than 32 MiB;
  (5) every window lies between header and table, and is one of 32 KiB;
  (6) the sums, where there are, match their crc.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from obdengine import _core
from obdengine.blob import target_format as format
from obdengine.errors import (
    BadChecksum,
    BadHeader,
    BadMagic,
    BadTargetIndex,
    Unsupported,
)
from obdengine.source import Resident, Source
from obdengine.units import KIB

__all__ = ["IndexWriter", "TargetIndex", "read_index"]

# The table is read, inflated and judged in pieces of this size.
_STEP = 256 * KIB

# By codec, and whether the index is in our own version.
_KINDS = {
    ("gzip", False): _core.GZIP,
    ("gzip", True): _core.MEMBERS,
    ("zstd", False): _core.ZSTD,
    ("zstd", True): _core.ZSTD,
}

_HINT = "it is the index over another file, or that was changed"


class TargetIndex(NamedTuple):
    """An index that was read and judged.

    Attributes:
        codec: of the target, "gzip" or "zstd".
        members: whether the index is in our own version.
        spans: the points, for the core.
        stream_size: bytes that the target inflates to.
        summed: whether every span has a crc.
    """

    codec: str
    members: bool
    spans: _core.Spans
    stream_size: int
    summed: bool


def read_index(resident: Resident, target: Source) -> TargetIndex:
    """Read the index over target; resident must have all of it, and stay open.

    Raises BadMagic, BadHeader, BadChecksum, BadTargetIndex, Unsupported.
    """
    source = resident.source
    header = _read_header(source)
    extension = _extension(source, header)
    _judge(source, header, target)
    codec = format.CODECS[extension.codec if extension else 0]
    members = header.major == format.MAJOR_OURS
    sums = _read_sums(source, header, extension) if extension else b""
    spans = _core.Spans(
        _KINDS[codec, members],
        packed=header.dict_algo == format.PACKED,
        index_fd=resident.fd,
        windows_end=extension.sums_offset if extension else header.index_offset,
        size=header.stream_size,
        file_size=header.target_size,
        name=source.name,
        table_offset=header.index_offset,
    )
    for piece in _entries(source, header):
        spans.feed(piece)
    spans.finish(sums)
    return TargetIndex(codec, members, spans, header.stream_size, bool(sums))


def _extension(source: Source, header: format.Header) -> format.Extension | None:
    """Return what is ours in a header, if there is."""
    extension = format.unpack_extension(header)
    if extension.mark != format.MARK:
        if header.major == format.MAJOR_OURS:
            raise _bad(source, "extension", format.MARK, extension.mark)
        return None
    if extension.codec >= len(format.CODECS):
        raise Unsupported(
            source.name,
            "codec of the target",
            offset=format.OFFSETS["extension"],
            expected="0 or 1",
            found=extension.codec,
        )
    return extension


def _read_header(source: Source) -> format.Header:
    raw = source.pread(0, min(format.HEADER_SIZE, source.size))
    if raw[: len(format.MAGIC)] != format.MAGIC:
        found = raw[: len(format.MAGIC)]
        raise BadMagic(
            source.name,
            "not an index over a compressed layer",
            offset=0,
            expected=repr(format.MAGIC),
            found=repr(found) if found else "nothing",
        )
    if len(raw) < format.HEADER_SIZE:
        raise BadHeader(
            source.name,
            "too short for an index",
            offset=0,
            expected=f"at least {format.HEADER_SIZE} bytes",
            found=len(raw),
        )
    header = format.unpack_header(raw)
    crc = _core.crc32c(raw[: format.CRC_SIZE])
    if header.crc != crc:
        raise BadChecksum(
            source.name,
            "crc of the header",
            offset=format.OFFSETS["crc"],
            expected=f"{crc:#010x}",
            found=f"{header.crc:#010x}",
        )
    return header


def _judge(source: Source, header: format.Header, target: Source) -> None:
    if header.major not in (format.MAJOR_ONE_MEMBER, format.MAJOR_OURS):
        raise Unsupported(
            source.name,
            "version of the index",
            offset=format.OFFSETS["major"],
            expected="1 or 2",
            found=f"{header.major}.{header.minor}",
        )
    wanted: dict[str, object] = {
        "window": format.WINDOW,
        "entry_size": format.ENTRY_SIZE,
        "file_size": source.size,
        "index_size": source.size - header.index_offset,
    }
    for field, value in wanted.items():
        if getattr(header, field) != value:
            raise _bad(source, field, value, getattr(header, field))
    if header.dict_algo not in (format.RAW, format.PACKED):
        raise _bad(source, "dict_algo", "0 or 1", header.dict_algo)
    if not format.HEADER_SIZE <= header.index_offset <= source.size:
        expected = f"{format.HEADER_SIZE} to {source.size}"
        raise _bad(source, "index_offset", expected, header.index_offset)
    for field in ("entry_count", "stream_size"):
        if getattr(header, field) < 0:
            raise _bad(source, field, "0 or more", getattr(header, field))
    if header.target_size != target.size:
        raise _bad(source, "target_size", target.size, header.target_size, _HINT)


def _bad(
    source: Source,
    field: str,
    expected: object,
    found: object,
    hint: str | None = None,
) -> BadHeader:
    return BadHeader(
        source.name,
        f"{field} in the header",
        offset=format.OFFSETS[field],
        expected=expected,
        found=found,
        hint=hint,
    )


def _read_sums(
    source: Source, header: format.Header, extension: format.Extension
) -> bytes:
    """Return the crcs of all spans, 4 bytes each."""
    size = header.index_offset - extension.sums_offset
    if size != 4 * header.entry_count or extension.sums_offset < format.HEADER_SIZE:
        expected = f"{header.index_offset - 4 * header.entry_count}"
        what = "place of the sums"
        raise BadTargetIndex(
            source.name,
            what,
            offset=format.OFFSETS["extension"],
            expected=expected,
            found=extension.sums_offset,
        )
    raw = source.pread(extension.sums_offset, size)
    crc = _core.crc32c(raw)
    if crc != extension.sums_crc:
        raise BadChecksum(
            source.name,
            "crc of the sums",
            offset=extension.sums_offset,
            expected=f"{extension.sums_crc:#010x}",
            found=f"{crc:#010x}",
        )
    return raw


def _entries(source: Source, header: format.Header) -> Iterator[bytes]:
    """Yield the table of points in pieces of whole entries."""
    rest, count = b"", 0
    for data in _table(source, header):
        rest += data
        whole = len(rest) // format.ENTRY_SIZE
        count += whole
        if count > header.entry_count:
            break
        yield rest[: whole * format.ENTRY_SIZE]
        rest = rest[whole * format.ENTRY_SIZE :]
    if count != header.entry_count or rest:
        raise BadTargetIndex(
            source.name,
            "number of entries in the table",
            offset=header.index_offset,
            expected=header.entry_count,
            found=f"{count} or more" if count > header.entry_count else count,
        )


def _table(source: Source, header: format.Header) -> Iterator[bytes]:
    """Yield the bytes of the table, whatever it inflates to in small pieces."""
    packed = header.dict_algo == format.PACKED
    inflate = zlib.decompressobj()
    for at in range(header.index_offset, source.size, _STEP):
        data = source.pread(at, min(_STEP, source.size - at))
        if not packed:
            yield data
            continue
        while data and not inflate.eof:
            try:
                yield inflate.decompress(data, _STEP)
            except zlib.error as error:
                raise BadTargetIndex(
                    source.name,
                    "the table of points",
                    offset=header.index_offset,
                    found=f"bytes that do not inflate: {error}",
                ) from error
            data = inflate.unconsumed_tail
    if packed and not inflate.eof:
        raise BadTargetIndex(
            source.name,
            "the table of points",
            offset=header.index_offset,
            found="the end of the file before that of the table",
        )


class IndexWriter:
    """Collects the points of a target, and makes the index of them."""

    def __init__(self) -> None:
        """Begin without points."""
        self._windows = bytearray()
        self._table = bytearray()
        self._sums = bytearray()
        self._count = 0

    def point(self, out: int, at: int, bits: int, window: bytes | None) -> None:
        """Add a point: where it is inflated and in the target, and its window."""
        stored = zlib.compress(window, 6) if window is not None else b""
        place = format.HEADER_SIZE + len(self._windows)
        self._table += format.pack_entry(out, at, place, bits, len(stored))
        self._windows += stored
        self._count += 1

    def sum(self, crc: int) -> None:
        """Add the crc of the span that the last point began."""
        self._sums += crc.to_bytes(4, "little")

    def finish(
        self, *, codec: str, members: bool, target_size: int, stream_size: int
    ) -> bytes:
        """Return the index. members: it needs our own version."""
        table = zlib.compress(self._table, 6)
        sums_offset = format.HEADER_SIZE + len(self._windows)
        offset = sums_offset + len(self._sums)
        extension = format.Extension(
            codec=format.CODECS.index(codec),
            sums_offset=sums_offset,
            sums_crc=_core.crc32c(bytes(self._sums)),
        )
        header = format.Header(
            major=format.MAJOR_OURS if members else format.MAJOR_ONE_MEMBER,
            entry_count=self._count,
            target_size=target_size,
            file_size=offset + len(table),
            stream_size=stream_size,
            extension=extension.pack(),
            index_offset=offset,
            index_size=len(table),
        )
        crc = _core.crc32c(format.pack_header(header)[: format.CRC_SIZE])
        head = format.pack_header(header._replace(crc=crc))
        return head + bytes(self._windows + self._sums) + table
