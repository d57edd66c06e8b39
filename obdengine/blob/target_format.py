# SPDX-License-Identifier: Apache-2.0
"""
target_format - the words of gzip.meta: where reading can start in a target.

    header | windows, one by one | sums | table of points

Version 1 is overlaybd's: one gzip member. Version 2 is ours, for all members
of a gzip file and the frames of a zstd file; overlaybd refuses it. What is
ours in both is said in bytes that overlaybd leaves alone. See
docs/formats/turbo.md.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import NamedTuple

from obdengine.units import MIB

__all__ = [
    "CODECS",
    "CRC_SIZE",
    "ENTRY_FIELDS",
    "ENTRY_SIZE",
    "EXTENSION_FIELDS",
    "HEADER_FIELDS",
    "HEADER_SIZE",
    "MAGIC",
    "MARK",
    "MAJOR_ONE_MEMBER",
    "MAJOR_OURS",
    "OFFSETS",
    "PACKED",
    "RAW",
    "SPAN",
    "WINDOW",
    "Extension",
    "Header",
    "pack_entry",
    "pack_header",
    "unpack_extension",
    "unpack_header",
]

MAGIC = b"ddgzidx\0"
MAJOR_ONE_MEMBER, MAJOR_OURS = 1, 2

SPAN = MIB
WINDOW = 32768

# dict_algo: how windows and table are stored.
RAW, PACKED = 0, 1

HEADER_FIELDS = [
    ("magic", "8s"),
    ("major", "B"),
    ("minor", "B"),
    ("dict_algo", "B"),
    ("dict_level", "b"),
    ("flag", "B"),
    ("span", "i"),
    ("window", "i"),
    ("entry_size", "i"),
    ("entry_count", "q"),
    ("target_size", "q"),
    ("file_size", "q"),
    ("stream_size", "q"),
    ("extension", "256s"),
    ("index_offset", "q"),
    ("index_size", "q"),
    ("crc", "I"),
]
ENTRY_FIELDS = [
    ("stream_position", "q"),
    ("target_position", "q"),
    ("window_position", "q"),
    ("bits", "B"),
    ("window_size", "I"),
]
# In front of the field `extension`, which overlaybd leaves zero.
EXTENSION_FIELDS = [
    ("mark", "8s"),
    ("codec", "B"),
    ("sums_offset", "q"),
    ("sums_crc", "I"),
]
MARK = b"obdsums\1"
CODECS = ("gzip", "zstd")

_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
_ENTRY = struct.Struct("<" + "".join(code for _, code in ENTRY_FIELDS))
_EXTENSION = struct.Struct("<" + "".join(code for _, code in EXTENSION_FIELDS))

HEADER_SIZE = _HEADER.size
ENTRY_SIZE = _ENTRY.size
CRC_SIZE = HEADER_SIZE - 4  # bytes that the crc covers
OFFSETS = dict(
    zip(
        (name for name, _ in HEADER_FIELDS),
        accumulate((struct.calcsize("<" + c) for _, c in HEADER_FIELDS), initial=0),
        strict=False,
    )
)


class Header(NamedTuple):
    """The header, field by field; sizes and offsets in bytes."""

    magic: bytes = MAGIC
    major: int = MAJOR_ONE_MEMBER
    minor: int = 0
    dict_algo: int = PACKED
    dict_level: int = 6
    flag: int = 0
    span: int = SPAN
    window: int = WINDOW
    entry_size: int = ENTRY_SIZE
    entry_count: int = 0
    target_size: int = 0
    file_size: int = 0
    stream_size: int = 0
    extension: bytes = b""
    index_offset: int = 0
    index_size: int = 0
    crc: int = 0


class Extension(NamedTuple):
    """What is ours: how the target is compressed, and where the sums are."""

    mark: bytes = MARK
    codec: int = 0
    sums_offset: int = 0
    sums_crc: int = 0

    def pack(self) -> bytes:
        """Return it as it is stored."""
        return _EXTENSION.pack(*self)


def unpack_header(raw: bytes) -> Header:
    """Take a header apart, without judging it."""
    return Header(*_HEADER.unpack_from(raw))


def unpack_extension(header: Header) -> Extension:
    """Take the extension of a header apart, without judging it."""
    return Extension(*_EXTENSION.unpack_from(header.extension))


def pack_header(header: Header) -> bytes:
    """Return a header as it is stored."""
    return _HEADER.pack(*header)


def pack_entry(stream: int, target: int, window: int, bits: int, size: int) -> bytes:
    """Return an entry as it is stored: positions, then the window's size."""
    return _ENTRY.pack(stream, target, window, bits, size)
