# SPDX-License-Identifier: Apache-2.0
"""
filesystem - the ext4 on a disk, looked at by paths.

For reading: who wants to change it uses apply_layer. Paths are bytes or str
and count from the root; symbolic links are followed inside it.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from obdengine.device import Device
from obdengine.errors import BadFileSystem, LimitError, SourceMissing, UsageError
from obdengine.ext4.apply import TIME
from obdengine.ext4.volume import (
    ROOT,
    Attributes,
    Facts,
    Run,
    Volume,
    open_volume,
)
from obdengine.units import GIB, human_size

__all__ = ["Entry", "FileSystem", "open_file_system"]

_MAX_LINKS = 40
_LISTS_KEPT = 256
_INLINE_DATA = 0x10000000

# Bytes of a file in one answer: a damaged inode may claim any size.
_MAX_READ = GIB

_Path = str | bytes


class Entry(NamedTuple):
    """A file of any kind.

    Attributes:
        path: from the root, without a slash in front; b"" is the root.
        inode: its number; two entries with the same are hard links.
        mode: type and permissions, as st_mode.
        mtime: nanoseconds since 1970, as atime and ctime.
        links: hard links to it.
        target: of a symbolic link.
        rdev: (major, minor) of a device.
        blocks: that it takes, in units of 512 bytes.
        xattrs: extended attributes, in the form that getxattr gives.
    """

    path: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    atime: int
    ctime: int
    links: int
    target: bytes
    rdev: tuple[int, int]
    blocks: int
    xattrs: dict[bytes, bytes]


class FileSystem:
    """An open file system; made by open_file_system(). For one thread."""

    def __init__(self, device: Device, volume: Volume) -> None:
        """Look at a volume of device."""
        self._device = device
        self._volume = volume
        self._lists: dict[int, dict[bytes, tuple[int, int]]] = {}

    @property
    def facts(self) -> Facts:
        """What the superblock says."""
        return self._volume.facts

    def walk(self, path: _Path = b"/") -> Iterator[Entry]:
        """Yield what is at path and everything below, names in order.

        No symbolic link is followed below path. Raises SourceMissing when
        there is nothing, BadFileSystem where it is damaged.
        """
        ino = self._resolve(path)
        waiting = [(b"/".join(_parts(path)), ino)]
        folders: set[int] = set()
        while waiting:
            name, ino = waiting.pop()
            entry = self._entry(name, ino)
            yield entry
            if not stat.S_ISDIR(entry.mode):
                continue
            if ino in folders:
                raise BadFileSystem(
                    self._volume.name, f"directory {ino} is in two places"
                )
            folders.add(ino)
            below = self._volume.list(ino)
            for word in sorted(below, reverse=True):
                path_of = name + b"/" + word if name else word
                waiting.append((path_of, below[word][0]))

    def stat(self, path: _Path, *, follow: bool = True) -> Entry:
        """Return what is at path; follow: where a symbolic link points to."""
        return self._entry(b"/".join(_parts(path)), self._resolve(path, follow=follow))

    def list(self, path: _Path = b"/") -> list[bytes]:
        """Return the names in a directory, in order."""
        return sorted(self._listed(self._resolve(path), path))

    def exists(self, path: _Path) -> bool:
        """Tell whether there is something at path, links being followed."""
        try:
            self._resolve(path)
        except SourceMissing:
            return False
        return True

    def read_file(self, path: _Path, offset: int = 0, size: int | None = None) -> bytes:
        """Return size bytes of a file from offset on, less where it ends."""
        ino = self._resolve(path)
        found = self._regular(ino, path)
        end = found.size if size is None else min(offset + size, found.size)
        if end - offset > _MAX_READ:
            asked = human_size(end - offset)
            raise LimitError(
                f"{self._volume.name}: {_shown(path)}: {asked} are too many at once",
                hint=f"read at most {human_size(_MAX_READ)} of it, from an offset",
            )
        if found.flags & _INLINE_DATA:
            return self._volume.read(ino, offset, max(end - offset, 0))
        buffer = bytearray(max(end - offset, 0))
        view = memoryview(buffer)
        for run in self._volume.runs(ino):
            first, last = max(offset, run.offset), min(end, run.offset + run.length)
            if first < last and not run.zero:
                place = run.device_offset + first - run.offset
                if place + last - first > self._device.size:
                    raise BadFileSystem(
                        self._volume.name, f"{_shown(path)} has blocks past the disk"
                    )
                self._device.pread_into(place, view[first - offset : last - offset])
        return bytes(buffer)

    def file_extents(self, path: _Path) -> Sequence[Run]:
        """Return where the disk has the bytes of a file; holes are left out.

        The last run goes on to the end of its block. A file whose data is
        inside its inode has none.
        """
        ino = self._resolve(path)
        if self._regular(ino, path).flags & _INLINE_DATA:
            return []
        return list(self._volume.runs(ino))

    # -- below

    def _entry(self, path: bytes, ino: int) -> Entry:
        a = self._volume.stat(ino)
        return Entry(
            path,
            ino,
            a.mode,
            a.uid,
            a.gid,
            a.size,
            a.mtime,
            a.atime,
            a.ctime,
            a.links,
            self._volume.readlink(ino) if stat.S_ISLNK(a.mode) else b"",
            a.rdev,
            a.blocks,
            self._volume.xattrs(ino),
        )

    def _regular(self, ino: int, path: _Path) -> Attributes:
        found = self._volume.stat(ino)
        if not stat.S_ISREG(found.mode):
            raise UsageError(f"{self._volume.name}: {_shown(path)} is not a file")
        return found

    def _listed(self, ino: int, path: _Path) -> dict[bytes, tuple[int, int]]:
        if not stat.S_ISDIR(self._volume.stat(ino).mode):
            raise UsageError(f"{self._volume.name}: {_shown(path)} is no directory")
        return self._volume.list(ino)

    def _resolve(self, path: _Path, *, follow: bool = True) -> int:
        left, trail, links = deque(_parts(path)), [ROOT], 0
        while left:
            name = left.popleft()
            if name == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            if name in (b"", b"."):
                continue
            here = self._volume.stat(trail[-1])
            is_folder = stat.S_ISDIR(here.mode)
            found = self._names(trail[-1]).get(name) if is_folder else None
            if found is None:
                raise SourceMissing(f"{self._volume.name}: no {_shown(path)} in it")
            if not (left or follow) or not self._is_link(found[0]):
                trail.append(found[0])
                continue
            links += 1
            if links > _MAX_LINKS:
                raise SourceMissing(
                    f"{self._volume.name}: {_shown(path)}: too many symbolic links"
                )
            target = self._volume.readlink(found[0])
            if target[:1] == b"/":
                trail = [ROOT]
            left.extendleft(reversed(target.split(b"/")))
        return trail[-1]

    def _names(self, ino: int) -> dict[bytes, tuple[int, int]]:
        """Return the entries of a directory, which many paths go through."""
        if ino not in self._lists:
            if len(self._lists) == _LISTS_KEPT:
                self._lists.clear()
            self._lists[ino] = self._volume.list(ino)
        return self._lists[ino]

    def _is_link(self, ino: int) -> bool:
        return stat.S_ISLNK(self._volume.stat(ino).mode)


def _parts(path: _Path) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]


def _shown(path: _Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


@contextmanager
def open_file_system(device: Device, *, readonly: bool = True) -> Iterator[FileSystem]:
    """Open the ext2, ext3 or ext4 on a disk for the length of the block.

    readonly=False keeps others from writing meanwhile. Raises BadFileSystem
    when there is none or it is damaged, Unsupported for features that
    libext2fs does not know, CoreError when libext2fs is missing.
    """
    with open_volume(device, writing=not readonly, now=TIME) as volume:
        yield FileSystem(device, volume)
