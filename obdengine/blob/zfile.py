# SPDX-License-Identifier: Apache-2.0
"""
zfile - where the blocks of a ZFile are: its header or trailer, and its table.

The header is believed when it says that it has the final values, else the
trailer in the last 512 bytes of the payload. Either one counts if and only if
  (1) both magics and the size of the struct are right;
  (2) the digest is right, where there is one;
  (3) no unknown flag is set, and the table is not compressed;
  (4) it is a header, or a sealed trailer, of data;
  (5) the codec is lz4 or zstd without a dictionary, verify is 0 or 1, and the
      block size is a power of two from 4096 to 65536;
  (6) the table has one entry per block, and it, the blocks before it and the
      trailer behind it lie inside the payload.
The core judges the entries of the table. Nothing is inflated here.
"""

from __future__ import annotations

from typing import NamedTuple

from obdengine import _core
from obdengine.blob import format
from obdengine.errors import (
    BadChecksum,
    BadHeader,
    BadMagic,
    Unsupported,
)
from obdengine.source import Source
from obdengine.units import KIB, round_up

__all__ = ["Payload", "digest_of", "is_zfile", "read_slot", "read_table", "read_values"]

# The table is read in pieces, so that memory follows what the file holds and
# not what its header says.
_STEP = 256 * KIB

# Fields of which an unfinished header has the final values already.
_EARLY_FIELDS = ("block_size", "algo", "use_dict", "dict_size", "verify")


