# SPDX-License-Identifier: Apache-2.0
"""
volume - an open ext4 file system by the number of its inodes; no paths.

A thin layer over C: one call each, errors with a sentence. A Volume is for
one thread at a time; what is absent is fetched by the device on the way.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from obdengine.device import Device
from obdengine.errors import (
    BadFileSystem,
    CoreError,
    LimitError,
    Unsupported,
    UsageError,
)
from obdengine.ext4.acl import ACL, from_disk
from obdengine.ext4.binding import ffi, lib, require
from obdengine.units import MIB

__all__ = [
    "DIRECTORY",
    "ROOT",
    "SYMLINK",
    "Attributes",
    "Facts",
    "NoRoom",
    "Run",
    "Volume",
    "open_volume",
    "type_of",
]

# Pages of metadata: those of a root file system of 100 000 files fit.
_CACHE_SIZE = 64 * MIB

# The inode of /, and what a directory says of the types of its entries.
ROOT = 2
DIRECTORY, SYMLINK = 2, 7
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: SYMLINK,
}

_RUNS_AT_ONCE = 4096
_ENTRY = struct.Struct("<IBB")
_BILLION = 10**9


def type_of(mode: int) -> int:
    """Return what a directory says of an inode of this mode."""
    return _TYPES.get(stat.S_IFMT(mode), 0)


class NoRoom(LimitError):
    """The file system is full, of blocks or of inodes."""

    errno = errno.ENOSPC


class Attributes(NamedTuple):
    """What an inode is, apart from its content; times in nanoseconds."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    atime: int = 0
    ctime: int = 0
    size: int = 0
    links: int = 0
    rdev: tuple[int, int] = (0, 0)
    blocks: int = 0
    flags: int = 0


class Run(NamedTuple):
    """Bytes of a file and where the disk has them; zero: they are not written."""

    offset: int
    device_offset: int
    length: int
    zero: bool


class Facts(NamedTuple):
    """What the superblock says."""

    block_size: int
    inode_size: int
    blocks: int
    free_blocks: int
    reserved_blocks: int
    inodes: int
    free_inodes: int
    clean: bool
    uuid: bytes
    label: bytes
    features: tuple[int, int, int]


# Features of which this room does not know how to keep the promises, by the
# word of the superblock that they are in, and what mke2fs calls them.
_UNWRITABLE: tuple[dict[int, str], ...] = (
    {},
    {
        0x0004: "needs_recovery",
        0x0008: "journal_dev",
        0x0100: "mmp",
        0x0400: "ea_inode",
        0x8000: "inline_data",
        0x10000: "encrypt",
        0x20000: "casefold",
    },
    {
        0x0100: "quota",
        0x0200: "bigalloc",
        0x1000: "read-only",
        0x2000: "project",
        0x4000: "shared_blocks",
        0x8000: "verity",
        0x10000: "orphan_present",
    },
)


