# SPDX-License-Identifier: Apache-2.0
"""test_ahead - who reads on and on is waited for; who does not costs nothing more."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from obdengine.errors import SourceError
from obdengine.source.ahead import Ahead
from obdengine.source.fetcher import Fetcher
from obdengine.source.gate import AHEAD, BACKGROUND, DEMAND, PREFETCH, Gate
from obdengine.source.state import KeptFile
from tests.remote.origins import Counting, cache_in, open_in
from tests.remote.test_cache import Reader

KIB, MIB = 1 << 10, 1 << 20
CONTENT = Random(4).randbytes(MIB) * 16
REFILL = 16  # units of 4 KiB


class Big(Reader):
    """A blob of 16 MiB, read as the core reads it."""

    def check(self, offset: int, size: int) -> None:
        assert self.read(offset, size) == CONTENT[offset : offset + size]


def wanted(ahead: Ahead, blocks: Iterable[int]) -> list[int]:
    """Return how many refills are fetched behind misses of these."""
    found = []
    for block in blocks:
        parts = ahead.missed(block * REFILL, block * REFILL + 1)
        found.append(sum(end - first for first, end in parts) // REFILL)
    return found


# -- What is noticed


def test_windows_double_up_to_a_bound() -> None:
    ahead = Ahead(REFILL, 8 * REFILL)
    # Each miss is at the mark, where the last window begins.
    assert wanted(ahead, [5, 6, 7, 8, 10, 14, 22]) == [0, 1, 2, 4, 8, 8, 8]


def test_requests_are_parts_of_a_window() -> None:
    ahead = Ahead(REFILL, 512)
    wanted(ahead, [0, 1, 2, 3, 5, 9])
    assert ahead.missed(17 * REFILL, 18 * REFILL) == [
        (at, at + 128) for at in range(33 * REFILL, 33 * REFILL + 512, 128)
    ]


def test_large_reads_begin_with_large_windows() -> None:
    ahead = Ahead(REFILL, 512)
    assert ahead.missed(0, 200) == []
    assert ahead.missed(208, 400) == [(400, 496), (496, 592)]


def test_scattered_misses_are_no_stream() -> None:
    ahead = Ahead(REFILL, 512)
    blocks = [n * 2 for n in range(500)]
    Random(1).shuffle(blocks)
    assert not any(wanted(ahead, blocks))


def test_a_few_streams_at_once() -> None:
    ahead = Ahead(REFILL, 512)
    for step in (0, 1):
        found = wanted(ahead, [1000 * n + step for n in range(8)])
        assert found == [step] * 8
    assert wanted(ahead, [2, 1002]) == [2, 2]


def test_what_is_read_again_fetches_nothing() -> None:
    ahead = Ahead(REFILL, 512)
    wanted(ahead, [0, 1, 2, 3, 5])  # up to 17 is fetched or under way
    assert wanted(ahead, [3, 6, 8]) == [0, 0, 0]


def test_none_where_there_is_no_room() -> None:
    assert not any(wanted(Ahead(REFILL, 0), range(20)))


def test_marks_are_kept_from_the_core() -> None:
    ahead = Ahead(REFILL, 512)
    wanted(ahead, [0, 1])
    assert list(ahead.unmarked(0, 40)) == [(0, 32), (33, 40)]
    assert list(ahead.unmarked(32, 33)) == []
    ahead.reached(30, 33)
    assert list(ahead.unmarked(0, 40)) == [(0, 40)]


# -- What is fetched


@pytest.fixture
def origin() -> Counting:
    return Counting(CONTENT)


class AtOnce:
    """A pool that does its work while it is given it; how much was asked in it."""

    def __init__(self, origin: Counting) -> None:
        self.origin, self.asked = origin, 0

    def submit(self, work: Callable[..., None], *words: int) -> None:
        before = len(self.origin.reads)
        work(*words)
        self.asked += len(self.origin.reads) - before


def read_all(
    folder: Path, origin: Counting, offsets: Iterable[int], *, at_once: bool = False
) -> int:
    """Read 4 KiB at each offset, and end; return how many requests were waited for."""
    cache, pool = cache_in(folder), AtOnce(origin)
    if at_once:
        cache.ahead_pool = lambda: pool  # type: ignore[method-assign,assignment,return-value]
    remote = open_in(cache, origin)
    reader = Big(remote)
    for at in offsets:
        reader.check(at, 4096)
    remote.close()
    return len(origin.reads) - pool.asked


def test_a_stream_waits_for_its_begin_only(tmp_path: Path, origin: Counting) -> None:
    waited = read_all(tmp_path, origin, range(0, len(CONTENT), 4096), at_once=True)
    assert waited == 2
    assert origin.bytes_read == len(CONTENT)


def test_streams_side_by_side(tmp_path: Path, origin: Counting) -> None:
    part = len(CONTENT) // 4
    offsets = [at + n * part for at in range(0, part, 4096) for n in range(4)]
    assert read_all(tmp_path, origin, offsets, at_once=True) == 8
    assert origin.bytes_read == len(CONTENT)


def test_nothing_comes_twice(tmp_path: Path, origin: Counting) -> None:
    origin.delay = 0.002
    read_all(tmp_path, origin, range(0, len(CONTENT), 4096))
    assert origin.bytes_read == len(CONTENT)


def test_random_reads_fetch_what_they_need(tmp_path: Path, origin: Counting) -> None:
    # One refill of each two, in disorder: no read goes on where one ended.
    refills = [n * 64 * KIB for n in range(0, len(CONTENT) // (64 * KIB), 2)]
    Random(7).shuffle(refills)
    waited = read_all(tmp_path, origin, [at + 8192 for at in refills])
    assert waited == len(refills)
    assert origin.reads == [(at, 64 * KIB) for at in refills]


def test_who_stops_has_a_window_too_much(tmp_path: Path, origin: Counting) -> None:
    read_all(tmp_path, origin, range(0, MIB, 4096))
    assert origin.bytes_read <= 4 * MIB


class FailingAhead(Counting):
    """Answers only those who wait."""

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        if threading.current_thread().name.startswith("obd-ahead"):
            raise SourceError("blob: not for that")
        return super().read(offset, size, end=end, elsewhere=elsewhere)


def test_failure_ahead_is_nobodys(tmp_path: Path) -> None:
    origin = FailingAhead(CONTENT)
    read_all(tmp_path, origin, range(0, 4 * MIB, 4096))
    assert origin.bytes_read >= 4 * MIB


class FailingOnce(Counting):
    """Its first answer is an error, and comes when somebody else waits for it too."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.asked, self.joined = threading.Event(), threading.Event()

    def read(self, offset: int, size: int, **more: object) -> bytes:
        if not self.asked.is_set():
            self.asked.set()
            self.joined.wait(60)
            raise SourceError("blob: not today")
        return super().read(offset, size)


