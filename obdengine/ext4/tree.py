# SPDX-License-Identifier: Apache-2.0
"""
tree - the directories of a file system while a layer is put on top.

A directory that is looked into is held here as a dict; what changes goes to
the disk once, at the end, so a thousand new names in one directory cost as
much as a thousand in many. Names that the layer brought are marked: what a
whiteout hides is all but these.

Every path stays inside the root: "..", absolute names and symbolic links are
followed as if the root were the whole world, as a container runtime does.
"""

from __future__ import annotations

import stat
import struct
from collections import deque

from obdengine.ext4.volume import DIRECTORY, ROOT, SYMLINK, Attributes, Volume, type_of

__all__ = ["Directory", "PathError", "Tree", "parts_of"]

# Linux follows 40; container runtimes' own resolvers follow 255.
_MAX_LINKS = 255

_MAX_NAME = 255
_CHANGE = struct.Struct("<BIBB")
_REMOVE, _ADD = 0, 1

# e2fsck wants it to be there, whatever a layer says.
_LOST_AND_FOUND = b"lost+found"

_Entry = tuple[int, int]


class PathError(Exception):
    """A path cannot be what the layer wants; the reason, without the path."""


class Directory:
    """A directory that was looked into.

    Attributes:
        ino: its inode.
        parent: that of the directory above.
        entries: name to (inode, type), as it shall be.
        before: what the disk has for the names that have changed.
        brought: names that this layer has brought.
    """

    __slots__ = ("before", "brought", "entries", "fresh", "ino", "parent")

    def __init__(
        self,
        ino: int,
        parent: int,
        entries: dict[bytes, _Entry],
        *,
        fresh: bool = False,
    ) -> None:
        """Hold a directory; fresh: the disk has no entries for it yet."""
        self.ino = ino
        self.parent = parent
        self.entries = entries
        self.fresh = fresh
        self.before: dict[bytes, _Entry | None] = {}
        self.brought: set[bytes] = set()

    def changes(self) -> bytes:
        """Return what differs from the disk, packed as ext4.h says."""
        words = []
        for name, old in self.before.items():
            new = self.entries.get(name)
            if old == new:
                continue
            if old:
                words += [_CHANGE.pack(_REMOVE, *old, len(name)), name]
            if new:
                words += [_CHANGE.pack(_ADD, *new, len(name)), name]
        return b"".join(words)

    def links(self) -> int:
        """Return its number of links: . and .., and .. of those below."""
        return 2 + sum(kind == DIRECTORY for _, kind in self.entries.values())


