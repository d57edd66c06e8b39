# SPDX-License-Identifier: Apache-2.0
"""
memory - a source whose bytes are already here, for tests and small blobs.

It has no descriptor: what needs one goes through resident.
"""

from __future__ import annotations

from obdengine.source.contract import check_range, closed

__all__ = ["MemorySource"]


class MemorySource:
    """A bytes-like object as a source; it is not copied."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str) -> None:
        """Take data, which nobody may change until close()."""
        self.name = name
        self._data: memoryview | None = memoryview(data).cast("B")
        self.size = len(self._data)

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source)."""
        if self._data is None:
            raise closed(self.name)
        check_range(self, offset, len(buf))
        buf[:] = self._data[offset : offset + len(buf)]

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source)."""
        if self._data is None:
            raise closed(self.name)
        check_range(self, offset, size)
        return bytes(self._data[offset : offset + size])

    def fileno(self) -> int | None:
        """Return None: memory has no descriptor."""
        return None

    def close(self) -> None:
        """Let go of the bytes; a second time does nothing."""
        if self._data is not None:
            self._data.release()
            self._data = None

    def __repr__(self) -> str:
        """Name the source, for a person who debugs."""
        return f"MemorySource({self.name!r}, {self.size} bytes)"
