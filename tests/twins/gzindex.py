# SPDX-License-Identifier: Apache-2.0
"""
gzindex - the twin of spans and target_index: an index over gzip, the plain way.

A point within a byte is reached by shifting the whole rest of the file, so
that Python's zlib, which knows no bits, can start there; stored blocks, which begin
at a byte, must not follow.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from typing import NamedTuple

from tests.twins.crc32c import crc32c

__all__ = ["Index", "Point", "changed", "parse", "read"]

HEADER = struct.Struct("<8sBBBbBiiiqqqq256sqqI")
FIELDS = [
    *("magic", "major", "minor", "dict_algo", "dict_level", "flag", "span", "window"),
    *("entry_size", "entry_count", "target_size", "file_size", "stream_size"),
    *("extension", "index_offset", "index_size", "crc"),
]
POINT = struct.Struct("<qqqBI")


class Point(NamedTuple):
    """Where reading can start."""

    out: int
    at: int
    window_at: int
    bits: int
    window_size: int


class Index(NamedTuple):
    """A whole index."""

    fields: dict[str, object]
    points: list[Point]
    raw: bytes


def parse(raw: bytes) -> Index:
    """Take an index apart; its crc must be right."""
    fields = dict(zip(FIELDS, HEADER.unpack_from(raw), strict=True))
    assert crc32c(raw[: HEADER.size - 4]) == fields["crc"]
    table = raw[fields["index_offset"] :]
    assert len(table) == fields["index_size"]
    if fields["dict_algo"]:
        table = zlib.decompress(table)
    points = [Point(*row) for row in POINT.iter_unpack(table)]
    assert len(points) == fields["entry_count"]
    return Index(fields, points, raw)


def window_of(index: Index, point: Point) -> bytes:
    """Return the 32 KiB before a point."""
    end = point.window_at + point.window_size
    stored = index.raw[point.window_at : end]
    return zlib.decompress(stored) if index.fields["dict_algo"] else stored


def shifted(data: bytes, first: int, bits: int) -> bytes:
    """Return data with the upper bits of the byte first in front of it."""
    number = int.from_bytes(data, "little") << bits | first >> (8 - bits)
    return number.to_bytes(len(data) + 1, "little")


def read(index: Index, target: bytes, offset: int, size: int) -> bytes:
    """Return bytes of the tar as overlaybd reads them: from the point before."""
    number = bisect_right([point.out for point in index.points], offset) - 1
    point = index.points[number]
    rest = target[point.at : point.at + 4 * (size + (1 << 20))]
    if point.bits:
        rest = shifted(rest, target[point.at - 1], point.bits)
    inflate = zlib.decompressobj(-15, zdict=window_of(index, point))
    skip = offset - point.out
    return inflate.decompress(rest, skip + size)[skip:]


def changed(raw: bytes, **changes: object) -> bytes:
    """Return an index with other fields in its header, and a right crc."""
    fields = dict(zip(FIELDS, HEADER.unpack_from(raw), strict=True)) | changes
    head = HEADER.pack(*fields.values())
    if "crc" not in changes:
        crc = crc32c(head[:-4])
        head = HEADER.pack(*(fields | {"crc": crc}).values())
    return head + raw[HEADER.size :]
