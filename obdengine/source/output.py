# SPDX-License-Identifier: Apache-2.0
"""
output - a file that appears under its name when it is whole, and not before.

Bytes are appended; a few at the front may be put right afterwards. Until
commit() they are in a file without a name that anybody looks for, in the same
folder, which vanishes when anything goes wrong. Reading is the source's.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

from obdengine.errors import SourceError, UsageError

__all__ = ["Output"]


class Output:
    """A new file on its way to path.

    Attributes:
        path: where it will be, symbolic links resolved.
        name: path, for errors.
        position: bytes appended so far.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make the temporary file beside path.

        Raises UsageError when path is there and not a regular file,
        SourceError when the folder cannot be written.
        """
        # A link at path shall still be one afterwards.
        self.path = Path(path).resolve()
        self.name = str(path)
        self.position = 0
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.name}: is there and not a regular file")
        self._temporary = self.path.with_name(
            f".{self.path.name[:200]}.{secrets.token_hex(6)}.tmp"
        )
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise self._failed("cannot be made", error) from error

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

    def patch(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put data at offset; raises SourceError when the disk refuses."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise self._failed(f"offset {offset}", error) from error
            view, offset = view[done:], offset + done

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
            raise self._failed("cannot be completed", error) from error

    def abandon(self) -> None:
        """Remove the file unless it was committed; never raises OSError."""
        if self._fd >= 0:
            self._temporary.unlink(missing_ok=True)
            self._close()

    def __enter__(self) -> Output:
        """Return the output itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abandon what was not committed."""
        self.abandon()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _failed(self, what: str, error: OSError) -> SourceError:
        return SourceError(f"{self.name}: {what}: {error.strerror}", errno=error.errno)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
