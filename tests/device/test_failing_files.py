# SPDX-License-Identifier: Apache-2.0
"""
test_failing_files - a disk that is full, or broken, under a writable layer.

What was acknowledged stays, the guest gets the errno, and writing goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path
from random import Random

import pytest

from obdengine.device import Device
from obdengine.errors import SourceError
from obdengine.layer import UpperOptions, create_upper, open_upper
from obdengine.units import SECTOR
from tests.device.failing import FailingFiles, Policy

SECTORS = 400
SIZE = SECTORS * SECTOR


class Failing:
    """A disk over failing files, and the array that it must be.

    Where a write failed a sector has its old content or the new one.
    """

    def __init__(self, folder: Path, form: str, options: UpperOptions) -> None:
        self.files = FailingFiles()
        self._folder = folder
        self._options = options
        self._index = folder / "u.index" if form == "append" else None
        self.model = bytearray(SIZE)
        create_upper(folder / "u.data", self._index, virtual_size=SIZE, form=form)
        self.device = self._open()

    def _open(self) -> Device:
        upper = open_upper(
            self._folder / "u.data",
            self._index,
            options=self._options,
            io=self.files.io(),
        )
        return Device([], "disk", upper)

    def reopen(self) -> None:
        """Go on as after a kill."""
        upper = self.device.upper
        assert upper
        upper.files.close()
        self.files.policy = None
        self.device = self._open()

    def write(self, offset: int, data: bytes) -> int:
        """Write; return 0 or the errno."""
        return self._try(
            lambda: self.device.pwrite(offset, data), offset, memoryview(data)
        )

    def zero(self, offset: int, length: int) -> int:
        """Zero; return 0 or the errno."""
        return self._try(
            lambda: self.device.write_zeroes(offset, length),
            offset,
            memoryview(bytes(length)),
        )

    def _try(self, call: Callable[[], None], offset: int, data: memoryview) -> int:
        where = slice(offset, offset + len(data))
        try:
            call()
        except SourceError as error:
            self._judge_failed(offset, data)
            return error.errno or -1
        self.model[where] = data
        return 0

    def _judge_failed(self, offset: int, data: memoryview) -> None:
        """Take over what the disk has now, sector by sector old or new."""
        new = bytearray(self.model)
        new[offset : offset + len(data)] = data
        disk = self.device.pread(0, SIZE)
        for at in range(0, SIZE, SECTOR):
            piece = slice(at, at + SECTOR)
            assert disk[piece] in (self.model[piece], new[piece])
        self.model[:] = disk

    def flush(self) -> int:
        """Flush; return 0 or the errno."""
        try:
            self.device.flush()
        except SourceError as error:
            return error.errno or -1
        return 0

    def check(self) -> None:
        assert self.device.pread(0, SIZE) == self.model


@pytest.fixture(params=["append", "sparse"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failing]:
    made = Failing(tmp_path, request.param, UpperOptions(garbage=0))
    yield made
    made.files.policy = None
    made.device.close()


def refusing(call: str, suffix: str, error: int) -> Policy:
    """Refuse a call on one of the files."""
    return lambda name, file: error * (name == call and file.endswith(suffix))


@pytest.mark.parametrize("error", [EIO, ENOSPC, EDQUOT])
def test_data_that_cannot_be_written(disk: Failing, error: int) -> None:
    assert disk.write(1000, b"a" * 9000) == 0
    disk.files.policy = refusing("write", ".data", error)
    assert disk.write(4096, b"b" * 4096) == error
    assert disk.write(5, b"b" * 10) == error
    assert disk.zero(600, 3000) in (0, error)  # its edges are written
    assert disk.zero(20 * SECTOR, SECTOR) == 0, "needs no data"
    disk.files.policy = None
    assert disk.write(8192, b"c" * 512) == 0
    assert disk.flush() == 0
    disk.reopen()
    disk.check()


@pytest.mark.parametrize("error", [EIO, ENOSPC, EDQUOT])
def test_records_that_cannot_be_written(disk: Failing, error: int) -> None:
    disk.files.policy = refusing("write", ("u.index", "u.data.map"), error)
    for number in range(3):
        assert disk.write(number * 4096, b"abc"[number : number + 1] * 4096) == 0
        assert disk.flush() == error
        disk.check()
    disk.files.policy = None
    assert disk.flush() == 0, "writing goes on when there is room"
    disk.reopen()
    disk.check()


@pytest.mark.parametrize("suffix", ["u.data", ("u.index", "u.data.map")])
def test_sync_that_fails_is_not_forgotten(disk: Failing, suffix: str) -> None:
    """The kernel reports it once and drops the pages: later syncs say nothing."""
    assert disk.write(0, b"a" * 4096) == 0
    disk.files.policy = refusing("sync", suffix, EIO)
    assert disk.flush() == EIO
    disk.files.policy = None
    assert disk.flush() == EIO
    with pytest.raises(SourceError):
        disk.device.compact_index()
    assert disk.write(4096, b"b" * 4096) == 0
    disk.check()
    with pytest.raises(SourceError):
        disk.device.close()
    disk.device = disk._open()  # close() gave up the lock all the same
    assert disk.flush() == 0
    assert disk.device.pread(0, 4096) in (b"a" * 4096, bytes(4096))


def test_hole_that_cannot_be_made(disk: Failing) -> None:
    assert disk.write(0, b"a" * SIZE) == 0
    disk.files.policy = refusing("punch", ".data", EIO)
    assert disk.zero(0, SIZE // 2) == 0
    assert disk.flush() == 0
    assert disk.write(8 * SECTOR, b"b" * SECTOR) == 0
    assert disk.flush() == 0
    disk.reopen()
    disk.check()


def test_index_that_cannot_be_written_anew(disk: Failing) -> None:
    for number in range(20):
        assert disk.write(number % 3 * 700, bytes([number]) * 700) == 0
    names: list[str] = []

    def policy(call: str, file: str) -> int:
        names.append(file)
        return ENOSPC * (call == "write" and file.endswith(".tmp"))

    disk.files.policy = policy
    with pytest.raises(SourceError) as raised:
        disk.device.compact_index()
    assert raised.value.errno == ENOSPC
    assert names
    left = {path.name for path in disk._folder.iterdir()}
    assert left <= {"u.data", "u.index", "u.data.map"}
    disk.files.policy = None
    assert disk.flush() == 0
    disk.device.compact_index()
    disk.reopen()
    disk.check()


def test_new_index_whose_name_may_not_last(
    disk: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut could bring the old one back, so no flush succeeds any more."""
    assert disk.write(0, b"a" * 4096) == 0
    assert disk.flush() == 0
    assert disk.write(0, b"b" * 4096) == 0
    sync = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(EIO, "of the folder")
        sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(SourceError):
            disk.device.compact_index()
    assert disk.write(4096, b"c" * 4096) == 0
    assert disk.flush() == EIO
    disk.check()
    disk.reopen()
    assert disk.device.pread(0, 4096) == b"b" * 4096


