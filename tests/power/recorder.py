# SPDX-License-Identifier: Apache-2.0
"""
recorder - notes every change that is made to the files of one folder.

Python's calls are caught in `os`, those of the C core in `_core.Io`; both are
carried out as well. What is not known here is refused, and replaying the log
must give what is in the folder, so nothing gets past it unseen.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from obdengine import _core

_REFUSED = ("write", "writev", "pwritev", "sendfile", "copy_file_range", "link")
_REFUSED += ("symlink", "posix_fallocate", "mkdir", "rmdir")

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


class Op(NamedTuple):
    """One change.

    Attributes:
        kind: write, punch, truncate, sync of a file; create, rename, unlink of
            a name; folder, which is a sync of it.
        tick: when, among all that happens.
        file: number of the file, -1 for none.
        offset: in bytes; of truncate: the size.
        size: bytes.
        data: of write.
        name: what is created, renamed or unlinked.
        target: what it is renamed to.
    """

    kind: str
    tick: int
    file: int = -1
    offset: int = 0
    size: int = 0
    data: bytes = b""
    name: str = ""
    target: str = ""

    def __str__(self) -> str:
        where = f" {self.offset}+{self.size}" if self.kind in ("write", "punch") else ""
        size = f" {self.offset}" if self.kind == "truncate" else ""
        names = " ".join(name for name in (self.name, self.target) if name)
        return f"{self.kind} file {self.file}{where}{size} {names}".rstrip()


class Recorder:
    """The log of one folder, and the clock of all that happens in a run.

    Attributes:
        log: every change, in order.
        start: name -> (file, content) when recording began.
        before: called before each change, if set; may write to the disk, or
            raise OSError instead of the change.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with what is in the folder."""
        self.folder = folder.resolve()
        self.log: list[Op] = []
        self.before: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._ticks = 0
        self._count = 0
        self._files: dict[tuple[int, int], int] = {}
        self._real: dict[str, Any] = {}
        self.start: dict[str, tuple[int, bytes]] = {}
        for path in sorted(self.folder.iterdir()):
            self.start[path.name] = (self._new(path.stat()), path.read_bytes())

    def tick(self) -> int:
        """Return the time, which goes on by one."""
        with self._lock:
            self._ticks += 1
            return self._ticks

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Catch every change until the block ends."""
        caught = {
            name.removeprefix("_on_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_on_")
        }
        refused = {name: self._refuse(name) for name in _REFUSED}
        self._real = {name: getattr(os, name) for name in [*caught, *refused]}
        plain_upper = _core.Upper

        def upper(*args: Any, **more: Any) -> _core.Upper:
            return plain_upper(*args, **more | {"io": self.io()})

        with (
            mock.patch.multiple(os, **caught, **refused),
            mock.patch.multiple(_core, Upper=upper, punch=self._punch),
        ):
            yield

    def io(self) -> _core.Io:
        """Return what the core does to files, by way of here."""
        return _core.Io(
            write=self._core_write,
            sync=lambda fd: _errno(os.fdatasync, fd),
            truncate=lambda fd, size: _errno(os.ftruncate, fd, size),
            punch=self._punch,
        )

    # -- Files

    def _new(self, stat: os.stat_result) -> int:
        self._count += 1
        self._files[stat.st_dev, stat.st_ino] = self._count
        return self._count

    def _file(self, fd: int) -> int | None:
        """Return the number of an open file, None for one from elsewhere."""
        stat = os.fstat(fd)
        return self._files.get((stat.st_dev, stat.st_ino))

    def _name(self, path: Any) -> str | None:
        """Return the name of a path in the folder, None for one elsewhere."""
        if isinstance(path, int):
            return None
        found = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays one
        return found.name if found.parent == self.folder else None

    @contextmanager
    def _noting(self) -> Iterator[Callable[..., None]]:
        """Do something and note it, in one step for other threads."""
        if self.before:
            self.before()
        with self._lock:
            yield lambda kind, **more: self.log.append(Op(kind, self.tick(), **more))

    def _refuse(self, name: str) -> Callable[..., Any]:
        def refused(*args: Any, **more: Any) -> Any:
            for arg in args[:2]:
                known = self._file(arg) if isinstance(arg, int) else self._name(arg)
                assert not known, f"os.{name}{args} is not recorded"
            return self._real[name](*args, **more)

        return refused

    # -- What os does; each is put in the place of the function of that name

    def _on_open(self, path: Any, flags: int, *more: Any, **words: Any) -> int:
        name = self._name(path)
        if name is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return self._real["open"](path, flags, *more, **words)
        with self._noting() as note:
            there = os.path.lexists(path)
            fd = self._real["open"](path, flags, *more, **words)
            if not there:
                note("create", file=self._new(os.fstat(fd)), name=name)
            elif flags & os.O_TRUNC:
                note("truncate", file=self._file(fd), offset=0)
        return fd

    def _on_pwrite(self, fd: int, data: Any, offset: int) -> int:
        if self._file(fd) is None:
            return self._real["pwrite"](fd, data, offset)
        with self._noting() as note:
            done = self._real["pwrite"](fd, data, offset)
            kept = bytes(memoryview(data).cast("B")[:done])
            note("write", file=self._file(fd), offset=offset, size=done, data=kept)
        return done

    def _on_ftruncate(self, fd: int, size: int) -> None:
        if self._file(fd) is None:
            return self._real["ftruncate"](fd, size)
        with self._noting() as note:
            self._real["ftruncate"](fd, size)
            note("truncate", file=self._file(fd), offset=size)
        return None

    def _on_truncate(self, path: Any, size: int) -> None:
        assert isinstance(path, int), "os.truncate by name is not recorded"
        self._on_ftruncate(path, size)

    def _on_fsync(self, fd: int) -> None:
        if self._is_folder(fd):
            with self._noting() as note:
                return note("folder")
        if self._file(fd) is None:
            return self._real["fsync"](fd)
        with self._noting() as note:
            return note("sync", file=self._file(fd))

    _on_fdatasync = _on_fsync

    def _is_folder(self, fd: int) -> bool:
        return os.path.samestat(os.fstat(fd), self.folder.stat())

    def _on_replace(self, source: Any, target: Any, **more: Any) -> None:
        old, new = self._name(source), self._name(target)
        if old is None and new is None:
            return self._real["replace"](source, target, **more)
        assert old, f"{new} comes from another folder"
        assert new, f"{old} goes to another folder"
        with self._noting() as note:
            self._real["replace"](source, target)
            return note("rename", name=old, target=new)

    _on_rename = _on_replace

    def _on_unlink(self, path: Any, **more: Any) -> None:
        name = self._name(path)
        if name is None:
            return self._real["unlink"](path, **more)
        with self._noting() as note:
            self._real["unlink"](path)
            return note("unlink", name=name)

    _on_remove = _on_unlink

    # -- What the core does

    def _core_write(self, fd: int, data: bytes, offset: int) -> int:
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(fd, view, offset)
            except OSError as error:
                return error.errno or 5
            view, offset = view[done:], offset + done
        return 0

    def _punch(self, fd: int, offset: int, size: int) -> int:
        return _errno(self._punched, fd, offset, size)

    def _punched(self, fd: int, offset: int, size: int) -> None:
        with self._noting() as note:
            _fallocate(fd, offset, size)
            if self._file(fd) is not None:
                note("punch", file=self._file(fd), offset=offset, size=size)


def _errno(call: Callable[..., None], *args: Any) -> int:
    try:
        call(*args)
    except OSError as error:
        return error.errno or 5
    return 0


def _fallocate(fd: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_int64(offset), ctypes.c_int64(size))
    if libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, *words) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")
