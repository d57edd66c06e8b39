# SPDX-License-Identifier: Apache-2.0
"""
format - the words of ZFile and of the tar wrapper around it.

    ZFile:  header (512) | block 0 [crc] | block 1 [crc] | ... | table | trailer (512)
    tar:    header (512) | pax record (512) | header (512) | payload | zeros

Little-endian, packed. It names offsets and bits; whether a value makes sense
is judged where it is read.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "ALGORITHMS",
    "BLOCK_CRC_SIZE",
    "CODECS",
    "DATA",
    "DIGEST",
    "HEADER",
    "HEADER_FIELDS",
    "HEADER_REWRITTEN",
    "HEADER_SIZE",
    "KNOWN_FLAGS",
    "MAGIC0",
    "MAGIC1",
    "MAX_BLOCK_SIZE",
    "MIN_BLOCK_SIZE",
    "OFFSETS",
    "SEALED",
    "SLOT",
    "TABLE_COMPRESSED",
    "TABLE_ENTRY_SIZE",
    "TAR_BLOCK",
    "TAR_COMMIT_NAME",
    "TAR_END_SIZE",
    "TAR_FIELDS",
    "TAR_MAGIC",
    "TAR_PAX_NAME",
    "TAR_SIZE",
    "TarHeader",
    "ZHeader",
    "pack_header",
    "pack_tar",
    "unpack_header",
    "unpack_tar",
]

# ---- ZFile ----

MAGIC0 = b"ZFile\0\1\0"
MAGIC1 = bytes.fromhex("74756a692e79796640416c6962616261")

HEADER_FIELDS = [
    ("magic0", "8s"),
    ("magic1", "16s"),
    ("size", "I"),  # of these fields, 96
    ("digest", "I"),  # crc of the slot with this field zero
    ("flags", "Q"),
    ("index_offset", "Q"),  # bytes from the start of the ZFile
    ("index_size", "Q"),  # entries, not bytes
    ("original_size", "Q"),  # bytes, inflated
    ("index_crc", "I"),  # crc of the table
    ("reserved0", "4s"),
    ("block_size", "I"),  # bytes, inflated
    ("algo", "B"),
    ("level", "B"),  # 0, whatever the level was
    ("use_dict", "B"),
    ("reserved1", "5s"),
    ("dict_size", "I"),
    ("verify", "B"),  # 1: four bytes of crc behind each block
    ("reserved2", "7s"),
]

SLOT = 512  # what a header or trailer takes up; zeros behind the fields

# Where each field stands in the slot.
OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in HEADER_FIELDS[:number]))
    for number, (name, _) in enumerate(HEADER_FIELDS)
}

# Bits of flags.
HEADER = 1 << 0  # clear in a trailer
DATA = 1 << 1
SEALED = 1 << 2
HEADER_REWRITTEN = 1 << 3  # the header has the trailer's values
DIGEST = 1 << 4  # digest and index_crc are there
TABLE_COMPRESSED = 1 << 5  # named, never written by anybody
KNOWN_FLAGS = HEADER | DATA | SEALED | HEADER_REWRITTEN | DIGEST | TABLE_COMPRESSED

# Values of algo.
ALGORITHMS = {0: "minilzo", 1: "lz4", 2: "zstd"}
CODECS = {"lz4": 1, "zstd": 2}

MIN_BLOCK_SIZE = 4096
MAX_BLOCK_SIZE = 65536
TABLE_ENTRY_SIZE = 4
BLOCK_CRC_SIZE = 4


class ZHeader(NamedTuple):
    """The fields of a header or trailer, as they stand in the file."""

    magic0: bytes = MAGIC0
    magic1: bytes = MAGIC1
    size: int = 96
    digest: int = 0
    flags: int = 0
    index_offset: int = 0
    index_size: int = 0
    original_size: int = 0
    index_crc: int = 0
    reserved0: bytes = bytes(4)
    block_size: int = 0
    algo: int = 0
    level: int = 0
    use_dict: int = 0
    reserved1: bytes = bytes(5)
    dict_size: int = 0
    verify: int = 0
    reserved2: bytes = bytes(7)


_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
HEADER_SIZE = _HEADER.size


def unpack_header(raw: bytes | memoryview) -> ZHeader:
    """Return the fields at the start of raw, unjudged; 96 bytes at least."""
    return ZHeader(*_HEADER.unpack_from(raw))


def pack_header(header: ZHeader) -> bytes:
    """Return the whole slot of 512 bytes, with the digest that header says."""
    return _HEADER.pack(*header).ljust(SLOT, b"\0")


# ---- tar ----

TAR_FIELDS = [
    ("name", "100s"),
    ("mode", "8s"),
    ("uid", "8s"),
    ("gid", "8s"),
    ("size", "12s"),  # octal, of what follows
    ("mtime", "12s"),
    ("checksum", "8s"),  # octal sum of the block, this field taken as blanks
    ("typeflag", "1s"),  # b"x": pax records follow; b"0" or NUL: a file
    ("linkname", "100s"),
    ("magic", "6s"),
    ("version", "2s"),
    ("uname", "32s"),
    ("gname", "32s"),
    ("devmajor", "8s"),
    ("devminor", "8s"),
    ("prefix", "155s"),
    ("reserved", "12s"),
]

TAR_BLOCK = 512
TAR_MAGIC = b"ustar\x0000"  # magic and version together
TAR_PAX_NAME = b"overlaybd.pax"
TAR_COMMIT_NAME = b"overlaybd.commit"
TAR_END_SIZE = 2 * TAR_BLOCK  # two zero blocks end an archive


class TarHeader(NamedTuple):
    """The fields of a tar header as they stand there, text in bytes."""

    name: bytes = b""
    mode: bytes = b""
    uid: bytes = b""
    gid: bytes = b""
    size: bytes = b""
    mtime: bytes = b""
    checksum: bytes = b""
    typeflag: bytes = b"0"
    linkname: bytes = b""
    magic: bytes = b"ustar\0"
    version: bytes = b"00"
    uname: bytes = b""
    gname: bytes = b""
    devmajor: bytes = b""
    devminor: bytes = b""
    prefix: bytes = b""
    reserved: bytes = b""


_TAR = struct.Struct("<" + "".join(code for _, code in TAR_FIELDS))
TAR_SIZE = _TAR.size


def unpack_tar(raw: bytes | memoryview) -> TarHeader:
    """Return the fields of a 512-byte tar header, unjudged."""
    return TarHeader(*_TAR.unpack_from(raw))


def pack_tar(header: TarHeader) -> bytes:
    """Return the block of 512 bytes, with the checksum that header says."""
    return _TAR.pack(*header)
