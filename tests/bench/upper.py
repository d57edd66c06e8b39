# SPDX-License-Identifier: Apache-2.0
"""
upper - pages written to a disk in this process: the engine beside pwrite.

The core is measured by a C program (c/write.c), which also fails when bytes
differ; what a Python program sees is measured from Python.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import obdengine
from obdengine.units import KIB
from tests.bench.harness import Figure, Table, in_turn, parse_samples, ratio, short
from tests.bench.reading import make
from tests.bench.workshop import Workshop, memory, run, settle

PAGE = 4 * KIB

# By what c/write.c calls them.
ROWS = {
    "flat": "`pwrite` on the flat disk",
    "holes": "`pwrite` on an empty file",
    "append": "append",
    "reuse": "append, no garbage allowed",
    "sparse": "sparse",
}

Figures = dict[str, dict[str, Figure]]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        in_c = from_c(shop, folder)
        in_python = from_python(shop, folder)
    return "\n\n".join(
        [
            "In C, one thread, microseconds (of `pwrite`); files in memory, but for"
            " the last column, where flushes reach a disk:",
            table(in_c).markdown(),
            "From Python, `device.pwrite` and `flush` beside `os.pwrite` and"
            " `os.fdatasync`, files in memory:",
            python_table(in_python).markdown(),
        ]
    )


# -- In C


def from_c(shop: Workshop, folder: Path) -> Figures:
    """Measure in memory, and what a flush costs on a disk: "disk pair"."""
    program = shop.compiled("write", libraries=["lz4", "z", "zstd"])
    layer = make(shop, "plain")
    pairs = 200 if shop.quick else 1000
    text = {"memory": "", "disk": ""}
    for _ in range(shop.rounds):
        for path in (shop.disk, layer):
            settle(path)
        for what, where in (("memory", folder), ("disk", shop.folder)):
            text[what] += run(program, "1", str(pairs), where, shop.disk, layer)
    figures, on_disk = parse_samples(text["memory"]), parse_samples(text["disk"])
    for rival, found in on_disk.items():
        figures[rival]["disk pair"] = found["pair"]
    return figures


def table(figures: Figures) -> Table:
    """Return what the C program found."""
    made = Table(
        ["", "first write", "write over", "read", "write + flush", "the same, disk"]
    )
    for rival, name in ROWS.items():
        cells = []
        for what in ("first", "over", "read", "pair", "disk pair"):
            # Room for a page is had for the first time on the empty file.
            base = figures["holes" if what == "first" else "flat"][what]
            cells.append(of(figures[rival][what], base))
        if rival == "flat":
            cells[0] = ""
        if rival == "holes":
            cells[1:] = [""] * 4
        made.add(name, *cells)
    return made


def of(figure: Figure, base: Figure) -> str:
    """Return microseconds, and how many times the base's."""
    micros = short(figure.median * 1e6)
    return micros if figure is base else f"{micros} ({ratio(figure, base)})"


# -- From Python

Write = Callable[[int, bytes], object]
Flush = Callable[[], object]
Read = Callable[[int, int], bytes]
Writer = tuple[Write, Flush, Read]


def from_python(shop: Workshop, folder: Path) -> Figures:
    """Measure the same from Python: by rival, then "write" and "pair"."""
    size = shop.disk.stat().st_size
    chance = random.Random(size)
    writes = 2_000 if shop.quick else 20_000
    pages = [PAGE * chance.randrange(size // PAGE) for _ in range(writes)]
    with ExitStack() as opened:
        rivals = open_writers(shop, folder, opened)
        work: dict[str, dict[str, Callable[[], float]]] = {"write": {}, "pair": {}}
        for name, (write, flush, _) in rivals.items():
            write_all(write, pages)
            flush()
            each = partial(write_all, write, pages)
            work["write"][name] = partial(seconds, each, flush)
            work["pair"][name] = partial(
                seconds, partial(pair_all, write, flush, pages)
            )
        figures = {what: in_turn(todo, shop.rounds) for what, todo in work.items()}
        read_alike([read for _, _, read in rivals.values()], pages)
    return {
        name: {what: figures[what][name].scaled(1 / writes) for what in figures}
        for name in rivals
    }


def open_writers(shop: Workshop, folder: Path, opened: ExitStack) -> dict[str, Writer]:
    """Return what writes, what flushes and what reads, of each."""
    flat = os.open(folder, os.O_RDWR | os.O_TMPFILE)
    opened.callback(os.close, flat)
    with shop.disk.open("rb") as disk:
        os.sendfile(flat, disk.fileno(), 0, shop.disk.stat().st_size)
    writers: dict[str, Writer] = {
        "flat": (
            lambda offset, data: os.pwrite(flat, data, offset),
            partial(os.fdatasync, flat),
            lambda offset, size: os.pread(flat, size, offset),
        )
    }
    for form in ("append", "sparse"):
        where = folder / f"python-{form}"
        where.mkdir()
        device = opened.enter_context(
            obdengine.open(
                [make(shop, "plain")], readonly=False, upper=where, form=form
            )
        )
        writers[form] = (device.pwrite, device.flush, device.pread)
    return writers


def write_all(write: Write, offsets: list[int]) -> None:
    """Write a page at each offset."""
    data = os.urandom(PAGE // 2) + bytes(PAGE // 2)
    for offset in offsets:
        write(offset, data)


def pair_all(write: Write, flush: Flush, offsets: list[int]) -> None:
    """Write a page at each offset, and flush."""
    data = bytes(range(1, 129)) * (PAGE // 128)
    for offset in offsets:
        write(offset, data)
        flush()


def seconds(work: Callable[[], object], after: Flush = int) -> float:
    """Return how long work takes; `after` is not part of it."""
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    after()
    return took


def read_alike(readers: list[Read], pages: list[int]) -> None:
    """Assert that all read the same: pair_all() wrote the same to all."""
    for offset in {*pages, *range(0, max(pages), 64 * PAGE)}:
        assert len({read(offset, PAGE) for read in readers}) == 1, offset


def python_table(figures: Figures) -> Table:
    """Return what Python saw."""
    made = Table(["", "write over, us", "of flat", "write + flush, us", "of flat"])
    flat = figures["flat"]
    for name, mine in figures.items():
        made.add(
            "`os.pwrite`" if name == "flat" else name,
            short(mine["write"].median * 1e6),
            ratio(mine["write"], flat["write"]),
            short(mine["pair"].median * 1e6),
            ratio(mine["pair"], flat["pair"]),
        )
    return made
