# SPDX-License-Identifier: Apache-2.0
"""
workloads - what is done to a disk while the simulator writes it all down.

Those of images with a configuration are in images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import EIO
from pathlib import Path
from random import Random

from obdengine.device import Device
from obdengine.errors import SourceError
from obdengine.layer import UpperOptions, create_upper, open_layer, open_upper
from tests.power.run import Run, cut
from tests.power.simulate import fresh
from tests.power.truth import SECTOR
from tests.twins import invent, stack, writer

# No garbage is let be, so that what was hidden is written over at once.
ROOM = UpperOptions(garbage=0)

SECTORS = 96


def make_lower(path: Path, sectors: int = SECTORS) -> list[frozenset[bytes]]:
    """Write a layer, and return what each sector of the disk is because of it."""
    runs = invent.runs(Random(1), sectors, 8)
    path.write_bytes(writer.lsmt(runs, sectors * SECTOR))
    disk = stack.flat([path.read_bytes()])
    return [frozenset([value]) for value in cut(disk)]


def bare(
    place: Path,
    seed: int,
    form: str,
    sectors: int = SECTORS,
    options: UpperOptions = ROOM,
) -> Run:
    """Return a run on a layer and an upper over it, without a configuration."""
    lower = fresh(place) / "lower.obd"
    first = make_lower(lower, sectors)
    folder = fresh(place / "disk")
    index = None if form == "sparse" else "upper.index"

    def opener(folder: Path) -> Device:
        path = folder / index if index else None
        upper = open_upper(folder / "upper.data", path, options=options)
        return Device([open_layer(lower)], "disk", upper)

    create_upper(
        folder / "upper.data",
        folder / index if index else None,
        virtual_size=sectors * SECTOR,
        form=form,
    )
    return Run(folder, opener, first, Random(seed))


Workload = Callable[[Run], None]


def recorded(run: Run, workload: Workload) -> Run:
    """Open the disk, do the work, and end as when the process had been killed."""
    with run.recorder.recording():
        run.open()
        workload(run)
        run.kill()
    return run


def at_random(steps: int) -> Workload:
    """Change the disk in all ways, one after the other."""

    def work(run: Run) -> None:
        for _ in range(steps):
            run.step()

    return work


def full(steps: int) -> Workload:
    """Write every sector, and then change the disk in all ways."""

    def work(run: Run) -> None:
        run.write(0, run.sectors)
        run.flush()
        at_random(steps)(run)
        run.write(0, run.sectors)

    return work


def interleaved(steps: int) -> Workload:
    """Write in the middle of all else, before any change to a file.

    The same thread does it, so a seed makes the same log each time.
    """

    def work(run: Run) -> None:
        chance = Random(run.chance.random())
        busy = False

        def between() -> None:
            nonlocal busy
            if not busy and chance.random() < 0.3:
                busy = True
                run.write(*run.place(6))
                busy = False

        for _ in range(steps):
            kind = chance.randrange(10)
            # Part of a sector is written under a lock: nothing comes between.
            run.recorder.before = None if kind == 0 else between
            if kind == 0:
                run.write_odd(chance.randrange(20_000), 700)
            elif kind < 4:
                run.write(*run.place(12))
            elif kind == 4:
                run.zero(*run.place(12))
            elif kind == 5:
                run.compact_index()
            else:
                run.flush()
        run.recorder.before = None

    return work


def from_threads(steps: int, beside: Workload | None = None) -> Workload:
    """Write from two threads, each its half of the disk; beside, do something.

    beside is done again and again; None: the index file is written anew.
    """

    def work(run: Run) -> None:
        half = run.sectors // 2
        over = threading.Event()

        def write(number: int) -> None:
            chance = Random(number)
            for _ in range(steps):
                start = chance.randrange(half - 8)
                run.write(number * half + start, chance.randint(1, 8))
                if chance.random() < 0.3:
                    run.flush()

        def other() -> None:
            while not over.wait(0.001):
                (beside or Run.compact_index)(run)

        with ThreadPoolExecutor(3) as pool:
            last = pool.submit(other)
            writers = [pool.submit(write, number) for number in range(2)]
            try:
                for writer in writers:
                    writer.result()
            finally:
                over.set()
            last.result()

    return work


def small_flushes(steps: int) -> Workload:
    """Flush after every write or two, which a journal is for."""

    def work(run: Run) -> None:
        for _ in range(steps):
            for _ in range(run.chance.choice([1, 1, 1, 2, 3])):
                if run.chance.random() < 0.15:
                    run.zero(*run.place(6))
                else:
                    run.write(*run.place(4))
            run.flush()

    return work


def mixed_flushes(steps: int) -> Workload:
    """Flush little and much, write the index anew, and what goes before a stop."""

    def work(run: Run) -> None:
        for _ in range(steps):
            kind = run.chance.randrange(10)
            if kind == 0:
                run.compact_index()
            elif kind < 3:
                for _ in range(70):
                    run.write(run.chance.randrange(run.sectors), 1)
                run.flush()
            elif kind == 3:
                run.settle()
            else:
                small_flushes(2)(run)

    return work


def reopened(steps: int) -> Workload:
    """Flush little, and kill the process or close the disk, again and again."""

    def work(run: Run) -> None:
        for _ in range(steps):
            small_flushes(run.chance.randint(2, 5))(run)
            if run.chance.random() < 0.5:
                run.write(*run.place(8))
            if run.chance.random() < 0.7:
                run.kill()
                run.open()
            else:
                run.reopen()

    return work


def large(steps: int) -> Workload:
    """Overwrite long pieces, which become holes when they are garbage."""

    def work(run: Run) -> None:
        for _ in range(steps):
            length = run.chance.randint(130, 200)
            run.write(run.chance.randrange(run.sectors - length), length)
            if run.chance.random() < 0.7:
                run.flush()

    return work


def sealed(steps: int) -> Workload:
    """Change the disk and seal it in place."""

    def work(run: Run) -> None:
        at_random(steps)(run)
        begun = run.recorder.tick()
        assert run.device.upper
        run.device.upper.seal()
        run.truth.flushed(begun, run.recorder.tick())

    return work


def torn(steps: int) -> Workload:
    """Write much between flushes, so that many records are cut off at once."""

    def work(run: Run) -> None:
        for number in range(steps):
            run.write(run.chance.randrange(run.sectors), 1)
            if number % 80 == 79:
                run.flush()

    return work


def killed(steps: int) -> Workload:
    """Kill the process in the middle of a flush, again and again."""

    def work(run: Run) -> None:
        for _ in range(steps):
            left = run.chance.randint(1, 12)

            def before() -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise OSError(EIO, "the process is dead")

            run.recorder.before = before
            with suppress(SourceError):
                while True:
                    run.write(*run.place(8))
                    if run.chance.random() < 0.5:
                        run.flush()
            run.recorder.before = None
            run.kill()
            run.open()

    return work
