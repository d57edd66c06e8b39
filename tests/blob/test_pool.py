# SPDX-License-Identifier: Apache-2.0
"""test_pool - results in order, bounded, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from obdengine.blob.pool import cpus, ordered_map

every_count = pytest.mark.parametrize("threads", [1, 2, 7])


@every_count
def test_order(threads: int) -> None:
    def work(n: int) -> int:
        time.sleep(0.001 * (n % 3))
        return n * n

    assert list(ordered_map(work, range(50), threads)) == [n * n for n in range(50)]


@every_count
def test_items_are_taken_as_they_are_needed(threads: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield n

    results = ordered_map(abs, items(), threads)
    next(results)
    assert taken <= 2 * threads
    results.close()


@every_count
def test_error_comes_out_and_threads_end(threads: int) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda n: 1 // (5 - n), range(100), threads))
    assert set(threading.enumerate()) <= before  # others may have ended


def test_cpus() -> None:
    assert cpus() >= 1
