# SPDX-License-Identifier: Apache-2.0
"""
fetcher - units of one blob: from the cache's files, else from where it is.

What is asked for is here at the end, or an error is raised. Two that want the
same unit, threads or processes, make one request. What the files have is
believed if its sum is right; where they take nothing, the units are handed on
all the same. It knows nobody who reads them.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import NamedTuple, Protocol

from obdengine import _core
from obdengine.errors import SourceError
from obdengine.source.contract import check_range, closed
from obdengine.source.gate import DEMAND, Gate
from obdengine.source.state import UNIT, WHOLE, KeptFile

__all__ = ["LARGEST", "Fetcher", "Origin", "Piece", "SourceOrigin"]

# Bytes that one request asks for at most: a guest that waits for a part of it
# waits for all.
LARGEST = 1 << 20

# Seconds until somebody fetches himself what another process said it would.
_TRUST = 10.0

# How often one call lets others go first.
_TURNS = 20

# Seconds that a request may take, where nobody says.
_DEADLINE = 60.0


class Origin(Protocol):
    """Where a blob's bytes come from when they are not here."""

    name: str
    size: int

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        """Return size bytes at offset; elsewhere: how often they were no good."""

    def close(self) -> None:
        """Give back what it holds."""


class SourceOrigin:
    """Any source as an origin."""

    def __init__(self, source: object) -> None:
        """Take over source."""
        self._source = source
        self.name: str = source.name  # type: ignore[attr-defined]
        self.size: int = source.size  # type: ignore[attr-defined]

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        """Return size bytes at offset."""
        data: bytes = self._source.pread(offset, size)  # type: ignore[attr-defined]
        return data

    def close(self) -> None:
        """Close the source."""
        self._source.close()  # type: ignore[attr-defined]


class Piece(NamedTuple):
    """Units from first on: their bytes, 4 bytes of sum each, in the files or not."""

    first: int
    data: bytes
    sums: bytes
    kept: bool

    @property
    def end(self) -> int:
        """The unit behind."""
        return self.first + len(self.sums) // 4

    def part(self, first: int, end: int) -> Piece | None:
        """Return what of it is in [first, end), or None."""
        start, stop = max(first, self.first), min(end, self.end)
        if start >= stop:
            return None
        at, to = start - self.first, stop - self.first
        data = self.data[at * UNIT : to * UNIT]
        return Piece(start, data, self.sums[4 * at : 4 * to], self.kept)


class _How(NamedTuple):
    """How something is got: the deadline is a time of time.monotonic()."""

    priority: int
    elsewhere: int
    until: float
    turns: int = _TURNS


class _Flight:
    """A request that is under way for units [first, end)."""

    def __init__(self, first: int, end: int, priority: int) -> None:
        self.first, self.end = first, end
        self.priority = priority
        self.done = threading.Event()
        self.pieces: list[Piece] = []
        self.error: SourceError | None = None

    def meets(self, first: int, end: int) -> bool:
        return self.first < end and first < self.end


