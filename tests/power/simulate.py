# SPDX-License-Identifier: Apache-2.0
"""simulate - cut the power at every moment of a run, and look at the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from obdengine.device import Device
from tests.power.crash import Disk, State, replayed
from tests.power.run import Run, sectors_of
from tests.power.truth import SECTOR

# Looks at the folder of a state, at a tick, after the disk was looked at.
Also = Callable[[Path, float], None]


@dataclass
class Result:
    """What came out.

    Attributes:
        states: how many different ones were opened.
        violations: what was wrong, in words.
    """

    states: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Count those of another one too."""
        self.states += other.states
        self.violations += other.violations


@dataclass
class Simulator:
    """Tries the states that a run could have left.

    Attributes:
        run: what happened.
        place: where the files of a state are put.
        samples: states of each moment, besides both extremes.
        again: in how many of a hundred states the disk is written to and the
            power cut once more, in repair or later.
        most: violations after which it stops.
        sizes: what the disk may be large, in sectors, at a tick; None: as now.
        also: more to look at.
    """

    run: Run
    place: Path
    chance: Random
    samples: int = 1
    again: int = 3
    most: int = 1
    sizes: Callable[[float], set[int]] | None = None
    also: Also | None = None
    result: Result = field(default_factory=Result)
    _truths: dict[int, list[set[bytes]]] = field(default_factory=dict)

    def __call__(self) -> Result:
        """Go through the whole log."""
        folder = {path.name: path.read_bytes() for path in self.run.folder.iterdir()}
        assert replayed(self.run.recorder) == folder, "something was not recorded"
        seen: set[int] = set()
        for now, what, state in self._states():
            allowed = self._allowed(now)
            mark = hash((id(allowed), *sorted(state.items())))
            if mark in seen:
                continue
            seen.add(mark)
            self.result.states += 1
            try:
                self._try(state, allowed, now)
            except Exception as error:
                words = f"power cut {what}: {type(error).__name__}: {error}"
                self.result.violations.append(words)
                if len(self.result.violations) >= self.most:
                    break
        return self.result

    def _states(self) -> Iterator[tuple[float, str, State]]:
        """Yield (tick, where that is, state) for every moment."""
        log = self.run.recorder.log
        disk = Disk(self.run.recorder.start)
        for number in range(len(log) + 1):
            now = log[number].tick if number < len(log) else math.inf
            before = f"before {log[number]}" if number < len(log) else "at the end"
            for state in disk.states(self.chance, self.samples):
                yield now, f"at {number} of {len(log)}, {before}", state
            if number < len(log):
                disk.change(log[number])

    def _allowed(self, now: float) -> list[set[bytes]]:
        """Return what the truth says, the same object while it says the same."""
        truth = self.run.truth
        moments = sum(wrote.begun < now for wrote in truth.writes)
        moments += sum(ended < now for _, ended in truth.flushes)
        if moments not in self._truths:
            self._truths[moments] = truth.allowed(now)
        return self._truths[moments]

    def _try(self, state: State, allowed: list[set[bytes]], now: float) -> None:
        sizes = self.sizes(now) if self.sizes else {len(allowed)}
        put(self.place, state)
        if self.chance.randrange(100) < self.again:
            self._cut_again(allowed)
            put(self.place, state)
        with self.run.opener(self.place) as device:
            compare(device, allowed, sizes)
        if self.also:
            self.also(self.place, now)

    def _cut_again(self, allowed: list[set[bytes]]) -> None:
        """Repair, write and flush with a recorder; then cut the power in that."""
        first = [frozenset(values) for values in allowed]
        chance = Random(self.chance.random())
        run = Run(self.place, self.run.opener, first, chance, serial=1 << 24)
        with run.recorder.recording():
            run.open()
            sectors = run.sectors
            for _ in range(0 if run.device.readonly else 3):
                run.write(*run.place(8))
                run.flush()
            run.device.close()
        inner = fresh(self.place.with_name(f"{self.place.name}-again"))
        simulator = Simulator(run, inner, chance, again=0, sizes=lambda _: {sectors})
        self.result.add(simulator())


def put(folder: Path, state: State) -> None:
    """Make the files of a state, and no others."""
    for path in folder.iterdir():
        if path.name not in state:
            path.unlink()
    for name, content in state.items():
        (folder / name).write_bytes(content)


def compare(device: Device, allowed: list[set[bytes]], sizes: set[int]) -> None:
    """Raise AssertionError for the first sector with a value that it cannot have."""
    found = sectors_of(device)
    assert len(found) in sizes, f"the disk has {len(found)} sectors, not {sizes}"
    for sector, value in enumerate(found):
        if value not in allowed[sector]:
            raise AssertionError(
                f"sector {sector} has {describe(value)}, not "
                + " or ".join(sorted(map(describe, allowed[sector])))
            )


def describe(value: bytes) -> str:
    """Return what a sector's content is called."""
    if value != value[:8] * (SECTOR // 8):
        return f"a mix {value[:4].hex()}..{value[-4:].hex()}"
    word = int.from_bytes(value[:8], "little")
    if word >> 50:
        return f"what was there, {value[:8].hex()}"
    return f"write {word >> 20} of sector {word & 0xFFFFF}" if word else "zeros"


def fresh(folder: Path) -> Path:
    """Return folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