class Volume:
    """An open file system; made by open_volume()."""

    def __init__(self, device: Device, core: Any, *, writing: bool, now: int) -> None:
        """Read the superblock and, for writing, the bitmaps."""
        self.name = device.name
        self._device = device
        self._core = core
        self._raised: BaseException | None = None
        self._handle = ffi.new_handle(self)
        self._attributes = ffi.new("struct obd_attributes *")
        self._number = ffi.new("uint32_t *")
        self._c = ffi.NULL
        disk = self._disk()
        out = ffi.new("struct obd_ext4 **")
        code = lib.obd_ext4_open(disk, writing, _CACHE_SIZE, now, out)
        self._c = out[0]
        try:
            self._check(code, "open the file system")
            self.facts = self._facts()
            if writing:
                self._judge()
        except BaseException:
            self.abandon()
            raise
        self.block_size = self.facts.block_size

    def _disk(self) -> Any:
        calls = self._core.calls()
        disk = ffi.new("struct obd_disk *")
        disk.device = ffi.cast("struct obd_device *", calls.device)
        for name in ("read", "write", "discard"):
            field = ffi.typeof("struct obd_disk").fields
            kind = dict(field)[name].type
            setattr(disk, name, ffi.cast(kind, getattr(calls, name)))
        disk.recover = lib.obd_ext4_recover
        disk.context = self._handle
        disk.size = self._device.size
        return disk

    def _judge(self) -> None:
        """Refuse to write to what is not sound, or not understood."""
        for bits, names in zip(self.facts.features, _UNWRITABLE, strict=True):
            for bit, word in names.items():
                if bits & bit:
                    raise Unsupported(
                        self.name, f"files cannot be added to an ext4 with {word}"
                    )
        if not self.facts.clean:
            raise UsageError(
                f"{self.name}: the file system was not unmounted, or has errors",
                hint="e2fsck -f puts it right",
            )

    # -- life

    def close(self) -> None:
        """Write everything that waits; the disk itself is not flushed."""
        try:
            self._check(lib.obd_ext4_flush(self._c), "write the file system")
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Forget it without writing."""
        pointer, self._c = self._c, ffi.NULL
        lib.obd_ext4_abandon(pointer)
        # The handle is a circle, in which the disk would stay open.
        self._handle = self._core = None

    def normalize(self) -> None:
        """Set what mke2fs takes from the machine that it runs on."""
        self._check(lib.obd_ext4_normalize(self._c), "change the superblock")

    def _facts(self) -> Facts:
        c = ffi.new("struct obd_ext4_facts *")
        lib.obd_ext4_facts(self._c, c)
        return Facts(
            c.block_size,
            c.inode_size,
            c.blocks,
            c.free_blocks,
            c.reserved_blocks,
            c.inodes,
            c.free_inodes,
            bool(c.clean),
            bytes(c.uuid),
            ffi.string(c.label),
            (c.compat, c.incompat, c.ro_compat),
        )

    def refresh(self) -> Facts:
        """Return the facts as they are now."""
        self.facts = self._facts()
        return self.facts

    # -- failures

    def recover(self, op: int, offset: int, buffer: Any, size: int) -> int:
        """Do what failed again, for C, which cannot be raised through."""
        try:
            if op == lib.OBD_DISK_READ:
                self._device.pread_into(offset, ffi.buffer(buffer, size))
            elif op == lib.OBD_DISK_WRITE:
                self._core.pwrite(offset, ffi.buffer(buffer, size))
            else:
                self._core.discard(offset, size)
        except BaseException as error:
            self._raised = error
            return errno.EIO
        return 0

    def _check(self, code: int, what: str) -> None:
        if code:
            self._fail(code, what)

    def _fail(self, code: int, what: str) -> None:
        if self._raised:
            raise self._raised
        if self._c == ffi.NULL or code == errno.ENOMEM:
            raise CoreError(f"{self.name}: no memory to {what}", errno=errno.ENOMEM)
        if code == lib.EXT2_ET_BLOCK_ALLOC_FAIL:
            raise NoRoom(f"{self.name}: no room to {what}: every block is taken")
        if code == lib.EXT2_ET_INODE_ALLOC_FAIL:
            raise NoRoom(f"{self.name}: no room to {what}: every inode is taken")
        if code < 4096:
            raise LimitError(
                f"{self.name}: cannot {what}: {os.strerror(code)}", errno=code
            )
        text = ffi.string(lib.obd_ext4_message(code)).decode(errors="replace")
        unsupported = (lib.EXT2_ET_UNSUPP_FEATURE, lib.EXT2_ET_RO_UNSUPP_FEATURE)
        kind = Unsupported if code in unsupported else BadFileSystem
        raise kind(self.name, f"cannot {what}: {text}")

    # -- inodes

    def stat(self, ino: int) -> Attributes:
        """Return what an inode is."""
        c = self._attributes
        self._check(lib.obd_ext4_stat(self._c, ino, c), f"read inode {ino}")
        return Attributes(
            c.mode,
            c.uid,
            c.gid,
            _nanoseconds(c.mtime),
            _nanoseconds(c.atime),
            _nanoseconds(c.ctime),
            c.size,
            c.links,
            (c.major, c.minor),
            c.blocks,
            c.flags,
        )

    def readlink(self, ino: int) -> bytes:
        """Return where a symbolic link points to."""
        buffer, n = ffi.new("uint8_t[]", 4096), ffi.new("size_t *")
        code = lib.obd_ext4_readlink(self._c, ino, buffer, 4096, n)
        self._check(code, f"read the link of inode {ino}")
        return bytes(ffi.buffer(buffer, n[0]))

    def make(self, a: Attributes, target: bytes = b"") -> int:
        """Make a directory, link to target, device or FIFO; return its inode."""
        c = self._fill(a)
        code = lib.obd_ext4_make(self._c, c, target, len(target), self._number)
        self._check(code, "make an inode")
        return int(self._number[0])

    def set(self, ino: int, a: Attributes) -> None:
        """Set permissions, owner and times."""
        code = lib.obd_ext4_set(self._c, ino, self._fill(a))
        self._check(code, f"change inode {ino}")

    def link(self, ino: int) -> None:
        """Count one link more."""
        self._check(lib.obd_ext4_link(self._c, ino), f"link inode {ino} again")

    def unlink(self, ino: int) -> None:
        """Count one link less, free the inode with the last; directories at once."""
        self._check(lib.obd_ext4_unlink(self._c, ino), f"free inode {ino}")

    def _fill(self, a: Attributes) -> Any:
        c = self._attributes
        c.mode, c.uid, c.gid, c.size = a.mode, a.uid, a.gid, a.size
        c.major, c.minor = a.rdev
        for field, time in ((c.mtime, a.mtime), (c.atime, a.atime), (c.ctime, a.ctime)):
            field.seconds, field.nanoseconds = divmod(time, _BILLION)
        return c

    # -- files

    def file(self, a: Attributes, data: memoryview) -> int:
        """Make a file of this content; return its inode."""
        source = ffi.from_buffer("uint8_t[]", data)
        code = lib.obd_ext4_file(
            self._c, self._fill(a), source, len(data), self._number
        )
        self._check(code, f"write a file of {a.size} bytes")
        return int(self._number[0])

    def begin_file(self, a: Attributes) -> int:
        """Make a file of a.size bytes, whose content comes next."""
        code = lib.obd_ext4_file_begin(self._c, self._fill(a), self._number)
        self._check(code, "make a file")
        return int(self._number[0])

    def put_file(self, offset: int, data: memoryview) -> None:
        """Write content of the file that was begun, in ascending order."""
        source = ffi.from_buffer("uint8_t[]", data)
        code = lib.obd_ext4_file_data(self._c, offset, source, len(data))
        self._check(code, "write a file")

    def reserve_file(self, offset: int, length: int) -> None:
        """Give blocks to a range of the file, and write nothing to them."""
        code = lib.obd_ext4_file_data(self._c, offset, ffi.NULL, length)
        self._check(code, "write a file")

    def end_file(self, size: int) -> None:
        """End the file; what was not written of it reads as zeros."""
        self._check(lib.obd_ext4_file_end(self._c, size), "write a file")

    def runs(self, ino: int) -> Iterator[Run]:
        """Yield where the disk has the blocks of a file; holes are left out."""
        out, n = ffi.new("struct obd_run[]", _RUNS_AT_ONCE), ffi.new("size_t *")
        logical, size = 0, self.block_size
        while True:
            code = lib.obd_ext4_runs(self._c, ino, logical, out, _RUNS_AT_ONCE, n)
            self._check(code, f"read the map of inode {ino}")
            for i in range(n[0]):
                r = out[i]
                start, length = r.physical * size, r.count * size
                yield Run(r.logical * size, start, length, bool(r.unwritten))
                logical = r.logical + r.count
            if n[0] < _RUNS_AT_ONCE:
                return

    def read(self, ino: int, offset: int, length: int) -> bytes:
        """Return bytes of a file, less where it ends."""
        buffer, n = ffi.new("uint8_t[]", length), ffi.new("size_t *")
        done = 0
        while done < length:
            code = lib.obd_ext4_read(
                self._c, ino, offset + done, buffer + done, length - done, n
            )
            self._check(code, f"read inode {ino}")
            if not n[0]:
                break
            done += n[0]
        return bytes(ffi.buffer(buffer, done))

    # -- directories and attributes

    def list(self, ino: int) -> dict[bytes, tuple[int, int]]:
        """Return the entries of a directory but . and ..: name to (inode, type)."""
        raw = self._taken(lib.obd_ext4_list, ino, "list directory")
        found, at = {}, 0
        while at < len(raw):
            number, kind, length = _ENTRY.unpack_from(raw, at)
            at += _ENTRY.size + length
            found[raw[at - length : at]] = number, kind
        return found

    def change(self, ino: int, parent: int, links: int, changes: bytes) -> None:
        """Change entries of a directory: packed as ext4.h says."""
        code = lib.obd_ext4_change(self._c, ino, parent, links, changes, len(changes))
        self._check(code, f"change directory {ino}")

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """Return all extended attributes of an inode."""
        raw = self._taken(lib.obd_ext4_xattrs, ino, "read the attributes of inode")
        found, at = {}, 0
        while at < len(raw):
            name = raw[at + 1 : at + 1 + raw[at]]
            at += 1 + len(name)
            (size,) = struct.unpack_from("<I", raw, at)
            value = raw[at + 4 : at + 4 + size]
            found[name] = from_disk(value) if name.startswith(ACL) else value
            at += 4 + size
        return found

    def set_xattrs(self, ino: int, values: Mapping[bytes, bytes]) -> None:
        """Give an inode these extended attributes and no others.

        Raises LimitError with errno E2BIG when they need too much room.
        """
        raw = b"".join(
            b"%c%b%b%b" % (len(name), name, struct.pack("<I", len(value)), value)
            for name, value in sorted(values.items())
        )
        code = lib.obd_ext4_set_xattrs(self._c, ino, raw, len(raw))
        if code == lib.EXT2_ET_EA_NO_SPACE:
            raise LimitError(
                f"{self.name}: {len(raw)} bytes of extended attributes are too many",
                errno=errno.E2BIG,
            )
        self._check(code, f"set the attributes of inode {ino}")

    def _taken(self, call: Any, ino: int, what: str) -> bytes:
        """Return the bytes that a call has allocated."""
        out, n = ffi.new("uint8_t **"), ffi.new("size_t *")
        self._check(call(self._c, ino, out, n), f"{what} {ino}")
        try:
            return bytes(ffi.buffer(out[0], n[0])) if n[0] else b""
        finally:
            lib.free(out[0])


def _nanoseconds(time: Any) -> int:
    return int(time.seconds) * _BILLION + int(time.nanoseconds)


if ffi is not None:

    @ffi.def_extern(error=errno.EIO)  # type: ignore[untyped-decorator]
    def obd_ext4_recover(
        context: Any, op: int, offset: int, buffer: Any, size: int
    ) -> int:
        """Hand what failed in C to the Volume that it was done for."""
        volume: Volume = ffi.from_handle(context)
        return volume.recover(op, offset, buffer, size)


@contextmanager
def open_volume(device: Device, *, writing: bool, now: int) -> Iterator[Volume]:
    """Open what is on a device; when the block ends well, everything is written.

    now: what is written as the present, seconds. Raises BadFileSystem for
    what is no sound ext2, ext3 or ext4, Unsupported, CoreError when libext2fs
    is missing, and what reading and writing raise.
    """
    require()
    with device.lent(writing=writing) as core:
        volume = Volume(device, core, writing=writing, now=now)
        try:
            yield volume
        except BaseException:
            volume.abandon()
            raise
        volume.close()
