# SPDX-License-Identifier: Apache-2.0
"""
writable - a file that is written in place, and by one process at a time.

The lock is the kernel's, on the open file: it goes with the process, so there
is no such thing as a stale one. What the bytes mean is none of its business.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from obdengine.errors import Busy, SourceError, SourceMissing
from obdengine.source.output import Output

__all__ = ["WritableFile"]

# struct flock: type, whence, start, len (0: all of it), pid, which must be 0.
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class WritableFile:
    """A regular file, open for reading and writing; reading only if asked.

    Attributes:
        path: where it is.
        name: path, for errors.
        readonly: whether it was opened for reading only; it is not locked then.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        """Open the file that is at path.

        Raises SourceMissing when there is none, SourceError when it cannot be
        opened.
        """
        self.path = Path(path)
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
        """Be the only writer until close(); raises Busy naming the other."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise self._failed("cannot be locked", error) from error
            raise Busy(
                f"{self.name}: in use for writing by {self._holders()}",
                hint="a writable layer has one writer",
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
        """Name the processes that have the file open for writing."""
        own, found = os.fstat(self._fd), []
        for process in Path("/proc").glob("[0-9]*"):
            if _writes(process, own, self._fd):
                name = (process / "comm").read_text().strip()
                found.append(f"process {process.name} ({name})")
        return ", ".join(found) or "another process"


def _writes(process: Path, wanted: os.stat_result, our_fd: int) -> bool:
    """Tell whether a process has that file open for writing, but for our_fd."""
    try:
        for link in (process / "fd").iterdir():
            if int(process.name) == os.getpid() and int(link.name) == our_fd:
                continue
            if os.path.samestat(link.stat(), wanted):
                flags = (process / "fdinfo" / link.name).read_text()
                mode = int(flags.split("flags:")[1].split()[0], 8)
                if mode & os.O_ACCMODE != os.O_RDONLY:
                    return True
    except OSError:
        pass  # it ended meanwhile, or is somebody else's
    return False
