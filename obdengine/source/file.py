# SPDX-License-Identifier: Apache-2.0
"""
file - a source that is a regular file or a block device of this host.

It reads; it never writes, and it refuses pipes, sockets and directories:
they have no bytes at an offset.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from obdengine.errors import SourceError, SourceMissing
from obdengine.source.contract import check_range, closed, ended_early

__all__ = ["FileSource"]


class FileSource:
    """A local file, opened once; its descriptor is the source's own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open path for reading.

        Raises SourceMissing when there is none, SourceError when it cannot be
        opened or is neither a regular file nor a block device.
        """
        self.path = Path(path)
        self.name = str(path)
        self._fd: int | None = _open(self.name)
        try:
            self.size = _measure(self._fd, self.name)
        except BaseException:
            self.close()
            raise

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source)."""
        if self._fd is None:
            raise closed(self.name)
        check_range(self, offset, len(buf))
        done = 0
        while done < len(buf):
            try:
                got = os.preadv(self._fd, [buf[done:]], offset + done)
            except OSError as error:
                raise SourceError(
                    f"{self.name}: offset {offset + done}: {error.strerror}",
                    errno=error.errno,
                ) from error
            if not got:
                raise ended_early(self.name, offset + done, len(buf) - done)
            done += got

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source)."""
        check_range(self, offset, size)
        data = bytearray(size)
        self.pread_into(offset, memoryview(data))
        return bytes(data)

    def fileno(self) -> int | None:
        """Return the descriptor of the open file."""
        if self._fd is None:
            raise closed(self.name)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __repr__(self) -> str:
        """Name the file, for a person who debugs."""
        return f"FileSource({self.name!r})"


def _open(name: str) -> int:
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer; it has no
        # effect on regular files and block devices.
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise SourceMissing(f"{name}: no such file") from error
    except (OSError, ValueError) as error:
        code = error.errno if isinstance(error, OSError) else None
        raise SourceError(f"{name}: cannot be opened: {error}", errno=code) from error


def _measure(fd: int, name: str) -> int:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise SourceError(f"{name}: neither a regular file nor a block device")
    try:
        # st_size is 0 for a block device, its end is not.
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise SourceError(
            f"{name}: has no size: {error.strerror}", errno=error.errno
        ) from error
