# SPDX-License-Identifier: Apache-2.0
"""
recording - everything that a disk was told, and what it holds if its power is cut.

The log has the format of the kernel's dm-log-writes, which is one of its
writers; the other is disk.py. A mark is a word that a program said meanwhile.

    header    magic, version, entries (u64), bytes of a log sector (u32)
    entry     sector, sectors, flags, bytes of the mark (u64); the mark
              then the data, if it is neither a mark nor a discard

Header, entry with mark, and data each begin at a multiple of the log's sector.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

SECTOR = 512

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

_MAGIC = 0x6A736677736872
_HEADER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")

# Of the writes that a cut could drop, those it drops in part.
_TORN = 0.1

# Sectors that are there together or not at all. File systems count on that for
# their own blocks: ext4's superblock has one checksum for two sectors, and with
# less they could not be mounted after one cut in a thousand. The engine is
# tried with every sector on its own by tests/power.
_WHOLE = 8


class Entry(NamedTuple):
    """One thing that the disk was told; offset is where its data is in the log."""

    number: int
    start: int
    length: int
    flags: int
    mark: str
    offset: int

    @property
    def is_barrier(self) -> bool:
        """Whether the disk promised something."""
        return bool(self.flags & (FLUSH | FUA))


class Log:
    """A finished log, open for reading."""

    def __init__(self, path: Path) -> None:
        """Read the header; raises ValueError if it is none."""
        self._fd = os.open(path, os.O_RDONLY)
        header = _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))
        magic, _version, self._count, self._sector = header
        if magic != _MAGIC:
            raise ValueError(f"{path}: no log of writes")

    def __iter__(self) -> Iterator[Entry]:
        """Yield every entry."""
        at = self._sector
        for number in range(self._count):
            raw = os.pread(self._fd, self._sector, at)
            start, length, flags, size = _ENTRY.unpack_from(raw)
            mark = raw[_ENTRY.size : _ENTRY.size + size].decode()
            at += self._sector
            yield Entry(number, start, length, flags, mark, at)
            if not flags & (MARK | DISCARD):
                at += -(-length * SECTOR // self._sector) * self._sector

    def data(self, entry: Entry) -> bytes:
        """Return what an entry writes."""
        size = entry.length * SECTOR
        return bytes(size) if entry.flags & DISCARD else self._pread(entry, size)

    def _pread(self, entry: Entry, size: int) -> bytes:
        found = os.pread(self._fd, size, entry.offset)
        if len(found) != size:
            raise ValueError(f"the log ends in entry {entry.number}")
        return found

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Recorder:
    """Writes a log."""

    def __init__(self, path: str) -> None:
        """Make the file."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._count, self._at = 0, SECTOR
        self._put_header()

    def add(
        self, flags: int, start: int = 0, length: int = 0, data: bytes = b""
    ) -> None:
        """Add an entry; data is the word of a mark."""
        size = len(data) if flags & MARK else 0
        head = _ENTRY.pack(start, length, flags, size) + data[:size]
        raw = head.ljust(SECTOR, b"\0") + (b"" if flags & MARK else data)
        os.pwrite(self._fd, raw, self._at)
        self._at += len(raw)
        self._count += 1
        self._put_header()

    def _put_header(self) -> None:
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, 1, self._count, SECTOR), 0)


class _Write(NamedTuple):
    """Data that the disk has in its cache."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data) // SECTOR


class Medium:
    """What a disk with a volatile cache has for sure, and what it may have.

    A flush makes everything durable that the disk was told before; a write
    with FUA is durable itself. Of the rest any writes may survive a cut, and
    of those that do not, any blocks of _WHOLE sectors.
    """

    def __init__(self, path: Path) -> None:
        """Take a file that holds what was there before the first entry.

        From now on it holds what is there for sure.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDWR)
        self._cache: list[_Write] = []

    def tell(self, entry: Entry, data: bytes) -> None:
        """Take the next entry, which is no mark."""
        if entry.flags & FLUSH:
            for write in self._cache:
                os.pwrite(self._fd, write.data, write.start * SECTOR)
            self._cache.clear()
        if not data:
            return
        if entry.flags & FUA:
            end = entry.start + entry.length
            pieces = (_outside(w, entry.start, end) for w in self._cache)
            self._cache = [piece for some in pieces for piece in some]
            os.pwrite(self._fd, data, entry.start * SECTOR)
        else:
            self._cache.append(_Write(entry.start, data))

    def survivors(self, chance: Random, share: float) -> list[_Write]:
        """Return what a cut leaves of the cache; share: of the writes, how many."""
        kept: list[_Write] = []
        for write in self._cache:
            luck = chance.random()
            if luck < share:
                kept.append(write)
            elif luck < share + _TORN and share:
                kept += _torn(chance, write)
        return kept

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _outside(write: _Write, start: int, end: int) -> list[_Write]:
    """Return what is left of a write when [start, end) was written over."""
    if write.end <= start or end <= write.start:
        return [write]
    before = write.data[: max(start - write.start, 0) * SECTOR]
    behind = write.data[max(end - write.start, 0) * SECTOR :]
    found = [_Write(write.start, before), _Write(end, behind)]
    return [piece for piece in found if piece.data]


def _torn(chance: Random, write: _Write) -> Iterator[_Write]:
    """Yield some blocks of a write."""
    start = write.start
    while start < write.end:
        end = min(start // _WHOLE * _WHOLE + _WHOLE, write.end)
        if chance.random() < 0.5:
            first, last = start - write.start, end - write.start
            yield _Write(start, write.data[first * SECTOR : last * SECTOR])
        start = end
