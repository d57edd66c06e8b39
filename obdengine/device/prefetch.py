# SPDX-License-Identifier: Apache-2.0
"""
prefetch - brings what a trace says is read next, before somebody asks for it.

Some threads go through the plan in its order. A read that comes first takes
its part out of the plan by fetching it itself. What a trace says about layers
that are not there, or bytes behind their end, is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from obdengine.device.trace import Read
from obdengine.errors import Closed, ObdError, SourceError
from obdengine.layer import Layer
from obdengine.source import Remote
from obdengine.units import KIB

__all__ = ["Part", "Prefetch", "plan"]

# Bytes that are planned, and fetched, at once: whoever comes to need a part of
# a request that is under way waits for all of it.
_WINDOW = 64 * KIB
_LARGEST = 4

# So many failures in a row end it: the network is not there.
_FAILURES = 8


class Part(NamedTuple):
    """Bytes of a blob that are to be brought here."""

    remote: Remote
    offset: int
    size: int


def plan(reads: Iterable[Read], layers: Sequence[Layer]) -> list[Part]:
    """Return what reads need of blobs that are elsewhere, each part once."""
    seen: set[tuple[int, int]] = set()
    windows: list[tuple[Remote, int]] = []
    for read in reads:
        found = _stored(read, layers)
        if not found:
            continue
        remote, offset, size = found
        for number in range(offset // _WINDOW, (offset + size - 1) // _WINDOW + 1):
            if (id(remote), number) not in seen:
                seen.add((id(remote), number))
                windows.append((remote, number))
    return _joined(windows)


def _stored(read: Read, layers: Sequence[Layer]) -> Part | None:
    """Return the bytes of the blob that a read needs, if it makes sense."""
    if not 0 <= read.layer < len(layers):
        return None
    blob = layers[read.layer].blob
    size = min(read.size, blob.size - read.offset)
    if not isinstance(blob.resident, Remote) or size <= 0:
        return None
    return Part(blob.resident, *blob.core.stored(read.offset, size))


def _joined(windows: Sequence[tuple[Remote, int]]) -> list[Part]:
    """Return windows as parts; those that follow each other become one."""
    parts: list[Part] = []
    count = 0
    for remote, number in windows:
        offset = number * _WINDOW
        size = min(_WINDOW, remote.size - offset)
        last = parts[-1] if parts else None
        follows = last and last.remote is remote and last.offset + last.size == offset
        if last and follows and count < _LARGEST:
            parts[-1] = last._replace(size=last.size + size)
            count += 1
        else:
            parts.append(Part(remote, offset, size))
            count = 1
    return parts


class Prefetch:
    """Threads that go through a plan.

    Attributes:
        parts: the plan.
        fetched: bytes that were not here yet.
        error: what ended it before its end, or None.
    """

    def __init__(self, parts: Sequence[Part], threads: int) -> None:
        """Begin at once."""
        self.parts = parts
        self.fetched = 0
        self.error: ObdError | None = None
        self._next = 0
        self._failures = 0
        self._lock = threading.Lock()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._run, name="obd-prefetch", daemon=True)
            for _ in range(min(threads, len(parts)))
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while part := self._take():
            try:
                fetched = part.remote.prefetch(part.offset, part.size)
            except Closed:
                return
            except SourceError as error:
                self._failed(error)
                continue
            with self._lock:
                self.fetched += fetched
                self._failures = 0

    def _take(self) -> Part | None:
        with self._lock:
            if self._ended or self._next == len(self.parts):
                return None
            self._next += 1
            return self.parts[self._next - 1]

    def _failed(self, error: ObdError) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= _FAILURES:
                self.error, self._ended = error, True

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Wait for the end; progress is told of parts done and parts there are."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.1)
                if progress:
                    progress(self._next, len(self.parts))

    def close(self) -> None:
        """End it; a request that is under way ends by itself."""
        self._ended = True
