# SPDX-License-Identifier: Apache-2.0
"""
output - a file that appears under its name when it is whole, and not before.

Until commit() the bytes are in a file without a name that anybody looks for,
in the same folder, which vanishes when anything goes wrong. A block device has
no such luck and is written in place. Reading is the source's.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from obdengine.errors import SourceError, UsageError
from obdengine.units import MIB

__all__ = ["DeviceOutput", "Output", "make_folder", "open_output"]

# Bytes after which the disk is set to work, so that commit() has not all of
# them to wait for: 256 MiB in 0.24 s instead of 0.33, and lz4 of them in 0.36
# instead of 0.40 (8 MiB; with 32 MiB it gains half as much).
_BEHIND = 8 * MIB


class Output:
    """A new file on its way to path.

    Attributes:
        sparse: whether what is never written reads as zeros.
        path: where it will be, symbolic links resolved.
        name: path, for errors.
        position: bytes appended so far.
    """

    sparse = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make the temporary file beside path.

        Raises UsageError when path is there and not a regular file,
        SourceError when the folder cannot be written.
        """
        self.name = str(path)
        self.path = _judged(self.name)
        self.position = 0
        self._begun = 0
        self._temporary = self.path.with_name(
            f".{self.path.name[:200]}.{secrets.token_hex(6)}.tmp"
        )
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise _failed(self.name, "cannot be made", error) from error

    @property
    def folder(self) -> Path:
        """The folder of the file: the place for other temporary files."""
        return self.path.parent

    def fileno(self) -> int:
        """Return the descriptor, open for reading and writing."""
        return self._fd

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add data at the end; raises SourceError when the disk refuses."""
        self.patch(self.position, data)
        self.position += len(data)
        if self.position - self._begun >= _BEHIND:
            self._write_behind()

    def patch(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put data at offset; raises SourceError when the disk refuses."""
        _write_all(self.name, self._fd, offset, data)

    def resize(self, size: int) -> None:
        """Make the file size bytes long; new bytes are a hole."""
        try:
            os.truncate(self._fd, size)
        except OSError as error:
            raise _failed(self.name, f"cannot have {size} bytes", error) from error

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to size bytes at offset of what was written."""
        return os.pread(self._fd, size, offset)

    def commit(self) -> None:
        """Make the file durable and give it its name, in one step."""
        try:
            os.fsync(self._fd)
            self._temporary.replace(self.path)
            self._close()
            _sync_folder(self.folder)
        except OSError as error:
            raise _failed(self.name, "cannot be completed", error) from error

    def abandon(self) -> None:
        """Remove the file unless it was committed; never raises OSError."""
        if self._fd >= 0:
            self._temporary.unlink(missing_ok=True)
            self._close()

    def __enter__(self) -> Output:
        """Return the output itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Abandon what was not committed."""
        self.abandon()

    def _write_behind(self) -> None:
        """Let the kernel begin to write what was appended.

        That is what Linux does with pages that are said not to be needed and
        are not on the disk yet; it keeps them, and the hash is made of them.
        """
        size = self.position - self._begun
        with suppress(OSError):
            os.posix_fadvise(self._fd, self._begun, size, os.POSIX_FADV_DONTNEED)
        self._begun = self.position

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


class DeviceOutput:
    """A block device that is written where it is; the verbs are Output's."""

    sparse = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open path for writing; raises SourceError when that is not allowed."""
        self.name = str(path)
        try:
            # O_EXCL: refused while the device is mounted.
            self._fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise _failed(self.name, "cannot be opened", error) from error

    def patch(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put data at offset; raises SourceError when the device refuses."""
        _write_all(self.name, self._fd, offset, data)

    def resize(self, size: int) -> None:
        """Raise UsageError when the device is smaller than size bytes."""
        there = os.lseek(self._fd, 0, os.SEEK_END)
        if there < size:
            raise UsageError(f"{self.name}: has {there} bytes, {size} are needed")

    def commit(self) -> None:
        """Make what was written durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _failed(self.name, "cannot be completed", error) from error

    def abandon(self) -> None:
        """Close the device; what was written stays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> DeviceOutput:
        """Return the output itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the device."""
        self.abandon()


def open_output(path: str | os.PathLike[str]) -> Output | DeviceOutput:
    """Return the output for path, whichever it is; raises as they do."""
    try:
        device = Path(path).is_block_device()
    except OSError as error:
        raise _failed(str(path), "cannot be looked at", error) from error
    return DeviceOutput(path) if device else Output(path)


def _judged(name: str) -> Path:
    """Return where a file called name shall be, or raise when it cannot."""
    try:
        # A link at that place shall still be one afterwards.
        path = Path(name).resolve()
        if path.exists() and not path.is_file():
            raise UsageError(f"{name}: is there and not a regular file")
    except OSError as error:
        raise _failed(name, "cannot be made", error) from error
    except (RuntimeError, ValueError) as error:  # links in a circle, a NUL
        raise UsageError(f"{name}: cannot be made: {error}") from error
    return path


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there; raises SourceError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(str(path), "cannot be made", error) from error


def _write_all(
    name: str, fd: int, offset: int, data: bytes | bytearray | memoryview
) -> None:
    view = memoryview(data)
    while view:
        try:
            done = os.pwrite(fd, view, offset)
        except OSError as error:
            raise _failed(name, f"offset {offset}", error) from error
        view, offset = view[done:], offset + done


def _failed(name: str, what: str, error: OSError) -> SourceError:
    return SourceError(f"{name}: {what}: {error.strerror}", errno=error.errno)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