def test_who_waited_for_what_failed_ahead_asks_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, after = FailingOnce(CONTENT), Fetcher._after

    def noticed(self: Fetcher, *words: object) -> object:
        origin.joined.set()
        return after(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Fetcher, "_after", noticed)
    remote = open_in(cache_in(tmp_path / "cache"), origin)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(remote.fetcher.get, 0, REFILL, AHEAD)
        assert origin.asked.wait(60)
        assert remote.pread(100, 50) == CONTENT[100:150]
        assert str(ahead.exception()) == "blob: not today"
    remote.close()


def test_nothing_ahead_where_nothing_is_kept(
    tmp_path: Path, origin: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: KeptFile, *words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KeptFile, "put", full)
    read_all(tmp_path, origin, range(0, 4 * MIB, 4096))
    assert origin.bytes_read == 4 * MIB


def test_small_caches_have_small_windows(tmp_path: Path) -> None:
    assert cache_in(tmp_path).ahead == 2 * MIB
    assert cache_in(tmp_path, limit=4 * MIB).ahead == 256 * KIB


# -- Who goes first


def test_ahead_comes_after_demand_and_before_the_rest() -> None:
    gate = Gate(limit=2, prefetches=1)
    order: list[int] = []
    may = gate._may

    def noted(priority: int) -> bool:
        if may(priority):
            order.append(priority)
            return True
        return False

    def pass_through(priority: int) -> None:
        with gate.slot(priority):
            pass

    with gate.slot(DEMAND), gate.slot(DEMAND):
        gate._may = noted  # type: ignore[method-assign]
        threads = [
            threading.Thread(target=pass_through, args=[priority])
            for priority in (BACKGROUND, PREFETCH, AHEAD, DEMAND)
        ]
        for thread in threads:
            thread.start()
        while gate._waiting != [1, 1, 1, 1]:
            time.sleep(0.001)
    for thread in threads:
        thread.join(60)
    assert order == [DEMAND, AHEAD, PREFETCH, BACKGROUND]
