# SPDX-License-Identifier: Apache-2.0
"""
tree - a directory of this host as a tar, read while it is made.

Names, modes, owners, times to the nanosecond, extended attributes (ACLs and
capabilities among them), hard links, symbolic links, devices and pipes are as
this process sees them. Members come in the order of their names, so the same
tree gives the same bytes. It does not go into other file systems, and
nothing is written.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from obdengine.errors import SourceError
from obdengine.units import SECTOR, round_up

__all__ = ["Owner", "TreeTar"]

_STEP = 1 << 20
_XATTR = "SCHILY.xattr."

_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Owner(NamedTuple):
    """Who shall own everything, whoever does here."""

    uid: int
    gid: int


class TreeTar:
    """A directory as a stream of a tar in the PAX format.

    Attributes:
        name: the directory.
        notes: sentences about what is left out; whole at the end.
        size: bytes of files that were read so far.
    """

    def __init__(
        self, path: str | os.PathLike[str], owner: Owner | None = None
    ) -> None:
        """Read the directory at path; owner None: everything keeps its owners.

        Raises SourceError when it is none.
        """
        self.name = os.fspath(path)
        self.notes: list[str] = []
        self.size = 0
        self._owner = owner
        self._root = os.fsencode(path)
        self._links: dict[tuple[int, int], bytes] = {}
        self._device = self._status(b"").st_dev
        if not stat.S_ISDIR(self._status(b"").st_mode):
            raise SourceError(f"{self.name}: not a directory")
        self._pieces = self._all()
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes of the tar, none at its end; -1: all.

        Raises SourceError for what cannot be read, or changes meanwhile.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_STEP), b""))
        found, have = [self._rest], len(self._rest)
        while have < size and (piece := next(self._pieces, b"")):
            found.append(memoryview(piece))
            have += len(piece)
        whole = memoryview(b"".join(found))
        self._rest = whole[size:]
        return bytes(whole[:size])

    def close(self) -> None:
        """Close what is open; twice does nothing."""
        self._pieces.close()  # type: ignore[attr-defined]

    def __enter__(self) -> TreeTar:
        """Return the stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # -- Below

    def _all(self) -> Iterator[bytes]:
        """Yield the tar in pieces, none of them empty."""
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            status = self._status(path)
            if path and status.st_dev != self._device:
                self._leave_out(path, "is on another file system")
                continue
            yield from self._member(path, status)
            if stat.S_ISDIR(status.st_mode):
                names = sorted(self._names(path), reverse=True)
                waiting += [_inside(path, name) for name in names]
        yield bytes(2 * SECTOR)

    def _member(self, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._leave_out(path, "is a socket")
            return
        info = self._info(path, status, kind)
        first = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and kind != tarfile.DIRTYPE:
            if first in self._links:
                info.type, info.size = tarfile.LNKTYPE, 0
                info.linkname = os.fsdecode(self._links[first])
            else:
                self._links[first] = path
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.type == tarfile.REGTYPE:
            yield from self._content(path, info.size)

    def _info(
        self, path: bytes, status: os.stat_result, kind: bytes
    ) -> tarfile.TarInfo:
        info = tarfile.TarInfo(os.fsdecode(path or b"."))
        info.type = kind
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = self._owner or (status.st_uid, status.st_gid)
        info.mtime, below = divmod(status.st_mtime_ns, 10**9)
        info.pax_headers = self._attributes(path)
        if below or info.mtime < 0:
            info.pax_headers["mtime"] = _decimal(status.st_mtime_ns)
            info.mtime = max(0, info.mtime)
        if kind == tarfile.REGTYPE:
            info.size = status.st_size
        elif kind == tarfile.SYMTYPE:
            info.linkname = os.fsdecode(self._try(os.readlink, path))
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor = os.major(status.st_rdev)
            info.devminor = os.minor(status.st_rdev)
        return info

    def _attributes(self, path: bytes) -> dict[str, str]:
        full = _inside(self._root, path)
        try:
            names = sorted(os.listxattr(full, follow_symlinks=False))
        except OSError:
            return {}  # a file system that has none
        found = {}
        for name in names:
            value = self._try(
                lambda file, name=name: os.getxattr(file, name, follow_symlinks=False),
                path,
            )
            found[f"{_XATTR}{name}"] = os.fsdecode(value)
        return found

    def _content(self, path: bytes, size: int) -> Iterator[bytes]:
        fd = self._try(lambda file: os.open(file, os.O_RDONLY | os.O_NOFOLLOW), path)
        done = 0
        try:
            while done < size:
                step = min(_STEP, size - done)
                data = self._try(lambda _: os.pread(fd, step, done), path)  # noqa: B023
                if not data:
                    raise SourceError(
                        f"{self._called(path)}: has become shorter while it was read"
                    )
                done += len(data)
                self.size += len(data)
                yield data
        finally:
            os.close(fd)
        if padding := round_up(size, SECTOR) - size:
            yield bytes(padding)

    def _names(self, path: bytes) -> list[bytes]:
        return self._try(os.listdir, path)  # type: ignore[no-any-return]

    def _status(self, path: bytes) -> os.stat_result:
        return self._try(os.lstat, path)  # type: ignore[no-any-return]

    def _try(self, call: Any, path: bytes) -> Any:
        try:
            return call(_inside(self._root, path))
        except OSError as error:
            raise SourceError(
                f"{self._called(path)}: {error.strerror}", errno=error.errno
            ) from error

    def _leave_out(self, path: bytes, why: str) -> None:
        self.notes.append(f"{self._called(path)} {why}, and is left out")

    def _called(self, path: bytes) -> str:
        return os.fsdecode(_inside(self._root, path))


def _inside(folder: bytes, name: bytes) -> bytes:
    return b"/".join(word for word in (folder, name) if word)


def _decimal(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    seconds, below = divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}.{below:09}"
