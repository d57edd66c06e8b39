# SPDX-License-Identifier: Apache-2.0
"""
test_written - a disk that is written to, in both forms, is one flat array.

All that can be done to it is done in random order; a failure names its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.device import Device
from obdengine.errors import Closed, OutOfRange, ReadOnly
from obdengine.layer import UpperOptions
from obdengine.ops.image import open_image
from obdengine.ops.snapshot import snapshot
from tests.device.test_random_stacks import Model, make
from tests.twins import stack, upper
from tests.twins.writer import SECTOR

THREADS = 4
CONFIG = "config.v1.json"


class Written:
    """A disk, and the array that it must be.

    Attributes:
        device: the disk, open.
        model: the array, and the layer of each sector.
    """

    def __init__(self, chance: Random, folder: Path, form: str) -> None:
        """Put an upper over a random stack."""
        self.chance = chance
        self.folder = folder / "upper"
        layers = folder / "layers"
        layers.mkdir()
        self._lowers, self.model = make(chance, layers)
        self._number = len(self._lowers)
        garbage = chance.choice([0, 0, 20_000, None])
        room = UpperOptions(garbage=garbage) if garbage is not None else None

        def open_again() -> Device:
            return open_image(
                self._lowers,
                readonly=False,
                upper=self.folder,
                form=form,
                options=room,
            )

        self._open = open_again
        self.device = open_again()

    @property
    def size(self) -> int:
        return len(self.model.disk)

    def place(self) -> tuple[int, int]:
        """Return an offset and a length, whole sectors or not."""
        offset = self.chance.randint(0, self.size)
        longest = self.chance.choice([1, 700, 5000, 70_000, self.size])
        length = self.chance.randint(0, min(longest, self.size - offset))
        if self.chance.random() < 0.5:
            offset = offset // SECTOR * SECTOR
            length = length // SECTOR * SECTOR
        return offset, length

    def _own(self, offset: int, end: int, zero: bool) -> None:
        """Note that the upper has these bytes, or the sectors around them."""
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            whole = offset <= sector * SECTOR and (sector + 1) * SECTOR <= end
            self.model.cells[sector] = (self._number, zero and whole)

    # -- Steps

    def write(self) -> None:
        offset, length = self.place()
        data = self.chance.randbytes(length)
        self.device.pwrite(offset, self.chance.choice([bytes, bytearray])(data))
        self.model.disk[offset : offset + length] = data
        if length:
            self._own(offset, offset + length, zero=False)

    def zero(self) -> None:
        offset, length = self.place()
        self.device.write_zeroes(offset, length)
        self.model.disk[offset : offset + length] = bytes(length)
        if length:
            self._own(offset, offset + length, zero=True)

    def discard(self) -> None:
        offset, length = self.place()
        self.device.discard(offset, length)
        start, end = -(-offset // SECTOR) * SECTOR, (offset + length) // SECTOR * SECTOR
        if start < end:
            self.model.disk[start:end] = bytes(end - start)
            self._own(start, end, zero=True)

    def flush(self) -> None:
        self.device.flush()

    def compact_index(self) -> None:
        self.device.compact_index()

    def snapshot(self) -> None:
        snapshot(self.device, self.folder / CONFIG)
        self._number += 1

    def reopen(self) -> None:
        self.device.close()
        self.device = self._open()

    def kill(self) -> None:
        """Go on as after a kill; what was flushed before it is there."""
        self.device.flush()
        assert self.device.upper
        self.device.upper.files.close()
        self.device = self._open()

    def step(self) -> None:
        """Take one of them, the rare ones rarely."""
        often = [self.write] * 6 + [self.zero, self.discard] * 2
        rare = [self.flush] * 3 + [self.compact_index, self.reopen, self.kill]
        steps: list[Callable[[], None]] = [*often, *often, *rare, self.snapshot]
        self.chance.choice(steps)()

    # -- Judging

    def check(self) -> None:
        """Compare the whole disk, and where each sector is from."""
        self.device.check()
        assert self.device.pread(0, self.size) == self.model.disk
        assert self.cells() == self.model.cells

    def cells(self) -> list[tuple[int | None, bool]]:
        found: list[tuple[int | None, bool]] = []
        for extent in self.device.extents():
            assert extent.offset == len(found) * SECTOR
            assert extent.data == (not extent.zero)
            found += [(extent.layer, extent.zero)] * (extent.length // SECTOR)
        return found

    def check_by_twin(self) -> None:
        """Compare what the twin makes of the files after a close."""
        files = self.device.upper
        assert files
        assert files.index
        paths = [layer.blob.source.name for layer in self.device.layers]
        self.device.close()
        disk = bytearray(stack.flat([Path(path).read_bytes() for path in paths]))
        disk[self.size :] = b""
        disk.extend(bytes(self.size - len(disk)))
        stream = upper.open_upper(
            files.data.path.read_bytes(), files.index.path.read_bytes()
        )
        stack.paint(disk, stream)
        assert disk == self.model.disk


def walk(seed: int, folder: Path, form: str, steps: int) -> None:
    written = Written(Random(seed), folder, form)
    written.check()
    for number in range(steps):
        written.step()
        if number % 10 == 9:
            written.check()
    written.reopen()
    written.check()
    written.check_by_twin()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("form", ["append", "sparse"])
def test_written_disk_is_an_array(tmp_path: Path, form: str, seed: int) -> None:
    walk(seed, tmp_path, form, steps=60)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["append", "sparse"])
def test_many_written_disks(tmp_path: Path, form: str) -> None:
    for seed in range(1000, 1150):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(seed, folder, form, steps=200)


@pytest.mark.parametrize("form", ["append", "sparse"])
def test_written_from_threads(tmp_path: Path, form: str) -> None:
    """Each has bytes of its own; sectors on the borders have two owners."""
    written = Written(Random(77), tmp_path, form)
    written.model = Model(len(written.model.cells))
    written.device.write_zeroes(0, written.size)
    edges = [written.size * n // THREADS + n for n in range(THREADS)] + [written.size]

    def write(number: int) -> None:
        chance = Random(number)
        for _ in range(150):
            offset = chance.randrange(edges[number], edges[number + 1])
            length = chance.randint(1, min(9000, edges[number + 1] - offset))
            data = chance.randbytes(length)
            written.device.pwrite(offset, data)
            written.model.disk[offset : offset + length] = data
            assert written.device.pread(offset, length) == data
            if chance.random() < 0.2:
                written.device.flush()
            if chance.random() < 0.05:
                written.device.compact_index()

    with ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(write, number) for number in range(THREADS)]:
            job.result()
    assert written.device.pread(0, written.size) == written.model.disk
    written.reopen()
    assert written.device.pread(0, written.size) == written.model.disk
    written.device.close()


def test_snapshots_while_it_is_written_and_read(tmp_path: Path) -> None:
    written = Written(Random(78), tmp_path, "append")
    blocks = written.size // 4096
    over = False

    def write(number: int) -> list[tuple[int, bytes]]:
        chance, kept = Random(number), {}
        while not over:
            block = chance.randrange(blocks // THREADS) * THREADS + number
            kept[block] = chance.randbytes(8) * 512
            written.device.pwrite(block * 4096, kept[block])
            assert written.device.pread(block * 4096, 4096) == kept[block]
        return list(kept.items())

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(write, number) for number in range(THREADS)]
        for _ in range(20):
            snapshot(written.device, written.folder / CONFIG)
        over = True
        kept = [pair for job in jobs for pair in job.result()]
    written.reopen()
    for block, data in kept:
        assert written.device.pread(block * 4096, 4096) == data
    written.device.close()


def each_raises(error: type[Exception], *calls: Callable[[], object]) -> None:
    for call in calls:
        with pytest.raises(error):
            call()


def test_refused_out_of_range(tmp_path: Path) -> None:
    written = Written(Random(5), tmp_path, "append")
    device, size = written.device, written.size
    each_raises(
        OutOfRange,
        lambda: device.pwrite(size, b"x"),
        lambda: device.pwrite(-1, b"x"),
        lambda: device.pwrite(size - 1, b"xx"),
        lambda: device.write_zeroes(0, size + 1),
        lambda: device.discard(size, 1),
        lambda: device.discard(-5, 5),
    )
    device.pwrite(size, b"")
    written.check()
    device.close()
    each_raises(
        Closed,
        lambda: device.pwrite(0, b"x"),
        lambda: device.discard(0, 1),
        device.flush,
        device.compact_index,
    )


def test_refused_for_reading_only(tmp_path: Path) -> None:
    written = Written(Random(5), tmp_path, "append")
    written.device.close()
    with obdengine.open(written.folder / CONFIG) as again:
        assert again.readonly
        each_raises(
            ReadOnly,
            lambda: again.pwrite(0, b"x"),
            lambda: again.write_zeroes(0, 1),
            lambda: again.discard(0, 512),
            again.compact_index,
        )
        again.flush()
        assert again.pread(0, written.size) == written.model.disk
