# SPDX-License-Identifier: Apache-2.0
"""sources - a source that remembers what was asked of it."""

from __future__ import annotations

from obdengine.source import MemorySource


class RecordingSource(MemorySource):
    """Bytes in memory, and the (offset, size) of every read so far.

    It has no descriptor, so the core sees only what was fetched.
    """

    def __init__(self, data: bytes, name: str = "recorded") -> None:
        super().__init__(data, name)
        self.reads: list[tuple[int, int]] = []

    def pread_into(self, offset: int, buf: memoryview) -> None:
        self.reads.append((offset, len(buf)))
        super().pread_into(offset, buf)

    def pread(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return super().pread(offset, size)