class Payload(NamedTuple):
    """The bytes [offset, offset + size) of source."""

    source: Source
    offset: int
    size: int

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset of the payload."""
        return self.source.pread(self.offset + offset, size)


def is_zfile(payload: Payload) -> bool:
    """Tell whether payload begins as a ZFile does; it may be a broken one."""
    length = min(len(format.MAGIC0), payload.size)
    return payload.pread(0, length) == format.MAGIC0


def read_values(payload: Payload) -> tuple[format.ZHeader, bool]:
    """Return the final values, and whether the header has them.

    Raises FormatError for the first of the rules above that is broken.
    """
    name = payload.source.name
    if payload.size < 2 * format.SLOT:
        raise BadHeader(
            name,
            "too short for a ZFile",
            offset=payload.offset,
            expected=f"at least {2 * format.SLOT} bytes",
            found=payload.size,
        )
    header = read_slot(payload, 0)
    if header.flags & format.HEADER_REWRITTEN:
        _judge_layout(payload, 0, header)
        return header, True
    at = payload.size - format.SLOT
    trailer = read_slot(payload, at)
    for field in _EARLY_FIELDS:
        expected = getattr(header, field)
        if getattr(trailer, field) != expected:
            raise _bad_field(payload, at, trailer, field, f"{expected} as the header")
    _judge_layout(payload, at, trailer)
    return trailer, False


def read_slot(payload: Payload, at: int) -> format.ZHeader:
    """Return the header (at 0) or trailer at offset at, judged by itself."""
    raw = payload.pread(at, format.SLOT)
    header = format.unpack_header(raw)
    _judge_magic(payload, at, header)
    if header.flags & format.DIGEST and header.digest != digest_of(raw):
        raise BadChecksum(
            payload.source.name,
            f"digest of the ZFile {_role(at)}",
            offset=payload.offset + at,
            expected=f"{header.digest:#010x} (stored)",
            found=f"{digest_of(raw):#010x}",
        )
    _judge_flags(payload, at, header)
    _judge_kind(payload, at, header)
    return header


def read_table(payload: Payload, values: format.ZHeader) -> _core.JumpTable:
    """Return the table of blocks that values point at.

    Raises BadJumpTable when its lengths do not fit, BadChecksum when its crc
    does not match.
    """
    name, at = payload.source.name, values.index_offset
    table = _core.JumpTable(
        values.index_size,
        algo=values.algo,
        block_size=values.block_size,
        original_size=values.original_size,
        verify=bool(values.verify),
        first_offset=format.SLOT,
        end_offset=at,
        name=name,
        table_offset=payload.offset + at,
    )
    end = at + values.index_size * format.TABLE_ENTRY_SIZE
    while at < end:
        raw = payload.pread(at, min(_STEP, end - at))
        table.feed(raw)
        at += len(raw)
    # The crc first: when it is wrong, the sum is most likely wrong for it.
    if values.flags & format.DIGEST and table.crc != values.index_crc:
        raise BadChecksum(
            name,
            "crc of the table of blocks",
            offset=payload.offset + values.index_offset,
            expected=f"{values.index_crc:#010x} (stored)",
            found=f"{table.crc:#010x}",
        )
    table.finish()
    return table


def digest_of(raw: bytes) -> int:
    """Return the digest of a slot, whatever digest stands in it."""
    start = format.OFFSETS["digest"]
    return _core.crc32c(raw[:start] + bytes(4) + raw[start + 4 :])


def _role(at: int) -> str:
    return "trailer" if at else "header"


def _bad_field(
    payload: Payload, at: int, header: format.ZHeader, field: str, expected: object
) -> BadHeader:
    return BadHeader(
        payload.source.name,
        f"{field} in the ZFile {_role(at)}",
        offset=payload.offset + at + format.OFFSETS[field],
        expected=expected,
        found=getattr(header, field),
    )


def _unsupported(
    payload: Payload, at: int, field: str, what: str, found: object
) -> Unsupported:
    return Unsupported(
        payload.source.name,
        f"{what} in the ZFile {_role(at)}",
        offset=payload.offset + at + format.OFFSETS[field],
        found=found,
    )


def _judge_magic(payload: Payload, at: int, header: format.ZHeader) -> None:
    if (header.magic0, header.magic1) != (format.MAGIC0, format.MAGIC1):
        raise BadMagic(
            payload.source.name,
            f"no ZFile {_role(at)}",
            offset=payload.offset + at,
            expected=(format.MAGIC0 + format.MAGIC1).hex(),
            found=(header.magic0 + header.magic1).hex(),
            hint="the file was cut, or never finished" if at else None,
        )
    if header.size != format.HEADER_SIZE:
        raise _bad_field(payload, at, header, "size", format.HEADER_SIZE)


def _judge_flags(payload: Payload, at: int, header: format.ZHeader) -> None:
    flags = header.flags
    if flags & ~format.KNOWN_FLAGS:
        raise _unsupported(payload, at, "flags", "unknown flags", f"{flags:#x}")
    if flags & format.TABLE_COMPRESSED:
        raise _unsupported(
            payload, at, "flags", "a compressed table of blocks", f"{flags:#x}"
        )
    if at:
        wanted, tested = format.DATA | format.SEALED, format.HEADER
    else:
        wanted, tested = format.DATA | format.HEADER, 0
    if flags & (wanted | tested) != wanted:
        raise _bad_field(payload, at, header, "flags", f"those of a {_role(at)}")


def _judge_kind(payload: Payload, at: int, header: format.ZHeader) -> None:
    if header.algo not in format.CODECS.values():
        found = format.ALGORITHMS.get(header.algo, header.algo)
        raise _unsupported(payload, at, "algo", "a codec other than lz4, zstd", found)
    for field in ("use_dict", "dict_size"):
        if getattr(header, field):
            found = getattr(header, field)
            raise _unsupported(payload, at, field, f"a dictionary ({field})", found)
    if header.verify > 1:
        raise _bad_field(payload, at, header, "verify", "0 or 1")
    size = header.block_size
    inside = format.MIN_BLOCK_SIZE <= size <= format.MAX_BLOCK_SIZE
    if not inside or size & (size - 1):
        raise _bad_field(
            payload, at, header, "block_size", "a power of two from 4096 to 65536"
        )


def _judge_layout(payload: Payload, at: int, header: format.ZHeader) -> None:
    blocks = round_up(header.original_size, header.block_size) // header.block_size
    if header.index_size != blocks:
        expected = f"{blocks} for {header.original_size} bytes"
        raise _bad_field(payload, at, header, "index_size", expected)
    last = payload.size - format.SLOT - format.TABLE_ENTRY_SIZE * blocks
    if not format.SLOT <= header.index_offset <= last:
        expected = f"from {format.SLOT} to {last}"
        if last < format.SLOT:
            expected = "a shorter table, or a longer file"
        raise _bad_field(payload, at, header, "index_offset", expected)
