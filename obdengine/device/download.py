# SPDX-License-Identifier: Apache-2.0
"""
download - brings whole blobs here while nothing else needs the network.

After some time, slowly, and only between requests that somebody waits for.
What has come is compared with its digest; if that is another, all of it is
dropped and brought again, a few times. Where the image is kept is not changed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from obdengine.errors import Closed, DigestMismatch, ObdError, SourceError
from obdengine.source import Remote
from obdengine.source.gate import BACKGROUND
from obdengine.source.state import UNIT, WHOLE
from obdengine.units import MIB

__all__ = ["Downloader", "Wanted"]


class Wanted(NamedTuple):
    """A blob to bring: its digest, "" when nobody knows, and what to do then."""

    remote: Remote
    digest: str
    done: Callable[[], None]


class Downloader:
    """A thread that brings blobs, one after the other.

    Attributes:
        done: blobs that are here and right.
        error: why the last one that failed did so, or None.
    """

    def __init__(
        self,
        wanted: list[Wanted],
        *,
        delay: float,
        rate: float,
        tries: int,
        block_size: int,
    ) -> None:
        """Begin after delay seconds; rate in bytes a second, 0: no bound."""
        self.done = 0
        self.error: ObdError | None = None
        self._wanted = wanted
        self._delay, self._rate, self._tries = delay, rate, tries
        self._block = max(block_size // UNIT, 1) * UNIT
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="obd-download", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; tell whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it; a request that is under way ends by itself."""
        self._ended.set()

    def _run(self) -> None:
        if self._ended.wait(self._delay):
            return
        for wanted in self._wanted:
            for attempt in range(self._tries):
                try:
                    if not self._bring(wanted, attempt):
                        return
                    self.done += 1
                    break
                except Closed:
                    return
                except ObdError as error:
                    self.error = error
                    if self._ended.wait(min(2.0**attempt, 30.0)):
                        return

    def _bring(self, wanted: Wanted, attempt: int) -> bool:
        """Bring a blob; False when it was told to end."""
        remote = wanted.remote
        kept = remote.fetcher.kept
        if not kept:
            raise SourceError(f"{remote.name}: the cache has no place for it")
        whole = kept.facts.flags & WHOLE
        if not whole or remote.fetcher.absent(0, remote.fetcher.units):
            if not self._fetch(remote):
                return False
            self._verify(wanted)
            if remote.fetcher.absent(0, remote.fetcher.units):
                raise SourceError(f"{remote.name}: the cache does not keep all of it")
            remote.fetcher.set_whole()
        wanted.done()
        return True

    def _fetch(self, remote: Remote) -> bool:
        began, fetched = time.monotonic(), 0
        for offset in range(0, remote.size, self._block):
            size = min(self._block, remote.size - offset)
            fetched += remote.prefetch(offset, size, BACKGROUND)
            early = fetched / self._rate if self._rate else 0.0
            pause = began + early - time.monotonic()
            if self._ended.is_set() or (pause > 0 and self._ended.wait(pause)):
                return False
        return True

    def _verify(self, wanted: Wanted) -> None:
        algorithm, _, expected = wanted.digest.partition(":")
        if algorithm not in ("sha256", "sha512"):
            return
        remote = wanted.remote
        digest = hashlib.new(algorithm)
        for first in range(0, remote.fetcher.units, MIB // UNIT):
            end = min(first + MIB // UNIT, remote.fetcher.units)
            for piece in remote.fetcher.get(first, end, BACKGROUND):
                digest.update(piece.data)
        if digest.hexdigest() != expected.lower():
            remote.drop_all()
            raise DigestMismatch(
                remote.name,
                "digest of what came",
                expected=expected,
                found=digest.hexdigest(),
            )
