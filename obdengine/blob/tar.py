# SPDX-License-Identifier: Apache-2.0
"""
tar - the wrapper that lets a registry take a blob for a layer tarball.

A blob is wrapped if and only if it begins with a block that
  (1) has the magic "ustar" and the version "00" at byte 257;
  (2) has the checksum of its own bytes;
  (3) is of type "x" with pax records and a second such block behind, or is
      the header of a regular file.
The payload begins behind these blocks. Its size is that of the pax record
"size", else the header's, else, when that is 0, all that is left.

This is not a tar reader: one member, the first, is all that it looks for.
"""

from __future__ import annotations

from typing import NamedTuple

from obdengine.blob import format
from obdengine.errors import BadChecksum, BadHeader, Unsupported
from obdengine.source import Source
from obdengine.units import round_up

__all__ = ["HEAD_SIZE", "Wrapping", "head", "tail", "unwrap"]

# What head() returns: pax header, its record, file header.
HEAD_SIZE = 3 * format.TAR_BLOCK

# overlaybd's own record takes 30 bytes at most; other tools add a few lines.
_MAX_PAX = 64 * 1024


class Wrapping(NamedTuple):
    """Where the payload is: kind "pax", "plain" or None, offset, size in bytes."""

    kind: str | None
    offset: int
    size: int


def unwrap(source: Source) -> Wrapping:
    """Find the payload of source, wrapped or not.

    Raises FormatError when there is a wrapper and it is wrong.
    """
    first = _header(source, 0)
    if first is None:
        return Wrapping(None, 0, source.size)
    if first.typeflag != b"x":
        return _payload(source, first, format.TAR_BLOCK, None, "plain")
    record_size = _number(source.name, first.size, 0)
    if not 0 < record_size <= _MAX_PAX:
        raise BadHeader(
            source.name,
            "size of the pax records",
            offset=0,
            expected=f"1 to {_MAX_PAX}",
            found=record_size,
        )
    second = format.TAR_BLOCK + round_up(record_size, format.TAR_BLOCK)
    _require(source, second + format.TAR_BLOCK)
    size = _pax_size(source.name, source.pread(format.TAR_BLOCK, record_size))
    member = _header(source, second)
    if member is None:
        raise BadHeader(
            source.name,
            "no tar header behind the pax one",
            offset=second,
            expected=repr(format.TAR_MAGIC),
            found="something else",
        )
    return _payload(source, member, second + format.TAR_BLOCK, size, "pax")


def head(size: int) -> bytes:
    """Return the three blocks before a payload of size bytes."""
    record = _pax_record(size)
    # overlaybd leaves out everything but the size in its first header.
    pax = format.TarHeader(
        name=format.TAR_PAX_NAME, size=_octal(len(record), 11), typeflag=b"x"
    )
    member = format.TarHeader(
        name=format.TAR_COMMIT_NAME,
        mode=b"100644 ",
        uid=_octal(0, 6),
        gid=_octal(0, 6),
        size=_octal(0, 11),
        mtime=_octal(0, 11),
        uname=b"root",
        gname=b"root",
    )
    return _sealed(pax) + record.ljust(format.TAR_BLOCK, b"\0") + _sealed(member)


def tail(size: int) -> bytes:
    """Return the zeros behind a payload of size bytes."""
    return bytes(round_up(size, format.TAR_BLOCK) - size + format.TAR_END_SIZE)


def _header(source: Source, offset: int) -> format.TarHeader | None:
    """Return the tar header at offset, or None when there is none."""
    if source.size < offset + format.TAR_BLOCK:
        return None
    raw = source.pread(offset, format.TAR_BLOCK)
    header = format.unpack_tar(raw)
    if header.magic + header.version != format.TAR_MAGIC:
        return None
    computed = _checksum(raw)
    stored = _number(source.name, header.checksum, offset)
    if computed != stored:
        raise BadChecksum(
            source.name,
            "tar header",
            offset=offset,
            expected=f"{stored:o} (octal, stored)",
            found=f"{computed:o}",
        )
    return header


def _payload(
    source: Source, member: format.TarHeader, offset: int, size: int | None, kind: str
) -> Wrapping:
    """Return the wrapping whose member header ends at offset."""
    if member.typeflag not in (b"0", b"\0"):
        raise Unsupported(
            source.name,
            "type of a tar member",
            offset=offset - format.TAR_BLOCK,
            expected="a regular file",
            found=repr(member.typeflag),
        )
    if size is None:
        stated = _number(source.name, member.size, offset - format.TAR_BLOCK)
        size = stated or source.size - offset
    _require(source, offset + size)
    return Wrapping(kind, offset, size)


def _require(source: Source, end: int) -> None:
    if end > source.size:
        raise BadHeader(
            source.name,
            "the tar wrapper's content ends behind the file",
            offset=0,
            expected=f"at least {end} bytes",
            found=source.size,
        )


def _number(name: str, field: bytes, offset: int) -> int:
    """Return the value of a numeric field: octal, or GNU's base 256."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not all(0x30 <= digit <= 0x37 for digit in text):
        raise BadHeader(
            name, "a number in a tar header", offset=offset, found=repr(field)
        )
    return int(text, 8)


def _pax_size(name: str, records: bytes) -> int | None:
    """Return the value of the last record "size", or None without one."""
    size = None
    at = 0
    while at < len(records):
        length, blank, _ = records[at : at + 16].partition(b" ")
        ends = at + int(length) if blank and length.isdigit() else at
        record = records[at:ends]
        if ends > len(records) or not record.endswith(b"\n") or b"=" not in record:
            raise BadHeader(
                name,
                "a pax record",
                offset=format.TAR_BLOCK + at,
                expected='"<length> <key>=<value>"',
                found=repr(records[at : at + 32]),
            )
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        if key == b"size":
            size = _decimal(name, value, format.TAR_BLOCK + at)
        at = ends
    return size


def _decimal(name: str, value: bytes, offset: int) -> int:
    # 19 digits: int() of a very long number is slow, and none is that large.
    if not value.isdigit() or len(value) > 19:
        raise BadHeader(name, "the pax size", offset=offset, found=repr(value[:32]))
    return int(value)


def _pax_record(size: int) -> bytes:
    """Return "<length> size=<size>", where length counts itself."""
    body = b" size=%d\n" % size
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d%s" % (length, body)


def _octal(value: int, width: int) -> bytes:
    """Return value in octal, right-aligned in width characters, and a blank."""
    return b"%*o " % (width, value)


def _sealed(header: format.TarHeader) -> bytes:
    """Return the block of header with its checksum in place."""
    checksum = _octal(_checksum(format.pack_tar(header)), 6)
    return format.pack_tar(header._replace(checksum=checksum))


def _checksum(raw: bytes) -> int:
    return sum(raw[:148]) + 8 * 0x20 + sum(raw[156:])
