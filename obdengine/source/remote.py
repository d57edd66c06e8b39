# SPDX-License-Identifier: Apache-2.0
"""
remote - a blob that is elsewhere, as a source and as what the core reads.

The core reads the cache's data file and compares each unit's sum. What it
misses is brought here: into the files, or lent from memory where the files
take nothing or keep nothing. How a blob is packed is none of its business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from obdengine import _core
from obdengine.errors import Closed, SourceError
from obdengine.source.ahead import Ahead
from obdengine.source.contract import check_range, closed
from obdengine.source.fetcher import LARGEST, Fetcher
from obdengine.source.gate import AHEAD, PREFETCH
from obdengine.source.spare import Spare
from obdengine.source.state import UNIT

__all__ = ["Helpers", "Remote", "bring"]

# After so many rounds of one request the files are not trusted to keep units
# until they are read: others may be emptying or damaging them.
_FILE_ROUNDS = 3

# Units whose sums are looked at together.
_NEAR = 256


class Helpers(Protocol):
    """What a cache lends; see Cache.

    Attributes:
        ahead: bytes to fetch ahead of who reads on and on, at most.
        problem: why it keeps nothing at the moment, or None.
    """

    ahead: int
    problem: str | None

    def demand_pool(self) -> ThreadPoolExecutor:
        """Return the pool for what somebody waits for."""

    def ahead_pool(self) -> ThreadPoolExecutor:
        """Return the pool for what nobody waits for."""


class Remote:
    """A blob behind a cache: a Source, and what Resident is for other sources.

    Attributes:
        name, size: as every source has.
        source: itself.
        complete: False, there is always something to ask for.
        fd: the descriptor for the core.
        fetcher: brings its units.
        elsewhere: how often what was read as a source made no sense.
        ahead: notices who reads on and on.
    """

    complete = False

    def __init__(
        self, fetcher: Fetcher, helpers: Helpers, release: Callable[[Remote], None]
    ) -> None:
        """Read by fetcher; release is called by close()."""
        self.fetcher = fetcher
        self.name, self.size = fetcher.name, fetcher.size
        self.source = self
        self._helpers = helpers
        self._release = release
        self._spare = Spare(self.size)
        self._core: _core.Blob | None = None
        self.elsewhere = 0
        self._open = True
        self.ahead = Ahead(fetcher.refill, helpers.ahead // UNIT)

    @property
    def fd(self) -> int:
        """The descriptor behind the core's blob."""
        kept = self.fetcher.kept
        return kept.fd if kept else self._spare.fd

    # -- As a source: how a blob is opened

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source)."""
        buf[:] = self.pread(offset, len(buf))

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source)."""
        if not self._open:
            raise closed(self.name)
        check_range(self, offset, size)
        if not size:
            return b""
        first, end = offset // UNIT, -(-(offset + size) // UNIT)
        pieces = self.fetcher.get(first, end, elsewhere=self.elsewhere)
        data = b"".join(piece.data for piece in pieces)
        skip = offset - first * UNIT
        return data[skip : skip + size]

    def fileno(self) -> int | None:
        """Return None: the descriptor has holes that only the core can see."""
        return None

    def want(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring ranges of bytes here, all at once; an error comes out later."""
        jobs = [
            self._helpers.demand_pool().submit(self._bring_units, first, end)
            for offset, size in ranges
            for first, end in _units(offset, min(size, self.size - offset))
        ]
        for job in jobs:
            job.exception()

    def _bring_units(self, first: int, end: int) -> None:
        if self.fetcher.absent(first, end):
            self.fetcher.get(first, end, elsewhere=self.elsewhere)

    # -- As what the core reads

    def attach(self, core: _core.Blob) -> None:
        """Serve core, which reads fd; what is here already is told to it."""
        core.guard(self.fetcher.seed, self._spare.fd)
        self._spare.attach(core)
        self._core = core
        self._adopt_claimed(core, 0, self.fetcher.units)

    def fetch(
        self, offset: int, size: int, round: int = 0, until: float | None = None
    ) -> None:
        """Bring a range here and tell the core.

        round: how often it was asked for; until: the deadline, see Fetcher.
        """
        core = self._attached()
        missing = [
            run
            for first, end in _units(offset, size)
            for run in _absent(core, first, end)
        ]
        first_time = bool(missing) and not round
        # Who needs them has the network first, if he needs it at all.
        coming = first_time and all(self.fetcher.is_coming(*run) for run in missing)
        if coming:
            self._go_ahead(missing[0][0], missing[-1][1])
        for first, end in missing:
            self._adopt(core, first, end, round=round, until=until)
        if first_time and not coming:
            self._go_ahead(missing[0][0], missing[-1][1])

    def renew(self, offset: int, size: int, elsewhere: int) -> None:
        """Drop a range that is wrong, and bring it again, from elsewhere."""
        core = self._attached()
        for first, end in _units(offset, size):
            self.fetcher.drop(first, end)
            core.forget(first * UNIT, (end - first) * UNIT)
            self._adopt(core, first, end, elsewhere=elsewhere)

    def drop_all(self) -> None:
        """Drop all of the blob: it is not what its digest says."""
        self.fetcher.drop_all()
        core = self._core
        if core:
            core.forget(0, self.size)

    def prefetch(self, offset: int, size: int, priority: int = PREFETCH) -> int:
        """Bring a range here for later; return how many bytes were not."""
        missing = 0
        for first, end in _units(offset, size):
            for start, stop in self.fetcher.absent(first, end):
                self.fetcher.get(start, stop, priority)
                missing += (stop - start) * UNIT
            core = self._core
            if core:
                self._adopt_claimed(core, first, end)
        return missing

    def _adopt(
        self,
        core: _core.Blob,
        first: int,
        end: int,
        *,
        round: int = 0,
        elsewhere: int = 0,
        until: float | None = None,
    ) -> None:
        pieces = self.fetcher.get(first, end, elsewhere=elsewhere, until=until)
        for piece in pieces:
            if piece.kept and round < _FILE_ROUNDS:
                core.adopt(piece.first, piece.sums)
            else:
                self._spare.lend(piece.first * UNIT, piece.data, piece.sums)
        if not round:
            low, high = first // _NEAR * _NEAR, -(-end // _NEAR) * _NEAR
            self._adopt_claimed(core, low, min(high, self.fetcher.units))

    def _adopt_claimed(self, core: _core.Blob, first: int, end: int) -> None:
        """Tell core what the files say that they have; it compares the sums.

        That is how it hears of what others have fetched, and of what came
        along with what was asked for.
        """
        kept = self.fetcher.kept
        if kept:
            # What is not told now is asked for later, unit by unit.
            with suppress(OSError):
                for start, stop in self.ahead.unmarked(first, end):
                    core.adopt(start, kept.sums(start, stop))

    def _go_ahead(self, first: int, end: int) -> None:
        """Fetch what comes next, if somebody seems to read on and on."""
        if not self.fetcher.kept or self._helpers.problem:
            return  # it would have to be fetched again
        self.ahead.reached(first, end)
        for start, stop in self.ahead.missed(first, end):
            if start < self.fetcher.units:
                last = min(stop, self.fetcher.units)
                self._helpers.ahead_pool().submit(self._bring_ahead, start, last)

    def _bring_ahead(self, first: int, end: int) -> None:
        """Bring units here for later; what goes wrong is for who needs them."""
        with suppress(SourceError, Closed):
            for start, stop in self.fetcher.absent(first, end):
                self.fetcher.get(start, stop, AHEAD)
            core = self._core
            if core:
                self._adopt_claimed(core, first, end)

    def _attached(self) -> _core.Blob:
        if not self._open or self._core is None:
            raise closed(self.name)
        return self._core

    def take_used(self) -> bytearray:
        """Return a byte for each MiB that was read since the last call."""
        used = bytearray(-(-self.size // _core.USE_STEP))
        if self._core and used:
            self._core.take_used(used)
        return used

    def close(self) -> None:
        """Let go of the blob. No read may be running; twice does nothing."""
        if self._open:
            self._open = False
            self._release(self)
            self._spare.close()
            self._core = None

    def __repr__(self) -> str:
        """Name the blob, for a person who debugs."""
        return f"Remote({self.name!r})"


def bring(jobs: list[tuple[Remote, int, int]], round: int) -> None:
    """Fetch ranges of blobs for one request, all at once.

    Ranges of one blob that are near each other become one. Raises the first
    error; the others have ended then.
    """
    pieces = [
        (remote, at, min(LARGEST, end - at))
        for remote, offset, end in _merged(jobs)
        for at in range(offset, end, LARGEST)
    ]
    until = min(remote.fetcher.until() for remote, _, _ in pieces)
    last = pieces.pop()
    futures: list[Future[None]] = [
        remote._helpers.demand_pool().submit(remote.fetch, offset, size, round, until)
        for remote, offset, size in pieces
    ]
    errors: list[BaseException | None] = []
    try:
        last[0].fetch(last[1], last[2], round, until)
    except SourceError as error:
        errors.append(error)
    errors += [future.exception() for future in futures]
    failed = next((error for error in errors if error), None)
    # An error that is raised must not be held by a frame that it holds.
    errors.clear()
    futures.clear()
    try:
        if failed:
            raise failed
    finally:
        del failed


def _merged(jobs: list[tuple[Remote, int, int]]) -> list[tuple[Remote, int, int]]:
    """Return (blob, offset, end) of what jobs, (blob, offset, size), ask for."""
    merged: list[tuple[Remote, int, int]] = []
    for remote, offset, size in sorted(jobs, key=lambda job: (id(job[0]), job[1])):
        if merged and merged[-1][0] is remote:
            _, start, end = merged[-1]
            if offset - end < remote.fetcher.refill * UNIT:
                merged[-1] = (remote, start, max(end, offset + size))
                continue
        merged.append((remote, offset, offset + size))
    return merged


def _units(offset: int, size: int) -> list[tuple[int, int]]:
    first, end = offset // UNIT, -(-(offset + size) // UNIT)
    return [(first, end)] if size > 0 else []


def _absent(core: _core.Blob, first: int, end: int) -> list[tuple[int, int]]:
    """Return the runs of units that the core does not have.

    Of two with little between them one is made: a request costs more.
    """
    runs: list[tuple[int, int]] = []
    for unit in range(first, end):
        if core.present(unit * UNIT, 1):
            continue
        if runs and unit - runs[-1][1] <= 4:
            runs[-1] = (runs[-1][0], unit + 1)
        else:
            runs.append((unit, unit + 1))
    return runs
