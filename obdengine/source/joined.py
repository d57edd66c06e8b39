# SPDX-License-Identifier: Apache-2.0
"""joined - several sources, one behind the other, as one; it copies nothing."""

from __future__ import annotations

from collections.abc import Sequence

from obdengine.source.contract import Source, check_range

__all__ = ["JoinedSource"]


class JoinedSource:
    """The bytes of parts in their order; it closes them with itself."""

    def __init__(self, parts: Sequence[Source], name: str) -> None:
        """Take over parts; name is for errors."""
        self.name = name
        self.size = sum(part.size for part in parts)
        self._parts = list(parts)

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source)."""
        check_range(self, offset, len(buf))
        done, start = 0, 0
        for part in self._parts:
            inside = offset + done - start
            if done < len(buf) and 0 <= inside < part.size:
                step = min(part.size - inside, len(buf) - done)
                part.pread_into(inside, buf[done : done + step])
                done += step
            start += part.size

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source)."""
        buffer = bytearray(size)
        self.pread_into(offset, memoryview(buffer))
        return bytes(buffer)

    def fileno(self) -> int | None:
        """Return None: no descriptor has all of it."""
        return None

    def close(self) -> None:
        """Close the parts."""
        for part in self._parts:
            part.close()
