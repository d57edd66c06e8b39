# SPDX-License-Identifier: Apache-2.0
"""test_simulator - the parts of the simulator, each by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from obdengine.source.output import Output
from tests.power.crash import Disk, State, replayed
from tests.power.recorder import Op, Recorder
from tests.power.truth import SECTOR, ZEROS, Truth

A, B, C = (bytes([n]) * SECTOR for n in (1, 2, 3))


def test_output_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    recorder = Recorder(tmp_path)
    with recorder.recording(), Output(tmp_path / "file") as out:
        out.append(b"new")
        out.resize(10)
        out.commit()
    kinds = [op.kind for op in recorder.log]
    assert kinds == ["create", "write", "truncate", "sync", "rename", "folder"]
    assert replayed(recorder) == {"file": b"new" + bytes(7)}
    states = {tuple(s.items()) for n in range(7) for s in after(recorder, n, 20)}
    assert {s["file"] for s in map(dict, states) if "file" in s} == {
        b"old",
        b"new" + bytes(7),
    }


def after(recorder: Recorder, count: int, samples: int = 0) -> Iterator[State]:
    """Yield what the first changes may have left."""
    disk = Disk(recorder.start)
    for op in recorder.log[:count]:
        disk.change(op)
    yield from disk.states(Random(count), samples)


@pytest.mark.parametrize("name", ["write", "pwritev", "link"])
def test_unknown_changes_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    calls = {
        "write": lambda fd: os.write(fd, b"x"),
        "pwritev": lambda fd: os.pwritev(fd, [b"x"], 0),
        "link": lambda _: os.link(path, tmp_path / "other"),
    }
    fd = os.open(path, os.O_RDWR)
    with Recorder(tmp_path).recording(), pytest.raises(AssertionError):
        calls[name](fd)
    os.close(fd)


def test_what_gets_past_the_recorder_is_missed_later(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with recorder.recording(), (tmp_path / "file").open("wb") as file:
        file.write(b"x")
    assert replayed(recorder) != {"file": b"x"}


def contents(*ops: Op, start: bytes = b"") -> set[bytes]:
    """Return all that one file may be after these changes."""
    disk = Disk({"f": (1, start)})
    for op in ops:
        disk.change(op)
    return {state["f"] for state in disk.states(Random(5), 500)}


def write(offset: int, data: bytes) -> Op:
    return Op("write", 0, file=1, offset=offset, size=len(data), data=data)


SYNC = Op("sync", 0, file=1)


def test_what_was_synced_is_there() -> None:
    assert contents(write(0, A), SYNC) == {A}
    assert contents(write(0, A), SYNC, SYNC, start=B) == {A}


def test_what_was_not_synced_may_be_there() -> None:
    assert contents(write(0, A), start=B) == {A, B}
    assert contents(write(0, A), SYNC, write(0, B), write(0, C)) == {A, B, C}
    assert contents(write(0, A)) == {A, b"", ZEROS}
    holes = contents(Op("punch", 0, file=1, offset=0, size=SECTOR), start=A)
    assert holes == {A, ZEROS}
    cuts = contents(Op("truncate", 0, file=1, offset=SECTOR), start=A + B)
    assert cuts == {A, A + B}


def test_writes_are_torn_between_sectors() -> None:
    assert contents(write(0, A + B), start=C + C) == {C + C, A + C, C + B, A + B}
    # Not on a border of the file: the sector is the file's, not the write's.
    found = contents(write(256, A), start=C + C)
    half = C[:256]
    assert found == {
        C + C,
        half + A + half,
        half + A[:256] + C,
        C + A[:256] + half,
    }


def test_later_writes_do_not_wait_for_earlier_ones() -> None:
    found = contents(write(0, A), write(SECTOR, B), start=C + C)
    assert found == {C + C, A + C, C + B, A + B}


def names(*ops: Op) -> set[tuple[str, ...]]:
    """Return all that a folder may name after these changes to a, b, c."""
    disk = Disk({name: (n, b"") for n, name in enumerate("abc")})
    for op in ops:
        disk.change(op)
    return {tuple(sorted(state)) for state in disk.states(Random(5), 200)}


def test_names_change_in_order() -> None:
    gone = [Op("unlink", 0, name=name) for name in "ab"]
    assert names(*gone) == {("a", "b", "c"), ("b", "c"), ("c",)}
    assert names(*gone, Op("folder", 0)) == {("c",)}
    assert names(gone[0], Op("folder", 0), gone[1]) == {("b", "c"), ("c",)}
    assert names(Op("rename", 0, name="a", target="b")) == {
        ("a", "b", "c"),
        ("b", "c"),
    }


def test_truth() -> None:
    truth = Truth([frozenset([ZEROS])])
    truth.begin(0, [A], tick=1).acked = 2
    assert truth.allowed(1) == [{ZEROS}]
    assert truth.allowed(3) == [{ZEROS, A}]
    truth.flushed(3, 6)
    truth.begin(0, [B], tick=4).acked = 5
    assert truth.allowed(5) == [{ZEROS, A, B}]
    assert truth.allowed(7) == [{A, B}], "the flush began before the write returned"
    truth.flushed(8, 9)
    assert truth.allowed(10) == [{B}]
    truth.begin(0, [C], tick=11)
    truth.flushed(12, 13)
    assert truth.allowed(14) == [{B, C}], "a write that never returned"


def test_truth_of_writes_at_the_same_time() -> None:
    """Which of them won is not known, so either may be there for ever."""
    truth = Truth([frozenset([ZEROS])])
    first, second = truth.begin(0, [A], tick=1), truth.begin(0, [B], tick=2)
    second.acked, first.acked = 3, 4
    truth.flushed(5, 6)
    assert truth.allowed(7) == [{A, B}]
