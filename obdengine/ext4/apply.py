# SPDX-License-Identifier: Apache-2.0
"""
apply - the tar of one layer, put on top of an ext4 file system.

Members count in their order, later ones win. A whiteout hides what lower
layers brought and nothing of this one, wherever it stands in the tar. The
result depends on the disk, the tar and the options only: no clock, no
address, no order of a hash.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from obdengine.device import Device
from obdengine.errors import BadTar, LimitError
from obdengine.ext4.acl import ACL, fault_of
from obdengine.ext4.tar import Member, Stream, TarReader
from obdengine.ext4.tree import Directory, PathError, Tree, parts_of
from obdengine.ext4.volume import (
    DIRECTORY,
    ROOT,
    Attributes,
    NoRoom,
    Volume,
    open_volume,
    type_of,
)
from obdengine.units import MIB, SECTOR, human_size, round_up

__all__ = ["TIME", "Applied", "ApplyOptions", "Mapped", "apply_layer"]

# What is written where a time is needed and no member has one: 2020-01-01.
TIME = 1577836800

_BILLION = 10**9
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."

_MAX_NAME = 255
_MAX_NOTES = 1000

_FORMATS = {
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "directory": stat.S_IFDIR,
    "fifo": stat.S_IFIFO,
}

_Progress = Callable[[int], None]


@dataclass(frozen=True)
class ApplyOptions:
    """How a layer is put on top.

    Attributes:
        time: seconds since 1970, for directories that no member is about.
        map_data: give blocks to the data of files but do not write it;
            Applied.mapped says where it is in the tar.
    """

    time: int = TIME
    map_data: bool = False


class Mapped(NamedTuple):
    """Bytes of the disk that are, or would be, bytes of the tar."""

    device_offset: int
    tar_offset: int
    length: int


@dataclass
class Applied:
    """What was done.

    Attributes:
        members: of the tar, whiteouts included.
        bytes_read: of the tar, all of it.
        notes: what could not be kept as it was, a sentence each.
        mapped: where data is that was not written, in the order of the tar.
    """

    members: int = 0
    bytes_read: int = 0
    notes: list[str] = field(default_factory=list)
    mapped: list[Mapped] = field(default_factory=list)


def apply_layer(
    device: Device,
    stream: Stream,
    *,
    name: str = "layer",
    options: ApplyOptions | None = None,
    progress: _Progress | None = None,
) -> Applied:
    """Put the tar that stream has, not compressed, on top of a disk's ext4.

    The stream is read to its end. progress is told the bytes of the tar that
    were used so far. Raises BadTar with the member for what cannot be done,
    LimitError with errno ENOSPC when the disk is too small, BadFileSystem,
    Unsupported, ReadOnly, and what reading and writing raise. After an error
    the writable layer holds half a file system: throw it away.
    """
    chosen = options or ApplyOptions()
    reader = TarReader(stream, name)
    with open_volume(device, writing=True, now=chosen.time) as volume:
        applier = _Applier(volume, reader, chosen)
        try:
            applier.run(progress)
        except NoRoom as error:
            raise _too_small(volume, reader, error) from error
    return applier.applied


class _Applier:
    """Applies the members of one tar."""

    def __init__(
        self, volume: Volume, reader: TarReader, options: ApplyOptions
    ) -> None:
        self._volume = volume
        self._reader = reader
        self._map_data = options.map_data
        now = options.time * _BILLION
        self._tree = Tree(volume, Attributes(0o755, mtime=now, atime=now, ctime=now))
        self.applied = Applied()

    def run(self, progress: _Progress | None) -> None:
        for member in self._reader:
            self.applied.members += 1
            try:
                self._apply(member)
            except PathError as error:
                self._bad(member, str(error))
            if progress:
                progress(self._reader.position)
        self._tree.save()
        self.applied.bytes_read = self._reader.position

    def _bad(self, member: Member, what: str) -> NoReturn:
        shown = member.name.decode(errors="backslashreplace")
        raise BadTar(f"{self._reader.name}: {shown}", what, offset=member.offset)

    def _apply(self, member: Member) -> None:
        parts = parts_of(member.name)
        if not parts:
            if member.kind != "directory":
                raise PathError(f"the root cannot be a {member.kind}")
            self._dress(ROOT, member)
            return
        base = parts[-1]
        if base.startswith(_WHITEOUT):
            self._white_out(parts[:-1], base)
        elif not parts[0].startswith(_AUFS):
            if len(base) > _MAX_NAME:
                raise PathError(f"a name of {len(base)} bytes, at most {_MAX_NAME}")
            self._put(self._tree.directory(parts[:-1]), base, member)

    def _white_out(self, above: tuple[bytes, ...], base: bytes) -> None:
        if base != _OPAQUE and base.startswith(_AUFS):
            return  # what AUFS keeps for itself
        name = base[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise PathError("a whiteout of nothing that has a name")
        try:
            at = self._tree.find(above)
        except PathError:
            # umoci writes a file in place of a folder, and whiteouts below it.
            return
        if at is None:
            return
        if base == _OPAQUE:
            self._tree.hide_below(at)
        else:
            self._tree.hide(at, name)

    def _put(self, at: Directory, name: bytes, member: Member) -> None:
        """Make what a member says, in place of what has the name."""
        if member.kind == "link":
            self._link(at, name, member)
            return
        old = at.entries.get(name)
        if old and old[1] == DIRECTORY and member.kind == "directory":
            at.brought.add(name)
            self._dress(old[0], member)
            return
        if old:
            self._tree.remove(at, name)
        a = _attributes(member)
        if member.kind == "directory":
            ino = self._tree.make_directory(at, name, a).ino
        else:
            ino = self._make(member, a)
            self._tree.set(at, name, (ino, type_of(a.mode)))
        if member.xattrs:
            self._set_xattrs(ino, member)

    def _dress(self, ino: int, member: Member) -> None:
        """Give a directory that is there what a member says of it."""
        self._volume.set(ino, _attributes(member))
        if member.xattrs or self._volume.xattrs(ino):
            self._set_xattrs(ino, member)

    def _link(self, at: Directory, name: bytes, member: Member) -> None:
        *above, base = parts_of(member.target) or (b"",)
        where = self._tree.find(tuple(above))
        target = where.entries.get(base) if where else None
        shown = member.target.decode(errors="backslashreplace")
        if target is None or where is None:
            raise PathError(f"a hard link to {shown}, which is not there")
        if target[1] == DIRECTORY:
            raise PathError(f"a hard link to {shown}, a directory")
        if where is at and base == name:
            raise PathError("a hard link to itself")
        try:
            self._volume.link(target[0])
        except LimitError as error:
            if error.errno != errno.EMLINK:
                raise
            raise PathError(f"{shown} has too many hard links") from error
        # Only now: the old one may be a directory that holds the target.
        if name in at.entries:
            self._tree.remove(at, name)
        self._tree.set(at, name, target)

    def _make(self, member: Member, a: Attributes) -> int:
        if member.kind == "file":
            return self._file(member, a)
        try:
            return self._volume.make(a, member.target)
        except LimitError as error:
            if error.errno == errno.ENAMETOOLONG:
                length = len(member.target)
                raise PathError(f"a link target of {length} bytes") from error
            if error.errno == errno.EINVAL:
                device = f"{member.major}:{member.minor}"
                raise PathError(f"there is no device {device}") from error
            raise

    # -- the content of files

    def _file(self, member: Member, a: Attributes) -> int:
        volume = self._volume
        if self._map_data and member.size and (places := self._places(member)):
            return self._map(member, a, places)
        if member.pieces is None:
            first = next(self._reader.data(volume.block_size), memoryview(b""))
            if len(first) == member.size:
                return volume.file(a, first)
            ino, done = volume.begin_file(a), len(first)
            volume.put_file(0, first)
            for data in self._reader.data(volume.block_size):
                volume.put_file(done, data)
                done += len(data)
        else:
            ino = volume.begin_file(a)
            self._put_pieces(member.pieces)
        self._end(member)
        return ino

    def _end(self, member: Member) -> None:
        try:
            self._volume.end_file(member.size)
        except LimitError as error:
            if error.errno != errno.EFBIG:
                raise
            size = human_size(member.size)
            raise PathError(f"a file of {size}, more than ext4 can hold") from error

    def _put_pieces(self, pieces: list[tuple[int, int]]) -> None:
        """Write the pieces of a sparse file, whose data lies end to end."""
        left = iter(pieces)
        offset = length = 0
        for data in self._reader.data():
            while data:
                if not length:
                    offset, length = next(left)
                part = data[:length]
                self._volume.put_file(offset, part)
                offset, length = offset + len(part), length - len(part)
                data = data[len(part) :]

    def _places(self, member: Member) -> list[tuple[int, int, int]]:
        """Return (offset in the file, bytes, offset in the tar) of the data.

        Nothing when it cannot stay in the tar, as blocks are made of sectors.
        """
        pieces = member.pieces
        if pieces is None:
            pieces = [(0, member.size)]
        at, places = member.data_offset, []
        for offset, length in pieces:
            if offset % self._volume.block_size or at % SECTOR:
                return []
            places.append((offset, length, at))
            at += length
        return places

    def _map(
        self, member: Member, a: Attributes, places: list[tuple[int, int, int]]
    ) -> int:
        """Give blocks to data that stays in the tar."""
        volume = self._volume
        ino = volume.begin_file(a)
        for offset, length, _ in places:
            volume.reserve_file(offset, length)
        self._end(member)
        runs = list(volume.runs(ino))
        for offset, length, where in places:
            for run in runs:
                start = max(offset, run.offset)
                end = min(offset + length, run.offset + run.length)
                if start < end:
                    place = run.device_offset + start - run.offset
                    tar = where + start - offset
                    self.applied.mapped.append(Mapped(place, tar, end - start))
        return ino

    # -- extended attributes

    def _set_xattrs(self, ino: int, member: Member) -> None:
        kept = {}
        for key, value in member.xattrs.items():
            if key.startswith(ACL) and (wrong := fault_of(value)):
                raise PathError(f"an access control list {wrong}")
            if key.startswith(_NAMESPACES) and len(key) <= _MAX_NAME:
                kept[key] = value
                continue
            word = key.decode(errors="backslashreplace")
            self._note(member, f"ext4 has no place for the extended attribute {word}")
        try:
            self._volume.set_xattrs(ino, kept)
        except LimitError as error:
            if error.errno != errno.E2BIG:
                raise
            raise PathError("more extended attributes than ext4 can hold") from error

    def _note(self, member: Member, what: str) -> None:
        if len(self.applied.notes) < _MAX_NOTES:
            shown = member.name.decode(errors="backslashreplace")
            self.applied.notes.append(f"{shown}: {what}")


_NAMESPACES = (
    b"user.",
    b"trusted.",
    b"security.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
)


def _attributes(member: Member) -> Attributes:
    """Return what a member says of its inode; no atime: it is the mtime."""
    return Attributes(
        _FORMATS[member.kind] | member.mode,
        member.uid,
        member.gid,
        member.mtime,
        member.mtime if member.atime is None else member.atime,
        member.mtime,
        member.size,
        1,
        (member.major, member.minor),
    )


def _too_small(volume: Volume, reader: TarReader, error: NoRoom) -> LimitError:
    """Read on to the end, to say how large the disk should have been."""
    unit, facts = volume.block_size, volume.refresh()
    bytes_more = inodes_more = 0
    for member in reader:
        bytes_more += round_up(member.size, unit)
        inodes_more += member.kind != "link"
    needed = (facts.blocks - facts.free_blocks) * unit + bytes_more
    # What was being written has an inode of its own, and metadata comes too.
    size = round_up(needed + needed // 16 + inodes_more * 512 + 16 * MIB, 64 * MIB)
    size = max(size, facts.blocks * unit * 2)
    return LimitError(
        str(error.args[0]),
        errno=errno.ENOSPC,
        hint=f"a disk of {human_size(size)} would do",
    )
