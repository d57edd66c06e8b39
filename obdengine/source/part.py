# SPDX-License-Identifier: Apache-2.0
"""
part - a range of another source as a source of its own.

It has no descriptor: its bytes are not at the same offsets there.
"""

from __future__ import annotations

from obdengine.errors import OutOfRange
from obdengine.source.contract import Source, check_range

__all__ = ["PartSource"]


class PartSource:
    """Bytes [offset, offset + size) of a source, which it closes with itself."""

    def __init__(self, whole: Source, offset: int, size: int, name: str = "") -> None:
        """Take over whole; raises OutOfRange when the range is not inside it."""
        if offset < 0 or size < 0 or offset + size > whole.size:
            raise OutOfRange(
                f"{whole.name}: {size} bytes at offset {offset} are not inside its "
                f"{whole.size} bytes"
            )
        self.name = name or whole.name
        self.size = size
        self._whole = whole
        self._offset = offset

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source)."""
        check_range(self, offset, len(buf))
        self._whole.pread_into(self._offset + offset, buf)

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source)."""
        check_range(self, offset, size)
        return self._whole.pread(self._offset + offset, size)

    def fileno(self) -> int | None:
        """Return None: the descriptor has other bytes at the same offsets."""
        return None

    def close(self) -> None:
        """Close the whole."""
        self._whole.close()

    def __repr__(self) -> str:
        """Name the source, for a person who debugs."""
        return f"PartSource({self.name!r}, {self._offset}, {self.size})"
