# SPDX-License-Identifier: Apache-2.0
"""
run - one workload on one disk, with every write stamped and every call noted.

A sector that is written gets a value that no other write has, the same eight
bytes from its start to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from obdengine.device import Device
from tests.power.recorder import Recorder
from tests.power.truth import SECTOR, ZEROS, Truth, Wrote

Opener = Callable[[Path], Device]


class Run:
    """A disk that is written to, and what is known about it.

    Attributes:
        folder: its files.
        opener: opens it from a folder like that one.
        device: it, open.
        recorder: what is done to the files.
        truth: what was written.
    """

    def __init__(
        self,
        folder: Path,
        opener: Opener,
        first: list[frozenset[bytes]],
        chance: Random,
        serial: int = 0,
    ) -> None:
        """Begin with what is in the folder; first: what each sector may be."""
        self.folder = folder
        self.opener = opener
        self.chance = chance
        self.recorder = Recorder(folder)
        self.truth = Truth(first)
        self.device: Device = None  # type: ignore[assignment]
        self._serial = serial

    @property
    def sectors(self) -> int:
        """How many the disk has now."""
        return self.device.size // SECTOR

    def open(self) -> None:
        """Open the disk. What it reads as from now on is what it holds."""
        self.device = self.opener(self.folder)
        allowed = self.truth.allowed(self.recorder.tick())
        found = sectors_of(self.device)
        for sector, value in enumerate(found):
            assert value in allowed[sector], f"sector {sector} after opening"
            if len(allowed[sector]) > 1:
                self.known(sector, [value])

    def known(self, start: int, values: list[bytes]) -> None:
        """Note what is there and needs no flush to stay."""
        wrote = self.truth.begin(start, values, self.recorder.tick())
        wrote.acked = self.recorder.tick()

    def kill(self) -> None:
        """End as a process that is killed does."""
        upper = self.device.upper
        if upper:
            upper.files.close()
        self.device = None  # type: ignore[assignment]

    def reopen(self) -> None:
        """Close the disk and open it again."""
        begun = self.recorder.tick()
        self.device.close()
        self.truth.flushed(begun, self.recorder.tick())
        self.open()

    # -- Changes

    def stamps(self, start: int, length: int) -> list[bytes]:
        """Return values that nothing else has, for sectors from start on."""
        self._serial += 1
        words = (self._serial << 20 | start + n for n in range(length))
        return [word.to_bytes(8, "little") * (SECTOR // 8) for word in words]

    def noted(self, start: int, values: list[bytes], call: Callable[[], None]) -> None:
        """Make a call that gives sectors these values."""
        wrote: Wrote = self.truth.begin(start, values, self.recorder.tick())
        call()
        wrote.acked = self.recorder.tick()

    def write(self, start: int, length: int) -> None:
        """Write sectors."""
        values = self.stamps(start, length)
        data = b"".join(values)
        self.noted(start, values, lambda: self.device.pwrite(start * SECTOR, data))

    def zero(self, start: int, length: int) -> None:
        """Zero or discard sectors."""
        device = self.device
        call = self.chance.choice([device.write_zeroes, device.discard])
        zeros = [ZEROS] * length
        self.noted(start, zeros, lambda: call(start * SECTOR, length * SECTOR))

    def write_odd(self, offset: int, size: int) -> None:
        """Write bytes that begin or end within a sector."""
        start, end = offset // SECTOR, -(-(offset + size) // SECTOR)
        data = bytearray(self.device.pread(start * SECTOR, (end - start) * SECTOR))
        piece = self.chance.randbytes(size)
        at = offset - start * SECTOR
        data[at : at + size] = piece
        values = cut(bytes(data))
        self.noted(start, values, lambda: self.device.pwrite(offset, piece))

    def flush(self) -> None:
        """Flush."""
        begun = self.recorder.tick()
        self.device.flush()
        self.truth.flushed(begun, self.recorder.tick())

    def settle(self) -> None:
        """Bring all into the two files, which flushes; a journal ends."""
        begun = self.recorder.tick()
        assert self.device.upper
        self.device.upper.settle()
        self.truth.flushed(begun, self.recorder.tick())

    def compact_index(self) -> None:
        """Write the index file anew."""
        self.device.compact_index()

    # -- At random

    def place(self, longest: int) -> tuple[int, int]:
        """Return a start and a length, more often near the start of the disk."""
        start = min(self.chance.randrange(self.sectors) for _ in range(2))
        return start, min(self.chance.randint(1, longest), self.sectors - start)

    def step(self) -> None:
        """Make one of all changes."""
        kind = self.chance.randrange(20)
        if kind < 10:
            self.write(*self.place(self.chance.choice([1, 4, 24])))
        elif kind < 12:
            self.zero(*self.place(30))
        elif kind < 14:
            offset = self.chance.randrange(self.device.size - 1500)
            self.write_odd(offset, self.chance.randint(1, 1500))
        elif kind < 18:
            self.flush()
        elif kind == 18:
            self.compact_index()
        elif self.chance.random() < 0.5:
            self.kill()
            self.open()
        else:
            self.reopen()


def cut(data: bytes) -> list[bytes]:
    """Return the sectors of data."""
    return [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]


def sectors_of(device: Device) -> list[bytes]:
    """Return all sectors of a disk."""
    return cut(device.pread(0, device.size))
