# SPDX-License-Identifier: Apache-2.0
"""
origins - places that blobs come from, which count what is asked, and fail.

They stand for a registry where only the cache is looked at.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from random import Random

from obdengine.errors import SourceError
from obdengine.source.cache import Cache, CacheOptions, key_of
from obdengine.source.remote import Remote

KEY = key_of("sha256:" + "ab" * 32)


class Counting:
    """Bytes in memory; each request is noted as (offset, size)."""

    def __init__(self, data: bytes, *, delay: float = 0.0) -> None:
        self.name = "blob"
        self.data = data
        self.size = len(data)
        self.delay = delay
        self.reads: list[tuple[int, int]] = []
        self.elsewhere: list[int] = []
        self.connected = 0
        self.broken = False
        self.wrong = 0
        self._lock = threading.Lock()

    def connect(self) -> Counting:
        """Be the `connect` of a cache."""
        self.connected += 1
        return self

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        """Return bytes, late, wrong or not at all if told so."""
        with self._lock:
            self.reads.append((offset, size))
            self.elsewhere.append(elsewhere)
        if self.delay:
            time.sleep(self.delay)
        if self.broken:
            raise SourceError("blob: not today")
        data = self.data[offset : offset + size]
        with self._lock:
            if self.wrong:
                self.wrong -= 1
                return Random(offset).randbytes(size)
        return data

    def close(self) -> None:
        """Nothing is held."""

    @property
    def bytes_read(self) -> int:
        """How much was asked for."""
        return sum(size for _, size in self.reads)


def cache_in(folder: Path, **options: object) -> Cache:
    """Return a cache in a folder, with small limits unless told otherwise."""
    return Cache(CacheOptions(folder, **options))  # type: ignore[arg-type]


def open_in(cache: Cache, origin: Counting, key: str = KEY) -> Remote:
    """Open origin's blob through a cache."""
    return cache.open(key, origin.name, origin.size, origin.connect)