class Fetcher:
    """Brings units of one blob; shared by all who read it in this process.

    Attributes:
        name, size: of the blob.
        kept: its files, None where the cache has no place for them.
        refill: units that a request is aligned to.
        fetched: bytes that came from the origin, requests: in how many pieces.
    """

    def __init__(
        self,
        name: str,
        size: int,
        kept: KeptFile | None,
        connect: Callable[[], Origin],
        gate: Gate,
        *,
        refill: int,
        deadline: float = _DEADLINE,
        stored: Callable[[int], None],
        refused: Callable[[OSError], None],
    ) -> None:
        """Connect when something is needed that is not here, not before.

        refill: bytes that a request is aligned to; deadline: seconds that
        whoever asks waits at most. stored is told of bytes
        that the files took, refused of an error when they did not.
        """
        self.name, self.size, self.kept = name, size, kept
        self.seed = kept.seed if kept else 1
        self.units = -(-size // UNIT)
        self.fetched = self.requests = 0
        self._connect, self._origin = connect, None
        self._gate = gate
        self._deadline = deadline
        self.refill = max(refill // UNIT, 1)
        self._stored, self._refused = stored, refused
        self._lock = threading.RLock()
        self._users, self._closed = 0, False
        self._connecting = threading.Lock()
        self._flights: list[_Flight] = []
        # What the files did not take; reading a header asks for it again.
        self._recent: deque[Piece] = deque(maxlen=4)

    _origin: Origin | None

    def until(self) -> float:
        """Return the deadline of a request that begins now."""
        return time.monotonic() + self._deadline

    def get(
        self,
        first: int,
        end: int,
        priority: int = DEMAND,
        *,
        elsewhere: int = 0,
        until: float | None = None,
    ) -> list[Piece]:
        """Return pieces that cover units [first, end).

        until is the deadline, a time of time.monotonic(). Raises what the
        origin raises, then at the latest.
        """
        how = _How(priority, elsewhere, until or self.until())
        pieces: list[Piece] = []
        with self._inside():
            for start in range(first, end, LARGEST // UNIT):
                pieces += self._get(start, min(start + LARGEST // UNIT, end), how)
        return pieces

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Keep the files open for the block; the last one out closes them."""
        with self._lock:
            if self._closed:
                raise closed(self.name)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                last = self._closed and not self._users
            if last:
                self._close_files()

    def _get(self, first: int, end: int, how: _How) -> list[Piece]:
        pieces, holes = self._here(first, end)
        for start, stop in holes:
            with self._gate.slot(how.priority):
                flight, other = self._claim(start, stop, how)
                if flight:
                    self._fly(flight, how)
            if other:
                pieces += self._after(other, start, stop, how)
            elif flight:
                parts = (piece.part(start, stop) for piece in flight.pieces)
                pieces += [part for part in parts if part]
        return pieces

    def _after(self, other: _Flight, first: int, end: int, how: _How) -> list[Piece]:
        """Return [first, end), part of which somebody else is bringing."""
        other.done.wait()
        if other.error and other.priority <= how.priority:
            # One request for all, and one answer; but nobody who needs the bytes
            # hears that somebody failed who only might have.
            raise _without_frames(other.error)
        pieces = []
        for piece in other.pieces:
            part = piece.part(first, end)
            if part and part.first == first:
                pieces.append(part)
                first = part.end
        if first == end:
            return pieces
        return pieces + self._get(first, end, how._replace(turns=how.turns - 1))

    def absent(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the runs of units in [first, end) that the files do not claim."""
        if not self.kept:
            return [(first, end)]
        try:
            with self._inside():
                sums = _numbers(self.kept.sums(first, end))
        except OSError:
            return [(first, end)]
        runs = _runs(sums, first)
        return [(start, stop) for start, stop, there in runs if not there]

    def is_coming(self, first: int, end: int) -> bool:
        """Tell whether nothing of [first, end) has to be asked for any more."""
        with self._lock:
            flights = [(flight.first, flight.end) for flight in self._flights]
        return all(
            any(low <= start and stop <= high for low, high in flights)
            for start, stop in self.absent(first, end)
        )

    def drop(self, first: int, end: int) -> None:
        """Forget units that have turned out to be wrong."""
        with self._lock:
            kept = [p for p in self._recent if not p.part(first, end)]
            self._recent = deque(kept, self._recent.maxlen)
        if self.kept:
            with suppress(OSError), self._inside():
                self.kept.clear(first, min(end, self.units))

    def drop_all(self) -> None:
        """Forget every unit, and what readers have seen of it."""
        self.drop(0, self.units)
        if self.kept:
            with suppress(OSError), self._inside():
                for chunk in range(self.kept.facts.chunks):
                    self.kept.drop_chunk(chunk)

    def set_whole(self) -> None:
        """Note in the files that all is there, and what it must be."""
        if self.kept:
            with suppress(OSError), self._inside():
                self.kept.set_flags(WHOLE)

    def origin(self) -> Origin:
        """Return where the bytes come from, connected."""
        with self._connecting:
            if self._origin is None:
                self._origin = self._connect()
            if self._origin.size != self.size:
                raise SourceError(
                    f"{self.name}: {self._origin.size} bytes, must be {self.size}",
                    hint="another file is at that address now",
                )
            return self._origin

    def close(self) -> None:
        """Close files and origin, once nobody uses them."""
        with self._lock:
            self._closed, before = True, self._closed
            idle = not before and not self._users
        if idle:
            self._close_files()

    def _close_files(self) -> None:
        if self._origin:
            self._origin.close()
        if self.kept:
            self.kept.close()

    # -- What the files have

    def _here(self, first: int, end: int) -> tuple[list[Piece], list[tuple[int, int]]]:
        """Return what is here of [first, end) and right, and the holes."""
        pieces = self._from_files(first, end) if self.kept else []
        with self._lock:
            recent = list(self._recent)
        pieces += [part for piece in recent if (part := piece.part(first, end))]
        pieces.sort()
        found, holes, at = [], [], first
        for piece in pieces:
            part = piece.part(at, end)
            if not part:
                continue
            if part.first > at:
                holes.append((at, part.first))
            found.append(part)
            at = part.end
        if at < end:
            holes.append((at, end))
        return found, holes

    def _from_files(self, first: int, end: int) -> list[Piece]:
        kept = self.kept
        assert kept
        try:
            raw = kept.sums(first, end)
        except OSError:
            return []
        found = []
        for start, stop, there in _runs(_numbers(raw), first):
            sums = raw[4 * (start - first) : 4 * (stop - first)]
            if not there:
                continue
            data = kept.verified(start, stop, sums)
            if data is not None:
                found.append(Piece(start, data, sums, True))
            else:
                found += self._sound_units(start, sums)
        return found

    def _sound_units(self, first: int, sums: bytes) -> Iterator[Piece]:
        """Yield the units that are right, where not all of them are."""
        kept = self.kept
        assert kept
        for unit in range(first, first + len(sums) // 4):
            own = sums[4 * (unit - first) : 4 * (unit - first) + 4]
            data = kept.verified(unit, unit + 1, own)
            if data is not None:
                yield Piece(unit, data, own, True)
            else:
                self.drop(unit, unit + 1)

    # -- Requests

    def _claim(
        self, first: int, end: int, how: _How
    ) -> tuple[_Flight | None, _Flight | None]:
        """Begin a request for [first, end), or return who has begun one."""
        with self._lock:
            for other in self._flights:
                if other.meets(first, end) and how.turns:
                    return None, other
            flight = _Flight(*self._widened(first, end), how.priority)
            self._flights.append(flight)
            return flight, None

    def _widened(self, first: int, end: int) -> tuple[int, int]:
        """Return the range up to the alignment, without what is here or coming."""
        low = first // self.refill * self.refill
        high = min(-(-end // self.refill) * self.refill, self.units)
        for start, stop in self.absent(low, high):
            if start <= first < stop:
                low = start
            if start < end <= stop:
                high = stop
        if not any(start <= first < stop for start, stop in self.absent(low, high)):
            low = first
        for other in self._flights:
            if other.end <= first:
                low = max(low, other.end)
            elif other.first >= end:
                high = min(high, other.first)
        return min(low, first), max(high, end)

    def _fly(self, flight: _Flight, how: _How) -> None:
        """Make the request, unless another process has made it meanwhile."""
        first, end = flight.first, flight.end
        locked = False
        try:
            locked = self._wait_for_others(first, end, how.until)
            pieces, holes = self._here(first, end)
            for start, stop in holes:
                pieces.append(self._request(start, stop, how))
            pieces.sort()
            flight.pieces = pieces
        except BaseException as error:
            flight.error = _without_frames(error)
            raise
        finally:
            if locked and self.kept:
                with suppress(OSError):
                    self.kept.release_units(first, end)
            with self._lock:
                self._flights.remove(flight)
            flight.done.set()

    def _wait_for_others(self, first: int, end: int, until: float) -> bool:
        """Wait until no other process fetches the range; tell if it is ours."""
        if not self.kept:
            return False
        until, pause = min(time.monotonic() + _TRUST, until), 0.001
        with suppress(OSError):
            while not self.kept.try_units(first, end):
                here = not self.absent(first, end)
                if here or time.monotonic() > until:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
            return True
        return False

    def _request(self, first: int, end: int, how: _How) -> Piece:
        offset = first * UNIT
        size = min(end * UNIT, self.size) - offset
        check_range(self, offset, size)  # type: ignore[arg-type]
        data = self.origin().read(offset, size, end=how.until, elsewhere=how.elsewhere)
        if len(data) != size:
            raise SourceError(f"{self.name}: {len(data)} bytes came, not {size}")
        sums = _core.unit_sums(self.seed, first, data)
        kept = self._keep(first, data, sums)
        piece = Piece(first, data, sums, kept)
        with self._lock:
            self.fetched += size
            self.requests += 1
            if not kept:
                self._recent.append(piece)
        return piece

    def _keep(self, first: int, data: bytes, sums: bytes) -> bool:
        if not self.kept:
            return False
        try:
            self.kept.put(first, data, sums)
        except OSError as error:
            self._refused(error)
            return False
        self._stored(len(data))
        return True


def _without_frames(error: BaseException) -> SourceError:
    """Return a copy of an error for another thread, which has its own buffers."""
    if isinstance(error, SourceError):
        return copy(error)
    return SourceError(str(error), errno=getattr(error, "errno", None))


def _numbers(sums: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(sums) // 4}I", sums)


def _runs(sums: tuple[int, ...], first: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, end, whether there is a sum) of runs that are alike."""
    start = 0
    for i in range(1, len(sums) + 1):
        if i == len(sums) or bool(sums[i]) != bool(sums[start]):
            yield first + start, first + i, bool(sums[start])
            start = i
