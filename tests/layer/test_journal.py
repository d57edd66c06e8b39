# SPDX-License-Identifier: Apache-2.0
"""
test_journal - small flushes in a file beside the two, and what becomes of it.

What counts in it the twin says; what a power cut leaves, tests/power.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from errno import EACCES, EIO, ENOSPC
from pathlib import Path
from random import Random
from unittest import mock

import pytest

from obdengine.config import UpperFiles
from obdengine.device import Device
from obdengine.errors import Busy, SourceError
from obdengine.layer import (
    Upper,
    UpperOptions,
    create_upper,
    journal,
    open_upper,
)
from obdengine.ops.check import check_image
from obdengine.source.output import Output
from obdengine.units import KIB, MIB, SECTOR
from tests.device.failing import FailingFiles
from tests.twins import journal as twin
from tests.twins import stack, upper

SECTORS = 600
SIZE = SECTORS * SECTOR
PATIENCE = 3


@pytest.fixture(autouse=True)
def early() -> Iterator[None]:
    """A journal that is made early, and soon full."""
    with mock.patch.multiple(journal, PATIENCE=PATIENCE, SIZE=32 * KIB):
        yield


class Disk:
    """An upper in a folder, and the array that it must be."""

    def __init__(self, folder: Path, uuid: str | None = None) -> None:
        self.folder = folder
        self.data, self.index = folder / "u.data", folder / "u.index"
        self.journal = folder / "u.data.journal"
        self.files = FailingFiles()
        self.model = bytearray(SIZE)
        create_upper(self.data, self.index, virtual_size=SIZE, uuid=uuid)
        self.device = self.open()

    def open(self, **more: bool) -> Device:
        opened = open_upper(self.data, self.index, io=self.files.io(), **more)
        return Device([], "disk", opened)

    @property
    def upper(self) -> Upper:
        assert self.device.upper
        return self.device.upper

    def write(self, start: int, data: bytes) -> None:
        self.device.pwrite(start * SECTOR, data)
        self.model[start * SECTOR : start * SECTOR + len(data)] = data

    def small(self, count: int, chance: Random) -> None:
        """Flush little, so many times."""
        for _ in range(count):
            for _ in range(chance.choice([1, 1, 2])):
                start, length = chance.randrange(SECTORS - 9), chance.randint(1, 9)
                if chance.random() < 0.2:
                    self.device.discard(start * SECTOR, length * SECTOR)
                    self.model[start * SECTOR : (start + length) * SECTOR] = bytes(
                        length * SECTOR
                    )
                else:
                    self.write(start, chance.randbytes(length * SECTOR))
            self.device.flush()

    def kill(self) -> None:
        self.upper.files.close()

    def by_twin(self, *, without: bool = False) -> bytes:
        """Return the disk that the twin makes of the files, as they are now."""
        data, index = self.data.read_bytes(), self.index.read_bytes()
        if self.journal.exists() and not without:
            data, index = twin.applied(data, index, self.journal.read_bytes())
        disk = bytearray(SIZE)
        stack.paint(disk, upper.open_upper(data, index))
        return bytes(disk)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.files.policy = None
    made.device.close()


# -- Its life


def test_made_used_and_removed(disk: Disk) -> None:
    disk.small(PATIENCE - 1, Random(1))
    assert disk.names() == {"u.data", "u.index"}
    disk.small(1, Random(2))
    assert disk.names() == {"u.data", "u.index", "u.data.journal"}
    assert disk.journal.stat().st_size == journal.SIZE
    assert disk.journal.stat().st_blocks * 512 >= journal.SIZE, "it has its room"
    disk.files.done.clear()
    disk.write(1, b"x" * 4096)
    disk.device.flush()
    assert disk.files.done == [
        ("write", "u.data"),
        ("write", "u.data.journal"),
        ("sync", "u.data.journal"),
    ]
    assert disk.upper.facts().journaled == 1
    disk.device.close()
    assert disk.names() == {"u.data", "u.index"}
    assert disk.by_twin() == disk.model


def test_checkpoint_is_in_order(disk: Disk) -> None:
    disk.small(PATIENCE + 2, Random(3))
    disk.files.done.clear()
    disk.write(0, b"y" * 200 * KIB)
    disk.device.flush()
    assert disk.files.done == [
        ("write", "u.data"),
        ("sync", "u.data"),
        ("write", "u.index"),  # what was kept
        ("write", "u.index"),
        ("sync", "u.index"),
        ("write", "u.data.journal"),
        ("sync", "u.data.journal"),
    ]
    assert disk.upper.facts().journaled == 0
    assert disk.by_twin(without=True) == disk.model


@pytest.mark.parametrize("seed", range(4))
def test_twin_reads_it_at_any_moment(disk: Disk, seed: int) -> None:
    chance = Random(seed)
    for _ in range(40):
        disk.small(chance.randint(1, 4), chance)
        assert disk.by_twin() == disk.model
        assert disk.device.pread(0, SIZE) == disk.model
        kind = chance.randrange(8)
        if kind == 0:
            disk.device.compact_index()
        elif kind == 1:
            disk.kill()
            disk.device = disk.open()
            assert not disk.journal.exists()
        elif kind == 2:
            disk.device.close()
            assert disk.by_twin() == disk.model
            disk.device = disk.open()


def test_none_for_the_sparse_form(tmp_path: Path) -> None:
    create_upper(tmp_path / "u", virtual_size=SIZE, form="sparse")
    with Device([], "disk", open_upper(tmp_path / "u", None)) as device:
        for number in range(20):
            device.pwrite(number * 4096, b"x" * 4096)
            device.flush()
        assert {path.name for path in tmp_path.iterdir()} == {"u", "u.map"}


@pytest.mark.parametrize("what", ["seal", "resize", "settle"])
def test_what_hands_the_files_on_ends_it(disk: Disk, what: str) -> None:
    disk.small(9, Random(5))
    assert disk.upper.facts().journaled > 0
    if what == "resize":
        disk.upper.resize(SIZE)
    else:
        getattr(disk.upper, what)()
    assert disk.names() == {"u.data", "u.index"}
    if what == "settle":
        assert disk.by_twin() == disk.model
        disk.small(9, Random(6))
        assert disk.journal.exists(), "another one"


def test_limit_is_not_reached_by_garbage_that_is_kept(tmp_path: Path) -> None:
    create_upper(tmp_path / "d", tmp_path / "i", virtual_size=MIB)
    options = UpperOptions(max_size=4096 + 40 * SECTOR, garbage=0)
    opened = open_upper(tmp_path / "d", tmp_path / "i", options=options)
    with Device([], "disk", opened) as device:
        for number in range(400):
            device.pwrite(0, bytes([number % 256]) * 4096)
            device.flush()
        assert (tmp_path / "d.journal").exists()
        assert (tmp_path / "d").stat().st_size <= 4096 + 40 * SECTOR


# -- What a crash leaves


def test_each_flush_that_is_whole_counts(disk: Disk, tmp_path: Path) -> None:
    """Whatever is damaged in it: what was flushed before is there."""
    chance = Random(8)
    disk.small(PATIENCE, chance)
    states = [bytes(disk.model)]
    for _ in range(8):
        disk.small(1, chance)
        states.append(bytes(disk.model))
    disk.kill()
    raw = disk.journal.read_bytes()
    for number in range(60):
        damaged = bytearray(raw)
        at = chance.randrange(40 if number % 3 == 0 else 16 * KIB)
        damaged[at] ^= 1 << chance.randrange(8)
        found = tmp_path / f"copy-{number}"
        found.mkdir()
        for path in (disk.data, disk.index):
            shutil.copyfile(path, found / path.name)
        (found / "u.data.journal").write_bytes(damaged)
        with open_disk(found) as device:
            assert device.pread(0, SIZE) in states
    disk.device = disk.open()
    assert disk.device.pread(0, SIZE) == states[-1]


def open_disk(folder: Path, **more: bool) -> Device:
    return Device([], "disk", open_upper(folder / "u.data", folder / "u.index", **more))


def crashed(folder: Path, **more: str) -> Disk:
    """Return a disk whose process was killed with a journal that holds something."""
    folder.mkdir(exist_ok=True)
    made = Disk(folder, **more)
    made.small(9, Random(9))
    made.kill()
    assert made.by_twin(without=True) != made.model
    return made


def test_reading_only_applies_it_too(tmp_path: Path) -> None:
    disk = crashed(tmp_path / "one")
    with open_disk(disk.folder, readonly=True) as device:
        assert device.pread(0, SIZE) == disk.model
    assert disk.names() == {"u.data", "u.index"}


def test_reading_only_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = crashed(tmp_path / "one")
    plain = os.open

    def refused(path: object, flags: int, *more: int, **words: int) -> int:
        if flags & os.O_RDWR and str(path).endswith("u.data"):
            raise OSError(EACCES, "no")
        return plain(path, flags, *more, **words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(SourceError, match=r"journal: holds \d flushes") as raised:
            open_disk(disk.folder, readonly=True)
        assert raised.value.errno == EACCES
        # Facts need no data.
        open_disk(disk.folder, readonly=True, locked=False).close()


def test_check_changes_nothing_and_says_it(tmp_path: Path) -> None:
    disk = crashed(tmp_path / "one")
    before = {path: path.read_bytes() for path in disk.folder.iterdir()}
    report = check_image([], upper=UpperFiles(disk.data, disk.index))
    assert not report.damage
    assert "flushes that a crash has kept out" in report.notes[0]
    assert {path: path.read_bytes() for path in disk.folder.iterdir()} == before


def test_writer_keeps_out_who_would_apply_it(disk: Disk) -> None:
    disk.small(9, Random(1))
    with pytest.raises(Busy):
        disk.open(readonly=True)
    with pytest.raises(Busy):
        disk.open()
    assert disk.journal.exists()


def test_journal_of_another_layer_is_let_be(tmp_path: Path) -> None:
    other, mine = crashed(tmp_path / "other"), crashed(tmp_path / "mine")
    raw = other.journal.read_bytes()
    mine.journal.write_bytes(raw)
    mine.device = mine.open()
    assert mine.upper.journal
    assert mine.upper.journal.is_stray
    mine.model[:] = mine.device.pread(0, SIZE)
    mine.small(30, Random(4))
    mine.upper.settle()
    mine.small(30, Random(5))
    mine.device.close()
    assert mine.journal.read_bytes() == raw
    assert mine.by_twin(without=True) == mine.model
    report = check_image([], upper=UpperFiles(mine.data, mine.index))
    assert "not the journal of this layer" in report.notes[0]


@pytest.mark.parametrize("raw", [b"", b"x", bytes(512), bytes(32 * KIB), b"x" * 5000])
def test_noise_in_its_place(disk: Disk, raw: bytes) -> None:
    disk.small(2, Random(4))
    disk.kill()
    disk.journal.write_bytes(raw)
    disk.device = disk.open()
    assert disk.device.pread(0, SIZE) == disk.model
    disk.small(9, Random(4))
    disk.device.close()
    assert disk.by_twin(without=True) == disk.model


def test_layer_that_was_written_to_without_it(tmp_path: Path) -> None:
    """As overlaybd would: it is past, and must not bring old data back."""
    disk = crashed(tmp_path / "one")
    kept = disk.journal.read_bytes()
    disk.journal.unlink()
    with mock.patch.object(journal, "PATIENCE", 0), open_disk(disk.folder) as device:
        device.pwrite(0, b"n" * SIZE)
    disk.journal.write_bytes(kept)
    note = check_image([], upper=UpperFiles(disk.data, disk.index)).notes[0]
    assert "flushes do not count" in note
    with open_disk(disk.folder) as device:
        assert device.upper
        assert device.upper.journal
        assert device.upper.journal.is_past
        assert device.pread(0, SIZE) == b"n" * SIZE
    assert disk.names() == {"u.data", "u.index"}


def test_older_index_file(tmp_path: Path) -> None:
    """A backup that was put back beside a newer journal."""
    disk = crashed(tmp_path / "one")
    disk.index.write_bytes(disk.index.read_bytes()[:4096])
    with open_disk(disk.folder) as device:
        assert device.pread(0, SIZE) == bytes(SIZE)


def test_new_layer_in_the_place_of_one(tmp_path: Path) -> None:
    uuid = "0123abcd-0000-4000-8000-00000000000a"
    disk = crashed(tmp_path / "one", uuid=uuid)
    create_upper(disk.data, disk.index, virtual_size=SIZE, uuid=uuid)
    assert not disk.journal.exists()


def test_records_that_no_writer_made(tmp_path: Path) -> None:
    """An entry with a right checksum ends the journal where it breaks a rule."""
    disk = crashed(tmp_path / "one")
    raw = bytearray(disk.journal.read_bytes())
    first = raw[512 : 512 + int.from_bytes(raw[544:548], "little") * SECTOR]
    for lo, hi in [(1 << 62, 8), (1 << 50 | 1 << 49, 8), (1 << 50, 7), (0, 8)]:
        first[48:64] = lo.to_bytes(8, "little") + hi.to_bytes(8, "little")
        first[40:44] = bytes(4)
        first[40:44] = twin.checksum(bytes(first)).to_bytes(4, "little")
        raw[512 : 512 + len(first)] = first
        disk.journal.write_bytes(raw)
        with open_disk(disk.folder, readonly=True, recover=False) as device:
            assert device.upper
            assert device.upper.journal
            assert device.upper.journal.kept == 0


# -- When it cannot be had


def test_no_room_for_one(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SourceError("full", errno=ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "commit", full)
        disk.small(PATIENCE + 3, Random(1))
    disk.small(20, Random(2))
    assert disk.names() == {"u.data", "u.index"}
    disk.kill()
    assert disk.by_twin() == disk.model
    disk.device = disk.open()


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("whole", [False, True])
def test_journal_that_fails(disk: Disk, call: str, whole: bool) -> None:
    """Flushes go on without it, if it can be said durably that it is void."""
    disk.small(PATIENCE + 4, Random(1))
    left = [10**6 if whole else 1]

    def policy(name: str, file: str) -> int:
        left[0] -= (name, file) == (call, "u.data.journal")
        refused = name == call and file == "u.data.journal" and left[0] >= 0
        return EIO * refused

    disk.files.policy = policy
    disk.write(3, b"z" * 4096)
    if whole and call == "sync":
        with pytest.raises(SourceError):
            disk.device.flush()
        disk.files.policy = None
        with pytest.raises(SourceError):
            disk.device.flush()
    else:
        disk.device.flush()
        disk.files.policy = None
        disk.small(5, Random(2))
    disk.kill()
    disk.device = disk.open()
    assert disk.device.pread(0, SIZE) == disk.model


def test_records_wait_in_it_for_room(disk: Disk) -> None:
    disk.small(PATIENCE + 2, Random(1))
    disk.files.policy = lambda name, file: (
        ENOSPC * (name == "write" and file == "u.index")
    )
    with pytest.raises(SourceError):
        disk.device.compact_index()
    for number in range(10):
        disk.write(number, b"a" * SECTOR)
        disk.device.flush()
    disk.write(20, b"b" * 200 * KIB)
    with pytest.raises(SourceError):
        disk.device.flush()
    disk.files.policy = None
    disk.device.flush()
    disk.kill()
    disk.device = disk.open()
    assert disk.device.pread(0, SIZE) == disk.model


@pytest.mark.parametrize("seed", range(6))
def test_failures_at_random(disk: Disk, seed: int) -> None:
    chance = Random(seed)

    def policy(name: str, file: str) -> int:
        fails = name == "write" and not file.endswith(".data")
        return chance.choice([EIO, ENOSPC]) * (fails and chance.random() < 0.2)

    for _ in range(60):
        disk.files.policy = policy
        try:
            disk.small(1, chance)
            flushed = True
        except SourceError:
            disk.model[:] = disk.device.pread(0, SIZE)
            flushed = False
        if flushed and chance.random() < 0.2:
            disk.files.policy = None
            disk.kill()
            disk.device = disk.open()
            assert disk.device.pread(0, SIZE) == disk.model
    assert disk.files.refused
