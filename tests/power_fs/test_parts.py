# SPDX-License-Identifier: Apache-2.0
"""test_parts - the judge is judged: the plan, the record, and what is preloaded."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.power_fs import plan, rig
from tests.power_fs.recording import (
    DISCARD,
    FLUSH,
    FUA,
    MARK,
    Entry,
    Log,
    Medium,
    Recorder,
)
from tests.tools import requires

SEED = 11


# -- The plan


def state(steps: dict[int, int]) -> bytearray:
    """Return the disk when each hand has done so many steps."""
    disk = bytearray(plan.base_disk())
    for hand, last in steps.items():
        for batch in plan.batches(SEED, hand):
            for step in batch:
                if step.number <= last:
                    do(disk, hand, step)
            if batch[-1].number >= last:
                break
    return disk


def do(disk: bytearray, hand: int, step: plan.Step) -> None:
    write = step.kind == "write"
    data = plan.payload(hand, step) if write else bytes(step.length * plan.SECTOR)
    offset = step.start * plan.SECTOR
    disk[offset : offset + len(data)] = data


def claims(durable: int, begun: int) -> list[plan.Claim]:
    return [plan.Claim(hand, durable, begun) for hand in range(plan.HANDS)]


def test_batches_follow_from_the_seed() -> None:
    first, again, other = (
        list(islice(plan.batches(seed, hand), 20))
        for seed, hand in ((SEED, 0), (SEED, 0), (SEED, 1))
    )
    assert first == again != other
    numbers = [step.number for batch in first for step in batch]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("hand", range(plan.HANDS))
def test_hands_keep_to_their_part(hand: int) -> None:
    for batch in islice(plan.batches(SEED, hand), 200):
        for step in batch:
            assert hand * plan.PART <= step.start
            assert step.start + step.length <= (hand + 1) * plan.PART


@pytest.mark.parametrize("done", [50, 55, 60])
def test_what_is_allowed_is_not_wrong(done: int) -> None:
    assert plan.judge(SEED, claims(50, 60), bytes(state({0: done, 1: done}))) == []


@pytest.mark.parametrize(("durable", "begun"), [(50, 60), (30, 39)])
def test_lost_and_early_steps_are_wrong(durable: int, begun: int) -> None:
    assert plan.judge(SEED, claims(durable, begun), bytes(state({0: 40, 1: 50})))


def test_mixtures_are_wrong() -> None:
    disk = state({0: 50, 1: 50})
    stamped = plan.SECTOR * plan.BASE_PIECE
    for at in range(stamped, stamped + 64 * plan.SECTOR, plan.SECTOR):
        disk[at + 100] ^= 1
    assert len(plan.judge(SEED, claims(50, 60), bytes(disk))) == 64


def test_sectors_in_the_wrong_place_are_wrong() -> None:
    disk = state({})
    piece = plan.BASE_PIECE * plan.SECTOR
    disk[piece : 2 * piece] = disk[3 * piece : 4 * piece]
    assert len(plan.judge(SEED, claims(0, 0), bytes(disk))) == plan.BASE_PIECE


def test_latest_claims_count() -> None:
    words = [plan.MADE, "0:3:9", "1:4:4", "0:9:12", "dm-log-writes-end"]
    assert plan.latest(words) == (True, [plan.Claim(0, 9, 12), plan.Claim(1, 4, 4)])
    assert plan.latest([]) == (False, claims(0, 0))


# -- The record


def fill(value: int, length: int) -> bytes:
    return bytes([value]) * 512 * length


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    """A disk of eight sectors that was told some things."""
    recorder = Recorder(str(tmp_path / "log"))
    recorder.add(0, 0, 2, fill(1, 2))
    recorder.add(FLUSH)
    recorder.add(MARK, data=b"word")
    recorder.add(0, 1, 3, fill(2, 3))
    recorder.add(FUA, 2, 1, fill(3, 1))
    recorder.add(DISCARD, 6, 2)
    path = tmp_path / "disk"
    path.write_bytes(fill(9, 8))
    found = Medium(path)
    log = Log(tmp_path / "log")
    for entry in log:
        if entry.flags & MARK:
            assert (entry.number, entry.mark) == (2, "word")
        else:
            found.tell(entry, log.data(entry))
    log.close()
    yield found
    found.close()


def content(medium: Medium) -> list[int]:
    return list(medium.path.read_bytes()[::512])


def test_only_what_was_promised_is_durable(medium: Medium) -> None:
    assert content(medium) == [1, 1, 3, 9, 9, 9, 9, 9]


def test_all_may_survive(medium: Medium) -> None:
    kept = medium.survivors(Random(1), 1)
    assert [(w.start, w.data) for w in kept] == [
        (1, fill(2, 1)),
        (3, fill(2, 1)),
        (6, fill(0, 2)),
    ]
    assert medium.survivors(Random(1), 0) == []


def test_some_may_survive_in_part(medium: Medium) -> None:
    medium.tell(Entry(9, 6, 14, 0, "", 0), fill(5, 14))
    found = {
        tuple((w.start, w.data) for w in medium.survivors(Random(seed), 0.5))
        for seed in range(400)
    }
    assert len(found) > 8
    # The last one crosses three blocks: any of them may be missing.
    last = {
        tuple((start, len(data) // 512) for start, data in state if data[0] == 5)
        for state in found
    }
    assert {((6, 2),), ((8, 8),), ((16, 4),), ((6, 2), (16, 4))} <= last


def test_flush_makes_the_rest_durable(medium: Medium, tmp_path: Path) -> None:
    Recorder(str(tmp_path / "more")).add(FLUSH)
    (entry,) = Log(tmp_path / "more")
    medium.tell(entry, b"")
    assert content(medium) == [1, 2, 3, 2, 9, 9, 0, 0]


def test_other_files_are_no_logs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(4096))
    with pytest.raises(ValueError, match="no log of writes"):
        Log(path)


# -- What is preloaded


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def library(path: Path | None) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path) if path else None, use_errno=True)
    found.ptrace.restype = ctypes.c_long
    found.ptrace.argtypes = [ctypes.c_int, ctypes.c_int] + [ctypes.c_void_p] * 2
    return found


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that waits for its tracer, us."""
    libc = library(None)
    child = os.fork()
    if child == 0:
        libc.ptrace(0, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, 0)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@requires("gcc")
def test_smaller_state_is_taken(stopped: int, tmp_path: Path) -> None:
    get, put, kind = 0x4204, 0x4205, 0x202
    buffer = ctypes.create_string_buffer(1 << 16)
    whole = _Vector(ctypes.addressof(buffer), len(buffer))
    libc, shim = library(None), library(rig.built("xsave", tmp_path))
    assert libc.ptrace(get, stopped, kind, ctypes.addressof(whole)) == 0
    before = buffer.raw[: whole.size]
    part = _Vector(whole.base, 640)
    if libc.ptrace(put, stopped, kind, ctypes.addressof(part)) == 0:
        pytest.skip("kernel: it takes a part of the floating-point state itself")
    assert shim.ptrace(put, stopped, kind, ctypes.addressof(part)) == 0
    assert shim.ptrace(get, stopped, kind, ctypes.addressof(whole)) == 0
    assert buffer.raw[: whole.size] == before
