# SPDX-License-Identifier: Apache-2.0
"""
ahead - what to fetch before somebody asks: how the misses of a blob follow each other.

All in units. Where a miss goes on behind another there is a stream; what comes
next is fetched in windows that double. A reader finds what was fetched and is not
heard of, so one unit of each window, its first, is kept from the core though it
is here: whoever comes to that mark is heard of, and the next window is asked for
while he reads this one. Who stops is not heard of any more, and one window too
much was fetched for him. It fetches nothing itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

__all__ = ["Ahead"]

# Streams of one blob at a time: some readers, some of them of several files.
_STREAMS = 8

# Of a window, so much is one request, so that a reader waits for a part of it.
_PARTS = 2

# Units of a request at most: 512 KiB.
_LARGEST = 128


class _Stream:
    """One reader who goes on and on."""

    def __init__(self, end: int) -> None:
        self.end = end  # of what he has asked for
        self.fetched = end  # of what was asked for ahead of him
        self.window = 0
        self.mark = -1

    def meets(self, first: int, refill: int) -> bool:
        """Tell whether a miss at first is his: they may come in disorder."""
        near = max(self.window // 4, refill)
        return self.end - self.window <= first < self.fetched + near


class Ahead:
    """The streams of one blob; from any thread.

    Attributes:
        most: units of a window at most; 0: nothing is fetched ahead.
    """

    def __init__(self, refill: int, most: int) -> None:
        """refill: units that requests are aligned to."""
        self.most = most
        self._refill = refill
        self._lock = threading.Lock()
        self._streams: list[_Stream] = []  # who was heard of last comes last

    def missed(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return ranges to fetch behind a miss of [first, end), as requests."""
        end = -(-end // self._refill) * self._refill
        with self._lock:
            stream = self._find(first)
            if not stream or not self.most:
                self._streams.append(_Stream(end))
                del self._streams[:-_STREAMS]
                return []
            stream.end = max(stream.end, end)
            if end <= stream.fetched - stream.window:
                return []  # what was fetched for him has gone again
            wanted = max(2 * stream.window, self._refill, end - first)
            stream.window = min(wanted, self.most)
            start = max(end, stream.fetched)
            stream.fetched, stream.mark = start + stream.window, start
            return list(self._parts(start, stream.window))

    def _find(self, first: int) -> _Stream | None:
        """Return whose miss it is, as the one who was heard of last."""
        near = [one for one in self._streams if one.meets(first, self._refill)]
        if not near:
            return None
        # Of two who run into each other, who is nearest behind.
        stream = min(near, key=lambda one: abs(first - one.end))
        self._streams.remove(stream)
        self._streams.append(stream)
        return stream

    def _parts(self, start: int, window: int) -> Iterator[tuple[int, int]]:
        size = min(window // _PARTS, _LARGEST) // self._refill * self._refill
        size = max(size, self._refill)
        for at in range(start, start + window, size):
            yield at, min(at + size, start + window)

    def unmarked(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of [first, end) that are no marks."""
        with self._lock:
            marks = sorted({stream.mark for stream in self._streams})
        for mark in marks:
            if first <= mark < end:
                if first < mark:
                    yield first, mark
                first = mark + 1
        if first < end:
            yield first, end

    def reached(self, first: int, end: int) -> None:
        """Marks in [first, end) are none any more."""
        with self._lock:
            for stream in self._streams:
                if first <= stream.mark < end:
                    stream.mark = -1