class Tree:
    """The directories of a volume, with changes that wait for save()."""

    def __init__(self, volume: Volume, made: Attributes) -> None:
        """Look into nothing yet; made: of directories that no member is about."""
        self._volume = volume
        self._made = made
        self._held: dict[int, Directory] = {}
        self._paths: dict[tuple[bytes, ...], Directory] = {}
        self.root = self._hold(ROOT, ROOT)

    def _hold(self, ino: int, parent: int) -> Directory:
        found = self._held.get(ino)
        if found is None:
            entries = self._volume.list(ino)
            for name, (child, kind) in entries.items():
                if not kind:
                    entries[name] = child, type_of(self._volume.stat(child).mode)
            found = self._held[ino] = Directory(ino, parent, entries)
        return found

    def child(self, above: Directory, ino: int) -> Directory:
        """Return the directory of inode ino, an entry of above."""
        return self._hold(ino, above.ino)

    # -- paths

    def directory(self, path: tuple[bytes, ...]) -> Directory:
        """Return the directory that path leads to, made where there is none.

        All on the way count as brought. Raises PathError when something on
        the way is no directory.
        """
        found = self._paths.get(path)
        if found is None:
            found = self._walk(path, make=True)
            assert found is not None
            self._paths[path] = found
        return found

    def find(self, path: tuple[bytes, ...]) -> Directory | None:
        """Return the directory that path leads to, None where there is nothing."""
        return self._walk(path, make=False)

    def _walk(self, path: tuple[bytes, ...], *, make: bool) -> Directory | None:
        left, at, links = deque(path), self.root, 0
        while left:
            name = left.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                at = self._held[at.parent]
                continue
            entry = at.entries.get(name)
            if entry is None:
                if not make:
                    return None
                at = self.make_directory(at, name, self._made)
                continue
            ino, kind = entry
            if make:
                at.brought.add(name)
            if kind == DIRECTORY:
                at = self._hold(ino, at.ino)
                continue
            if kind != SYMLINK:
                where = name.decode(errors="backslashreplace")
                raise PathError(f"{where} on its path is not a directory")
            links += 1
            at = self._follow(at, ino, left, links)
        return at

    def _follow(
        self, at: Directory, ino: int, left: deque[bytes], links: int
    ) -> Directory:
        """Put where a symbolic link points to before what is left of a path."""
        if links > _MAX_LINKS:
            raise PathError("too many symbolic links on its path")
        target = self._volume.readlink(ino)
        left.extendleft(reversed(target.split(b"/")))
        return self.root if target[:1] == b"/" else at

    # -- changes

    def set(self, at: Directory, name: bytes, entry: _Entry | None) -> None:
        """Make name mean entry; a check for what it meant is the caller's."""
        old = at.entries.get(name)
        at.before.setdefault(name, old)
        if entry is None:
            del at.entries[name]
            at.brought.discard(name)
        else:
            at.entries[name] = entry
            at.brought.add(name)

    def make_directory(self, at: Directory, name: bytes, a: Attributes) -> Directory:
        """Make a directory where there is nothing of that name."""
        if len(name) > _MAX_NAME:
            raise PathError(f"a name of {len(name)} bytes, at most {_MAX_NAME}")
        ino = self._volume.make(a._replace(mode=stat.S_IFDIR | a.mode & 0o7777))
        self.set(at, name, (ino, DIRECTORY))
        made = self._held[ino] = Directory(ino, at.ino, {}, fresh=True)
        return made

    def remove(self, at: Directory, name: bytes) -> None:
        """Remove an entry and, if it is a directory, all that is below."""
        entry = at.entries[name]
        self.set(at, name, None)
        if entry[1] in (DIRECTORY, SYMLINK):
            self._paths.clear()
        waiting = [(entry, at)]
        while waiting:
            (ino, kind), above = waiting.pop()
            if kind == DIRECTORY:
                found = self._hold(ino, above.ino)
                waiting += [(below, found) for below in found.entries.values()]
                del self._held[ino]
            self._volume.unlink(ino)

    def hide(self, at: Directory, name: bytes) -> None:
        """Remove what lower layers brought of an entry, if there is one."""
        if name in at.entries:
            self._hide(at, [name])

    def hide_below(self, at: Directory) -> None:
        """Remove what lower layers brought of a directory's content."""
        self._hide(at, list(at.entries))

    def _hide(self, at: Directory, names: list[bytes]) -> None:
        waiting = [(at, names)]
        while waiting:
            at, names = waiting.pop()
            for name in names:
                ino, kind = at.entries[name]
                if at is self.root and name == _LOST_AND_FOUND:
                    continue
                if name not in at.brought:
                    self.remove(at, name)
                elif kind == DIRECTORY:
                    below = self._hold(ino, at.ino)
                    waiting.append((below, list(below.entries)))

    def save(self) -> None:
        """Write every directory that has changed."""
        for ino in sorted(self._held):
            at = self._held[ino]
            changes = at.changes()
            if changes or at.fresh:
                self._volume.change(ino, at.parent, at.links(), changes)
                at.fresh = False
                at.before.clear()


def parts_of(name: bytes) -> tuple[bytes, ...]:
    """Return the parts of a name, of which ".." takes back the one before.

    This is done before any link is followed, as container runtimes do it.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)
