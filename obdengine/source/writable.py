# SPDX-License-Identifier: Apache-2.0
"""
writable - a file that is written in place, and by one process at a time.

The lock is the kernel's, on the open file: it goes with the process, so there
is no such thing as a stale one. Writers keep everybody out, readers only
writers. What the bytes mean is none of its business.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obdengine import _core
from obdengine.errors import Busy, SourceError, SourceMissing
from obdengine.source.output import Output

__all__ = ["WritableFile", "alone_in"]

# struct flock: type, whence, start, len (0: all of it), pid, which must be 0.
_FLOCK = struct.Struct("hhqqi4x")


class WritableFile:
    """A regular file, open for reading and writing; reading only if asked.

    Attributes:
        path: where it is, absolute.
        name: path as it was given, for errors.
        readonly: whether it was opened for reading only.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        """Open the file that is at path.

        Raises SourceMissing when there is none, SourceError when it cannot be
        opened.
        """
        self.path = Path(path).absolute()
        self.name = str(path)
        self.readonly = readonly
        flags = os.O_RDONLY if readonly else os.O_RDWR
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise SourceMissing(f"{self.name}: no such file") from error
        except OSError as error:
            raise self._failed("cannot be opened", error) from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise SourceError(f"{self.name}: not a regular file")

    @classmethod
    def create(cls, path: str | os.PathLike[str], *pieces: bytes) -> None:
        """Make a file of pieces, durably and in one step, over what is there."""
        with Output(path) as out:
            for piece in pieces:
                out.append(piece)
            out.commit()

    def lock(self) -> None:
        """Keep writers out until close(), and unless readonly, readers too.

        Raises Busy, which names who keeps us out.
        """
        kind = fcntl.F_RDLCK if self.readonly else fcntl.F_WRLCK
        try:
            lock = _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise self._failed("cannot be locked", error) from error
            raise Busy(
                f"{self.name}: in use by {self._holders()}",
                hint="while one process writes to it, no other can use it",
            ) from error

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    @property
    def size(self) -> int:
        """Bytes that the file has now."""
        return os.fstat(self._fd).st_size

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to size bytes at offset; fewer only at the end."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise self._failed(f"offset {offset}", error) from error

    def write(self, offset: int, data: bytes) -> None:
        """Put data at offset."""
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise self._failed(f"offset {offset}", error) from error

    def truncate(self, size: int) -> None:
        """Make the file size bytes long."""
        try:
            os.truncate(self._fd, size)
        except OSError as error:
            raise self._failed(f"cannot have {size} bytes", error) from error

    def punch(self, offset: int, size: int) -> None:
        """Make a range a hole, where the file system can; it reads as zeros then.

        Where it cannot, the bytes stay as they are.
        """
        error = _core.punch(self._fd, offset, size)
        if error not in (0, errno.EOPNOTSUPP, errno.ENOSYS):
            raise self._failed(f"offset {offset}", OSError(error, os.strerror(error)))

    def sync(self) -> None:
        """Make the file durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("cannot be made durable", error) from error

    def data_ranges(self, offset: int) -> list[tuple[int, int]]:
        """Return (offset, size) of what is no hole from offset on."""
        found, end = [], self.size
        while offset < end:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
                offset = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise self._failed(f"offset {offset}", error) from error
            found.append((start, offset - start))
        return found

    def adopt(self, fd: int) -> None:
        """Go on with fd, another open file of the same path."""
        old, self._fd = self._fd, fd
        os.close(old)

    def close(self) -> None:
        """Close the file and give up the lock; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _failed(self, what: str, error: OSError) -> SourceError:
        return SourceError(f"{self.name}: {what}: {error.strerror}", errno=error.errno)

    def _holders(self) -> str:
        """Name the processes that have the file locked."""
        own = os.fstat(self._fd)
        names = (_name_of(p, own) for p in Path("/proc").glob("[0-9]*"))
        return ", ".join(name for name in names if name) or "another process"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make folder, and be the only one in a block like this on it, or wait.

    Raises SourceError when that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}", errno=error.errno) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _name_of(process: Path, wanted: os.stat_result) -> str | None:
    """Return what to call a process that has a lock on that file, or None."""
    try:
        for link in (process / "fd").iterdir():
            info = process / "fdinfo" / link.name
            same = os.path.samestat(link.stat(), wanted)
            if same and "OFDLCK" in info.read_text():
                return f"process {process.name} ({_command_of(process)})"
    except OSError:
        pass  # it ended meanwhile, or is somebody else's
    return None


def _command_of(process: Path) -> str:
    return (process / "comm").read_text().strip()
