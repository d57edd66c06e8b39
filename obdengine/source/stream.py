# SPDX-License-Identifier: Apache-2.0
"""
stream - a source read from its beginning, where a file is expected.

Its position is its own, the source has none. It reads; it never writes.
"""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

from obdengine.source.contract import Source
from obdengine.units import MIB

__all__ = ["SourceStream", "sha256_of"]


class SourceStream(io.RawIOBase):
    """A source as a binary stream; closing it closes the source."""

    def __init__(self, source: Source) -> None:
        """Take over source."""
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to offset, return where that is from the beginning."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}
        self._at = max(0, start[whence] + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill the front of buffer, return how many bytes; raises as the source."""
        view = memoryview(buffer).cast("B")
        step = max(0, min(len(view), self._source.size - self._at))
        if step:
            self._source.pread_into(self._at, view[:step])
        self._at += step
        return step

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, -1: all that are left; raises as the source."""
        left = max(0, self._source.size - self._at)
        step = left if size is None or size < 0 else min(size, left)
        data = self._source.pread(self._at, step)
        self._at += step
        return data

    def close(self) -> None:
        """Close the source; twice does nothing."""
        if not self.closed:
            self._source.close()
        super().close()


def sha256_of(source: Source) -> str:
    """Return the SHA-256 of all of source, in hexadecimal digits."""
    digest = hashlib.sha256()
    for offset in range(0, source.size, MIB):
        digest.update(source.pread(offset, min(MIB, source.size - offset)))
    return digest.hexdigest()
