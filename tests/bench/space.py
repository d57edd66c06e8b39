# SPDX-License-Identifier: Apache-2.0
"""
space - how much room a busy disk takes on its host, with its garbage bounded.

The disk is filled once, then as much as it holds is written to it at random,
ten times, with a flush after each 4 MiB. Nothing here is timed.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import obdengine
from obdengine.config import resolve
from obdengine.device import Device
from obdengine.layer import UpperOptions
from obdengine.units import KIB, MIB, SECTOR
from tests.bench.harness import Table, short
from tests.bench.uppers import empty_disk
from tests.bench.workshop import Workshop, memory

TIMES = 10
LARGEST = 64 * KIB
FLUSH_AFTER = 4 * MIB
NO_BOUND = 1 << 60


@dataclass
class Room:
    """Bytes that an upper's files take.

    Attributes:
        live: data that the disk still has.
        size: of the data file, from end to end.
        blocks: of it, what the file system has given it.
        index: size of the index file.
    """

    live: int
    size: int
    blocks: int
    index: int

    def most(self, other: Room) -> Room:
        """Return the larger of each."""
        return Room(
            max(self.live, other.live),
            max(self.size, other.size),
            max(self.blocks, other.blocks),
            max(self.index, other.index),
        )


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    size = (16 if shop.quick else 256) * MIB
    made = Table(
        [
            f"MiB (of live data), a disk of {size // MIB} MiB",
            *("data file, most", "in blocks, most", "in blocks, at the end"),
            *("index, most", "index, at the end"),
        ]
    )
    for name, (form, garbage) in rivals(size).items():
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
            options = UpperOptions(garbage=garbage)
            image = empty_disk(Path(folder, "upper"), size, form, options)
            most, last = overwritten(image, size)
        live = last.live
        cells = (most.size, most.blocks, last.blocks, most.index, last.index)
        made.add(name, *(f"{short(cell / MIB)} ({cell / live:.2f}x)" for cell in cells))
    return made.markdown()


def rivals(size: int) -> dict[str, tuple[str, int | None]]:
    """Return form and bound of garbage by name."""
    return {
        "append, no bound": ("append", NO_BOUND),
        f"append, garbage {size // MIB} MiB": ("append", size),
        f"append, garbage {size // 4 // MIB} MiB": ("append", size // 4),
        "append, garbage 0": ("append", 0),
        "sparse": ("sparse", None),
    }


def overwritten(image: Path, size: int) -> tuple[Room, Room]:
    """Overwrite a disk and return the most room that it took, and the last."""
    data = os.urandom(LARGEST)
    with obdengine.open(image, readonly=False) as device:
        left = FLUSH_AFTER
        most = last = room(image, device)
        for offset, length in requests(size):
            device.pwrite(offset, data[:length])
            left -= length
            if left < 0:
                left = FLUSH_AFTER
                device.flush()
                last = room(image, device)
                most = most.most(last)
        assert last.live == size, last
    return most, last


def requests(size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length): all of the disk in order, then at random."""
    chance = random.Random(size)
    for offset in range(0, size, LARGEST):
        yield offset, LARGEST
    left = TIMES * size
    while left > 0:
        length = chance.choice((4, 4, 8, 16, 64)) * KIB
        yield chance.randrange(0, size - length, 4 * KIB), length
        left -= length


def room(image: Path, device: Device) -> Room:
    """Return the room that an image's upper takes now."""
    files = resolve([image]).upper
    assert files is not None
    data, index = files.data.stat(), files.index.stat()
    live = device.upper.facts().stored * SECTOR
    return Room(live, data.st_size, data.st_blocks * 512, index.st_size)
