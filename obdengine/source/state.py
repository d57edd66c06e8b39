# SPDX-License-Identifier: Apache-2.0
"""
state - what a cache has of one blob: its bytes, sparse, and a file that says which.

    KEY.data      the blob's bytes where they are, holes elsewhere
    KEY.state     header (4096) | stamps, u32 a chunk (to 4096) | sums, u32 a unit

A unit is in the cache if and only if
  (1) the header is right: magic, version, crc, unit and chunk, key and size;
  (2) its sum is not 0;
  (3) its bytes in the data file have that sum.
Bytes are written before their sum and nothing is synced: what a crash tears,
a disk loses or somebody changes breaks (3), and the unit is fetched again.
A stamp is the time of last use of a chunk, in seconds. docs/formats/cache.md.

Locks are on bytes of the state file that do not exist: see LOCK_OPEN and
below. They are the kernel's, and go with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from obdengine import _core
from obdengine.units import round_up

__all__ = [
    "CHUNK",
    "HEADER_FIELDS",
    "HEADER_SIZE",
    "LOCK_HEADER",
    "LOCK_OPEN",
    "LOCK_UNITS",
    "MAGIC",
    "PER_CHUNK",
    "UNIT",
    "VERSION",
    "WHOLE",
    "Facts",
    "KeptFile",
    "read_facts",
]

UNIT = _core.PRESENCE_UNIT
CHUNK = _core.USE_STEP
PER_CHUNK = CHUNK // UNIT

MAGIC = b"obdcache"
VERSION = 1
HEADER_SIZE = 4096
HEADER_FIELDS = [
    ("magic", "8s"),
    ("version", "I"),
    ("unit", "I"),  # bytes that have one sum
    ("chunk", "I"),  # bytes that have one stamp
    ("flags", "I"),  # bit 0: all is there, and its digest was right
    ("size", "Q"),  # bytes of the blob
    ("key", "128s"),  # name of the files, without ending
    ("name", "1024s"),  # what a person calls the blob
    ("crc", "I"),  # of all fields before
]
_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
WHOLE = 1

# Bytes to lock. Who has the files open shares LOCK_OPEN; who wants to remove
# them has it alone. Unit u is being fetched by who has LOCK_UNITS + u.
LOCK_OPEN = 1 << 40
LOCK_HEADER = LOCK_OPEN + 1
LOCK_UNITS = 1 << 41

_FLOCK = struct.Struct("hhqqi4x")


class Facts(NamedTuple):
    """What a header says: bytes of the blob, its name, and flags."""

    key: str
    name: str
    size: int
    flags: int

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.size // CHUNK)

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.size // UNIT)

    @property
    def sums_at(self) -> int:
        """Where the sums start, bytes."""
        return HEADER_SIZE + round_up(4 * self.chunks, HEADER_SIZE)

    def pack(self) -> bytes:
        """Return the header."""
        key, name = self.key.encode(), self.name.encode()[:1024]
        fields = (MAGIC, VERSION, UNIT, CHUNK, self.flags, self.size, key, name)
        raw = _HEADER.pack(*fields, 0)[:-4]
        return raw + struct.pack("<I", _core.crc32c(raw, 1))


def _unpack(raw: bytes) -> Facts | None:
    """Return what a header says, None when it is not right."""
    if len(raw) < _HEADER.size:
        return None
    fields = _HEADER.unpack_from(raw)
    if fields[:4] != (MAGIC, VERSION, UNIT, CHUNK):
        return None
    if fields[-1] != _core.crc32c(raw[: _HEADER.size - 4], 1):
        return None
    key, name = (text.split(b"\0")[0].decode(errors="replace") for text in fields[6:8])
    return Facts(key, name, fields[5], fields[4])


def read_facts(path: Path) -> Facts | None:
    """Return what the state file at path says, None when it is none."""
    try:
        with path.open("rb") as opened:
            return _unpack(opened.read(_HEADER.size))
    except OSError:
        return None


class KeptFile:
    """The two files of one blob, open; an OSError is the caller's to handle.

    Attributes:
        path: of the data file.
        facts: of the header.
        fd: of the data file.
        seed: of the sums.
    """

    def __init__(self, folder: Path, key: str, name: str, size: int) -> None:
        """Open what the cache has of a blob, or begin it.

        size 0: as the cache has it; then FileNotFoundError when it has nothing.
        """
        self.path = folder / f"{key}.data"
        self._state = -1
        self.fd = -1
        try:
            self._state = _open_kept(folder / f"{key}.state", create=size > 0)
            self.facts = self._judge(Facts(key, name, size, 0))
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self.fd).st_size != self.facts.size:
                os.ftruncate(self.fd, self.facts.size)
        except BaseException:
            self.close()
            raise
        self.seed = _core.crc32c(f"{key}:{self.facts.size}".encode(), 1) or 1

    def _judge(self, wanted: Facts) -> Facts:
        """Return the header's facts, beginning the file anew when they are wrong."""
        found = _unpack(os.pread(self._state, _HEADER.size, 0))
        if _fits(found, wanted):
            return found  # type: ignore[return-value]
        if not wanted.size:
            raise FileNotFoundError(errno.ENOENT, "nothing is known of this blob")
        _lock(self._state, fcntl.F_WRLCK, LOCK_HEADER, wait=True)
        try:
            found = _unpack(os.pread(self._state, _HEADER.size, 0))
            if not _fits(found, wanted):
                os.ftruncate(self._state, 0)
                os.ftruncate(self._state, wanted.sums_at + 4 * wanted.units)
                os.pwrite(self._state, wanted.pack(), 0)
                return wanted
            return found  # type: ignore[return-value]
        finally:
            _lock(self._state, fcntl.F_UNLCK, LOCK_HEADER)

    # -- Sums and bytes

    def sums(self, first: int, end: int) -> bytes:
        """Return the sums of units [first, end), 4 bytes each."""
        size = 4 * (end - first)
        raw = os.pread(self._state, size, self.facts.sums_at + 4 * first)
        return raw.ljust(size, b"\0")

    def verified(self, first: int, end: int, sums: bytes) -> bytes | None:
        """Return the bytes of units [first, end) if they have these sums."""
        start, stop = first * UNIT, min(end * UNIT, self.facts.size)
        try:
            data = os.pread(self.fd, stop - start, start)
        except OSError:
            return None
        if len(data) != stop - start:
            return None
        return data if _core.unit_sums(self.seed, first, data) == sums else None

    def put(self, first: int, data: bytes, sums: bytes) -> None:
        """Store units from first on: the bytes, then their sums."""
        _write_all(self.fd, data, first * UNIT)
        _write_all(self._state, sums, self.facts.sums_at + 4 * first)
        chunks = range(first // PER_CHUNK, (first * UNIT + len(data) - 1) // CHUNK + 1)
        self.stamp(chunks)

    def clear(self, first: int, end: int) -> None:
        """Drop units [first, end); their bytes are left to be written over."""
        zeros = bytes(4 * (end - first))
        _write_all(self._state, zeros, self.facts.sums_at + 4 * first)

    # -- Use

    def stamps(self) -> bytes:
        """Return when each chunk was last used, 4 bytes each, seconds."""
        raw = os.pread(self._state, 4 * self.facts.chunks, HEADER_SIZE)
        return raw.ljust(4 * self.facts.chunks, b"\0")

    def stamp(self, chunks: range) -> None:
        """Note that chunks are used now."""
        now = struct.pack("<I", int(time.time()) & 0xFFFFFFFF)
        _write_all(self._state, now * len(chunks), HEADER_SIZE + 4 * chunks.start)

    def unstamp(self, chunk: int) -> None:
        """Note that nothing of a chunk is here."""
        _write_all(self._state, bytes(4), HEADER_SIZE + 4 * chunk)

    def drop_chunk(self, chunk: int) -> None:
        """Give back the room of a chunk; readers find that it does not match."""
        first = chunk * PER_CHUNK
        self.clear(first, min(first + PER_CHUNK, self.facts.units))
        _core.punch(self.fd, chunk * CHUNK, CHUNK)

    def set_flags(self, flags: int) -> None:
        """Write other flags."""
        self.facts = self.facts._replace(flags=flags)
        os.pwrite(self._state, self.facts.pack(), 0)

    def room(self) -> int:
        """Bytes that both files take on the disk."""
        return sum(os.fstat(fd).st_blocks * 512 for fd in (self.fd, self._state))

    # -- Locks

    def try_units(self, first: int, end: int) -> bool:
        """Keep other processes from fetching units, unless one does already."""
        return _lock(self._state, fcntl.F_WRLCK, LOCK_UNITS + first, end - first)

    def release_units(self, first: int, end: int) -> None:
        """Let others fetch them again."""
        _lock(self._state, fcntl.F_UNLCK, LOCK_UNITS + first, end - first)

    def try_alone(self) -> bool:
        """Tell whether nobody else has the files open, and keep them out."""
        return _lock(self._state, fcntl.F_WRLCK, LOCK_OPEN)

    def remove(self) -> None:
        """Remove the files, once try_alone() has said yes."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".state").unlink(missing_ok=True)

    def close(self) -> None:
        """Close both files; a second time does nothing."""
        for fd in (self.fd, self._state):
            if fd >= 0:
                os.close(fd)
        self.fd = self._state = -1


def _fits(found: Facts | None, wanted: Facts) -> bool:
    return (
        found is not None
        and found.key == wanted.key
        and (found.size == wanted.size or not wanted.size)
    )


def _open_kept(path: Path, *, create: bool) -> int:
    """Open a state file that nobody is about to remove, and keep it from that."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        fd = os.open(path, flags, 0o600)
        try:
            _lock(fd, fcntl.F_RDLCK, LOCK_OPEN, wait=True)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, kind: int, start: int, length: int = 1, wait: bool = False) -> bool:
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
