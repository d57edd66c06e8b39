# SPDX-License-Identifier: Apache-2.0
"""test_batches - in order, bounded, and over at the first thing that fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random

import pytest

from obdengine.blob.batches import BATCH_SIZE, Batch, Batches

every_count = pytest.mark.parametrize("threads", [1, 2, 7])

STREAM = Random(1).randbytes(21 * BATCH_SIZE // 2)


def nothing(batch: Batch) -> None:
    """Do nothing with a batch."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # One that was just being started at a Ctrl-C is not waited for by close().
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


@every_count
def test_all_is_taken_in_order(threads: int) -> None:
    taken: list[bytes] = []

    def work(batch: Batch) -> None:
        time.sleep(0.001 * (batch.data[0] % 3))
        batch.made[:] = batch.data[::-1]

    def take(batch: Batch) -> None:
        taken.append(bytes(batch.made))

    chance, at = Random(threads), 0
    with closing(Batches(work, take, threads)) as batches:
        while at < len(STREAM):
            piece = bytearray(STREAM[at : at + chance.randrange(3 * BATCH_SIZE)])
            batches.write(piece)
            at += len(piece)
            piece[:] = bytes(len(piece))
        batches.finish()
    assert [len(one) for one in taken] == [BATCH_SIZE] * 10 + [BATCH_SIZE // 2]
    assert b"".join(one[::-1] for one in taken) == STREAM


@every_count
def test_memory_is_bounded(threads: int) -> None:
    seen: list[Batch] = []
    with closing(Batches(seen.append, nothing, threads)) as batches:
        for _ in range(5):
            batches.write(STREAM)
        batches.finish()
    assert len(seen) == 53
    assert len(set(map(id, seen))) <= 2 * threads + 1


def write_numbers(batches: Batches) -> None:
    """Write 250 batches, which begin with their numbers."""
    for number in range(250):
        batches.write(bytes([number]) * BATCH_SIZE)


def failing(number: int) -> tuple[Callable[[Batch], None], list[int]]:
    """Return what fails for a batch that begins with number, and those it saw."""
    seen: list[int] = []

    def work(batch: Batch) -> None:
        if batch.data[0] == number:
            raise ZeroDivisionError(number)
        seen.append(batch.data[0])

    return work, seen


@every_count
@pytest.mark.parametrize("where", ["work", "take"])
def test_what_fails_is_raised_and_ends_it(threads: int, where: str) -> None:
    fails, seen = failing(5)
    work, take = (fails, nothing) if where == "work" else (nothing, fails)
    with (
        closing(Batches(work, take, threads)) as batches,
        pytest.raises(ZeroDivisionError, match="5"),
    ):
        write_numbers(batches)
    if where == "take":
        assert seen == [0, 1, 2, 3, 4]
    assert max(seen) < 5 + 2 * threads


@every_count
def test_what_fails_last_is_raised_by_finish(threads: int) -> None:
    fails, seen = failing(2)
    with closing(Batches(nothing, fails, threads)) as batches:
        batches.write(bytes(BATCH_SIZE) + b"\1" * BATCH_SIZE + b"\2")
        with pytest.raises(ZeroDivisionError):
            batches.finish()
    assert seen == [0, 1]


@every_count
def test_nothing_is_taken_after_what_fails(threads: int) -> None:
    """Also what was done already, and waited for its turn."""
    taken: list[int] = []

    def take(batch: Batch) -> None:
        taken.append(batch.data[0])
        raise ZeroDivisionError

    with closing(Batches(nothing, take, threads)) as batches:
        with pytest.raises(ZeroDivisionError):
            write_numbers(batches)
        with pytest.raises(ZeroDivisionError):
            batches.finish()
    assert taken == [0]


@every_count
def test_ctrl_c_ends_the_wait_for_room(threads: int) -> None:
    """The main thread cannot go on: nothing is done before it is interrupted."""
    main, go_on = threading.get_ident(), threading.Event()

    def work(batch: Batch) -> None:
        if batch.data[0] == 0:
            signal.pthread_kill(main, signal.SIGINT)
        go_on.wait()

    with closing(Batches(work, nothing, threads)) as batches:
        with pytest.raises(KeyboardInterrupt):
            write_numbers(batches)
        go_on.set()


def test_closed_twice() -> None:
    batches = Batches(nothing, nothing, 2)
    batches.write(STREAM)
    batches.close()
    batches.close()