def test_limit(tmp_path: Path) -> None:
    # An eighth of the room is for writing over the rest.
    room = UpperOptions(max_size=4096 + 114 * SECTOR, garbage=0)
    disk = Failing(tmp_path, "append", room)
    for number in range(100):
        assert disk.write(number * SECTOR, bytes([number]) * SECTOR) == 0
    assert disk.write(200 * SECTOR, b"x" * SECTOR) == ENOSPC
    disk.check()
    for number in range(60):
        assert disk.write(number * SECTOR, bytes([number + 1]) * 40 * SECTOR) == 0
    disk.check()
    assert (tmp_path / "u.data").stat().st_size == 4096 + 114 * SECTOR
    assert disk.zero(0, 50 * SECTOR) == 0
    for _ in range(3):
        assert disk.flush() == 0
    assert disk.write(200 * SECTOR, b"x" * 50 * SECTOR) == 0
    assert disk.write(300 * SECTOR, b"x" * SECTOR) == ENOSPC
    assert disk.flush() == 0
    disk.reopen()
    disk.check()
    disk.device.close()


@pytest.mark.parametrize("seed", range(6))
def test_failures_at_random(disk: Failing, seed: int) -> None:
    """No acknowledged byte is lost, whatever fails before it."""
    chance = Random(seed)

    def policy(call: str, file: str) -> int:
        if call == "sync" or chance.random() < 0.7:
            return 0
        return chance.choice([EIO, ENOSPC])

    for _ in range(150):
        disk.files.policy = policy if chance.random() < 0.7 else None
        offset = chance.randrange(SIZE - 8000)
        length = chance.randint(1, 8000)
        if chance.random() < 0.7:
            disk.write(offset, chance.randbytes(length))
        else:
            disk.zero(offset, length)
        if chance.random() < 0.3 and disk.flush() == 0 and chance.random() < 0.2:
            disk.reopen()
        disk.check()
    assert disk.files.refused
