# SPDX-License-Identifier: Apache-2.0
"""
partitions - the parts of a disk: MBR with logical ones, or GPT.

A table counts if and only if:
  MBR   its sector ends in 55 AA, the first byte of each entry in use is 00 or
        80, and no entry reaches past the end of the disk;
  GPT   header and entries match their crc32, there or in the copy at the end
        of the disk, and each partition is inside what the header leaves to them.
An extended partition is a list of such sectors that never goes back.

It reads; what is in the partitions is none of its business.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from obdengine.errors import FormatError, UsageError
from obdengine.ops.disks import Disk
from obdengine.units import SECTOR, human_size

__all__ = ["Partition", "partition", "partitions", "read"]

_EXTENDED = {0x05, 0x0F, 0x85}
_PROTECTIVE = 0xEE
_FIRST_LOGICAL = 5
_MAX_LOGICAL = 256

_GPT_MAGIC = b"EFI PART"
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_MAX_GPT_ENTRIES = 4096


class Partition(NamedTuple):
    """One partition.

    Attributes:
        number: as Linux counts; logical ones from 5.
        offset: of its first byte on the disk.
        size: bytes.
        kind: its type: "0x83", or a GUID in lower case.
        name: of GPT, "" when it has none.
    """

    number: int
    offset: int
    size: int
    kind: str
    name: str = ""

    def __str__(self) -> str:
        """Return it in words, for a list."""
        name = f" {self.name!r}" if self.name else ""
        return f"{self.number}{name} ({human_size(self.size)}, type {self.kind})"


class _Entry(NamedTuple):
    """One entry of an MBR, in sectors."""

    kind: int
    start: int
    length: int


def partition(disk: Disk, number: int) -> Partition:
    """Return the partition with this number; raises as partitions().

    Raises UsageError when there is none.
    """
    found = partitions(disk)
    for one in found:
        if one.number == number:
            return one
    has = ", ".join(map(str, found)) or "none"
    raise UsageError(f"{disk.name}: no partition {number}", hint=f"it has {has}")


def partitions(disk: Disk) -> list[Partition]:
    """Return the partitions of disk, in order of their numbers.

    Raises FormatError when there is no table, or one that makes no sense.
    """
    entries = _table(disk, 0)
    if any(entry.kind == _PROTECTIVE for entry in entries.values()):
        return list(_gpt(disk))
    found = []
    for index, entry in entries.items():
        if entry.kind in _EXTENDED:
            found += list(_logical(disk, entry))
        else:
            found.append(_mbr_partition(disk, index + 1, entry.start, entry))
    return sorted(found)


def read(disk: Disk, offset: int, size: int) -> bytes:
    """Return size bytes of disk; what is past its end is zeros."""
    data = bytearray(size)
    disk.pread_into(offset, memoryview(data))
    return bytes(data)


# -- MBR


def _table(disk: Disk, sector: int) -> dict[int, _Entry]:
    """Return the entries in use of the table in a sector, by their places."""
    raw = read(disk, sector * SECTOR, SECTOR)
    if raw[510:] != b"\x55\xaa":
        raise FormatError(
            disk.name,
            "no partition table",
            offset=sector * SECTOR + 510,
            expected="55aa",
            found=raw[510:].hex(),
        )
    found = {}
    for index in range(4):
        status, kind, start, length = struct.unpack_from(
            "<B3xB3xII", raw, 446 + 16 * index
        )
        if not kind or not length:
            continue
        if status & 0x7F:
            raise FormatError(
                disk.name,
                f"no partition table: entry {index + 1} makes no sense",
                offset=sector * SECTOR + 446 + 16 * index,
                expected="0 or 0x80",
                found=f"{status:#x}",
                hint="a disk that is one file system has no partitions",
            )
        found[index] = _Entry(kind, start, length)
    return found


def _mbr_partition(disk: Disk, number: int, start: int, entry: _Entry) -> Partition:
    end = (start + entry.length) * SECTOR
    if not start or end > disk.size:
        raise FormatError(
            disk.name,
            f"partition {number} is not on the disk",
            expected=f"an end of at most {disk.size}",
            found=end,
        )
    size = entry.length * SECTOR
    return Partition(number, start * SECTOR, size, f"{entry.kind:#04x}")


def _logical(disk: Disk, extended: _Entry) -> Iterator[Partition]:
    """Yield the partitions in an extended one."""
    _mbr_partition(disk, 0, extended.start, extended)
    at, number = extended.start, _FIRST_LOGICAL
    while number < _FIRST_LOGICAL + _MAX_LOGICAL:
        following = None
        for entry in _table(disk, at).values():
            if entry.kind in _EXTENDED:
                following = extended.start + entry.start
            else:
                yield _mbr_partition(disk, number, at + entry.start, entry)
                number += 1
        if following is None:
            return
        if following <= at:
            break
        at = following
    raise FormatError(disk.name, "the list of logical partitions has no end")


# -- GPT


def _gpt(disk: Disk) -> Iterator[Partition]:
    """Yield the partitions of the first table that is whole."""
    reasons = []
    for sector in (512, 4096):
        for place in (sector, disk.size // sector * sector - sector):
            raw = read(disk, place, sector)
            if raw[:8] != _GPT_MAGIC:
                continue
            try:
                entries, first, last, step = _gpt_entries(disk, raw, place, sector)
            except FormatError as error:
                reasons.append(error)
                continue
            for number, at in enumerate(range(0, len(entries), step), 1):
                yield from _gpt_partition(
                    disk, number, entries[at : at + step], (first, last), sector
                )
            return
    if reasons:
        raise reasons[0]
    raise FormatError(
        disk.name, "no GPT, though the MBR says so", offset=512, expected="EFI PART"
    )


def _gpt_entries(
    disk: Disk, raw: bytes, place: int, sector: int
) -> tuple[bytes, int, int, int]:
    """Return entries, first and last sector for partitions, and bytes per entry."""
    words = _GPT_HEADER.unpack_from(raw)
    size, crc, own, first, last = (*words[2:4], words[5], words[7], words[8])
    table, count, step, table_crc = words[10:14]
    if not _GPT_HEADER.size <= size <= sector:
        raise FormatError(disk.name, "size of the GPT header", offset=place, found=size)
    found = zlib.crc32(raw[:16] + bytes(4) + raw[20:size])
    if found != crc:
        _bad_crc(disk, "GPT header", place, crc, found)
    if own * sector != place:
        raise FormatError(
            disk.name, "a GPT header that was moved", offset=place, found=own
        )
    known_step = step >= _GPT_ENTRY.size and step % 8 == 0
    if not known_step or not 0 < count <= _MAX_GPT_ENTRIES or step > 4096:
        raise FormatError(
            disk.name, f"a GPT of {count} entries of {step} bytes", offset=place
        )
    entries = read(disk, table * sector, count * step)
    found = zlib.crc32(entries)
    if found != table_crc:
        _bad_crc(disk, "entries of the GPT", table * sector, table_crc, found)
    return entries, first, last, step


def _bad_crc(disk: Disk, what: str, place: int, wanted: int, found: int) -> None:
    raise FormatError(
        disk.name,
        f"crc of the {what}",
        offset=place,
        expected=f"{wanted:#010x}",
        found=f"{found:#010x}",
    )


def _gpt_partition(
    disk: Disk, number: int, raw: bytes, room: tuple[int, int], sector: int
) -> Iterator[Partition]:
    """Yield the partition of an entry, nothing for an empty one."""
    kind, _, first, last, _, name = _GPT_ENTRY.unpack_from(raw)
    if not any(kind):
        return
    if not room[0] <= first <= last <= room[1] or (last + 1) * sector > disk.size:
        raise FormatError(
            disk.name,
            f"partition {number} is not where partitions are",
            expected=f"sectors {room[0]} to {room[1]}",
            found=f"{first} to {last}",
        )
    yield Partition(
        number,
        first * sector,
        (last + 1 - first) * sector,
        str(uuid.UUID(bytes_le=kind)),
        name.decode("utf-16-le", "replace").split("\0")[0],
    )
