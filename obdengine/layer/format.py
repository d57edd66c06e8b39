# SPDX-License-Identifier: Apache-2.0
"""
format - the words of an LSMT layer file.

    header (4096) | data (sectors) | index (16-byte entries) | trailer (4096)

Little-endian, packed, no checksum anywhere. It names offsets and bits;
whether a value makes sense is judged where it is read. The 16-byte entry is
in `obdengine.segment`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from obdengine.segment import MAX_ENTRIES

__all__ = [
    "DATA",
    "HEADER",
    "HEADER_FIELDS",
    "HEADER_SIZE",
    "INDEX_GROUP",
    "KNOWN_FLAGS",
    "MAGIC0",
    "MAGIC1",
    "MAX_MESSAGE",
    "MAX_VIRTUAL_SIZE",
    "NO_UUID",
    "OFFSETS",
    "SEALED",
    "SLOT",
    "SPARSE",
    "WRITER_MAX_ENTRIES",
    "Header",
    "pack_header",
    "unpack_header",
]

MAGIC0 = b"LSMT\0\1\2\0"
MAGIC1 = bytes.fromhex("657e63d29444084ca2d2c8ec4fcfae8a")

HEADER_FIELDS = [
    ("magic0", "8s"),
    ("magic1", "16s"),
    ("size", "I"),  # of these fields, 390
    ("flags", "I"),
    ("index_offset", "Q"),  # bytes from the start of the layer
    ("index_size", "Q"),  # entries, not bytes
    ("virtual_size", "Q"),  # bytes; 0: as the layer below
    ("uuid", "37s"),  # text and a NUL
    ("parent_uuid", "37s"),
    ("reserved", "2s"),
    ("version", "B"),
    ("sub_version", "B"),
    ("user_tag", "256s"),  # the commit message, NULs behind
]

SLOT = 4096  # what a header or trailer takes up; zeros behind the fields

# Bits of flags.
HEADER = 1 << 0  # clear in a trailer
DATA = 1 << 1  # clear in the index file of a writable layer
SEALED = 1 << 2
SPARSE = 1 << 4  # a writable layer whose map is the file's holes
KNOWN_FLAGS = HEADER | DATA | SEALED | SPARSE

NO_UUID = "00000000-0000-0000-0000-000000000000"
MAX_MESSAGE = 255  # bytes of user_tag, without the NUL

# 2^50 sectors of 512 bytes are what an entry can address.
MAX_VIRTUAL_SIZE = 1 << 59

# A committed index is padded to a multiple of this many entries, 4096 bytes,
# and the padding counts; so the limit of readers is not quite reached.
INDEX_GROUP = 256
WRITER_MAX_ENTRIES = MAX_ENTRIES // INDEX_GROUP * INDEX_GROUP


class Header(NamedTuple):
    """The fields of a header or trailer, as they stand in the file."""

    magic0: bytes = MAGIC0
    magic1: bytes = MAGIC1
    size: int = 390
    flags: int = 0
    index_offset: int = 0
    index_size: int = 0
    virtual_size: int = 0
    uuid: bytes = NO_UUID.encode()
    parent_uuid: bytes = NO_UUID.encode()
    reserved: bytes = bytes(2)
    version: int = 1
    sub_version: int = 1
    user_tag: bytes = b""


_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
HEADER_SIZE = _HEADER.size

# Where each field stands in the slot.
OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in HEADER_FIELDS[:number]))
    for number, (name, _) in enumerate(HEADER_FIELDS)
}


def unpack_header(raw: bytes | memoryview) -> Header:
    """Return the fields at the start of raw, unjudged; 390 bytes at least."""
    return Header(*_HEADER.unpack_from(raw))


def pack_header(header: Header) -> bytes:
    """Return the whole slot of 4096 bytes."""
    return _HEADER.pack(*header).ljust(SLOT, b"\0")
