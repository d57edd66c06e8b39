# SPDX-License-Identifier: Apache-2.0
"""
writing - writable images of every kind, and an array that says what they hold.

Everything follows from the Random that is passed in, so a failure comes back
with its seed.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import NamedTuple

import obdengine
from obdengine.config import Image, LayerFile
from obdengine.device import Device
from obdengine.ops.folder import make_or_reopen
from obdengine.units import SECTOR
from tests.twins import invent, stack, writer

FORMS = ["append", "sparse"]


class Writable(NamedTuple):
    """A writable image: its configuration, its lower layers, and its disk."""

    config: Path
    lowers: list[Path]
    disk: bytearray

    def write(self, chance: Random, count: int) -> None:
        """Open it, write, and close it again."""
        with obdengine.open(self.config, readonly=False) as device:
            write(chance, device, self.disk, count)

    def read(self) -> bytes:
        """Return all of it, as whoever opens it sees it."""
        return read(self.config)

    def check(self) -> None:
        """Assert that it reads as its array."""
        assert self.read() == self.disk


def read(*image: Path) -> bytes:
    """Return the whole disk of an image."""
    with obdengine.open(image) as device:
        device.check()
        return device.pread(0, device.size)


def lowers(chance: Random, folder: Path, sectors: int, count: int) -> list[Path]:
    """Write some layers for a disk of so many sectors, bottom first."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"layer{number}.obd" for number in range(count)]
    for number, file in enumerate(files):
        runs = invent.runs(chance, sectors, chance.choice([3, 30, 100]))
        how = writer.Lsmt(uuid=f"{number:08x}-1111-4000-8000-000000000000")
        stream = writer.lsmt(runs, sectors * SECTOR, how)
        file.write_bytes(invent.wrapped(chance, stream))
    return files


def make(
    chance: Random, folder: Path, form: str, sectors: int = 3000, layers: int = 2
) -> Writable:
    """Make a writable image, with nothing written to it yet."""
    below = lowers(chance, folder, sectors, layers)
    size = sectors * SECTOR
    raws = [path.read_bytes() for path in below]
    disk = bytearray(stack.flat(raws) if raws else size)
    new = None if below else size
    config = make_or_reopen(
        folder / "own",
        Image([LayerFile(path) for path in below]),
        virtual_size=new,
        form=form,
    )
    return Writable(config, below, disk)


def write(chance: Random, device: Device, disk: bytearray, count: int) -> None:
    """Do count things to a device, and the same to disk."""
    for _ in range(count):
        offset = chance.randrange(device.size)
        longest = chance.choice([512, 4096, 9000, 70000, 300_000])
        size = min(chance.randint(1, longest), device.size - offset)
        if chance.random() < 0.7:
            offset -= offset % SECTOR
            size = size - size % SECTOR or SECTOR
            size = min(size, device.size - offset)
        action = chance.random()
        if action < 0.6:
            data = chance.choice([invent.sectors, _mostly_zero])(
                chance, size // SECTOR + 1
            )[:size]
            device.pwrite(offset, data)
            disk[offset : offset + size] = data
        elif action < 0.75:
            device.write_zeroes(offset, size)
            disk[offset : offset + size] = bytes(size)
        elif action < 0.9:
            discard(device, disk, offset, size)
        else:
            device.flush()


def discard(device: Device, disk: bytearray, offset: int, size: int) -> None:
    """Discard a range: whole sectors of it read as zeros."""
    device.discard(offset, size)
    start = -(-offset // SECTOR) * SECTOR
    end = (offset + size) // SECTOR * SECTOR
    if start < end:
        disk[start:end] = bytes(end - start)


def _mostly_zero(chance: Random, length: int) -> bytes:
    data = bytearray(length * SECTOR)
    for _ in range(length // 16):
        data[chance.randrange(len(data))] = 1
    return bytes(data)
