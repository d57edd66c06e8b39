# SPDX-License-Identifier: Apache-2.0
"""tars - layers to put on top, by Python's own tarfile or byte by byte."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

# A member's time where a test does not care.
TIME = 1_600_000_000

BLOCK = 512
END = bytes(2 * BLOCK)

Member = tuple[tarfile.TarInfo, bytes | None]


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> Member:
    """A member with the fields of a TarInfo; data=b"..." is its content."""
    info = tarfile.TarInfo(name)
    data = fields.pop("data", b"" if kind == tarfile.REGTYPE else None)
    info.type, info.mtime = kind, TIME
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    assert data is None or isinstance(data, bytes)
    info.size = len(data or b"")
    xattrs = fields.pop("xattrs", {})
    assert isinstance(xattrs, Mapping)
    headers = {
        f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
        for key, value in xattrs.items()
    }
    for key, value in fields.items():
        setattr(info, key, value)
    info.pax_headers = {**headers, **info.pax_headers}
    return info, data


def file(name: str, data: bytes = b"", **fields: object) -> Member:
    return member(name, data=data, **fields)


def folder(name: str, **fields: object) -> Member:
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: object) -> Member:
    return member(name, tarfile.SYMTYPE, linkname=target, **fields)


def link(name: str, target: str, **fields: object) -> Member:
    return member(name, tarfile.LNKTYPE, linkname=target, **fields)


def white(name: str) -> Member:
    """A whiteout of name, whose folder stays."""
    above, slash, base = name.rpartition("/")
    return file(f"{above}{slash}.wh.{base}")


def opaque(name: str) -> Member:
    return file(f"{name}/.wh..wh..opq")


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these members."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=format, errors="surrogateescape"
    ) as archive:
        for info, data in members:
            archive.addfile(info, None if data is None else io.BytesIO(data))
    return out.getvalue()


def header(name: bytes, size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header block, with fields as they are given, and the right checksum."""
    parts = {
        "name": (0, 100, name),
        "mode": (100, 8, b"0000644\0"),
        "uid": (108, 8, b"0000000\0"),
        "gid": (116, 8, b"0000000\0"),
        "length": (124, 12, b"%011o\0" % size),
        "mtime": (136, 12, b"%011o\0" % TIME),
        "kind": (156, 1, kind),
        "target": (157, 100, b""),
        "magic": (257, 8, b"ustar\x0000"),
        "major": (329, 8, b""),
        "minor": (337, 8, b""),
        "prefix": (345, 155, b""),
        "sparse": (386, 109, b""),
    }
    block = bytearray(BLOCK)
    for key, (at, width, value) in parts.items():
        value = fields.get(key, value)
        if value:
            block[at : at + width] = value[:width].ljust(width, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def records(kind: bytes = b"x", **pairs: bytes) -> bytes:
    """A PAX header with these records; `_` in a key is a dot."""
    return raw_records(
        [(k.replace("_", ".").encode(), v) for k, v in pairs.items()], kind
    )


def raw_records(pairs: list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """A PAX header with records in this order."""
    text = b""
    for key, value in pairs:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        text += b"%d %b=%b\n" % (length, key, value)
    return header(b"PaxHeader", len(text), kind) + padded(text)
