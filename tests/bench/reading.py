# SPDX-License-Identifier: Apache-2.0
"""
reading - bytes of a resident disk in this process: the engine beside pread.

The core is measured by a C program (c/read.c), which also fails when bytes
differ; what a Python program sees is measured from Python.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import obdengine
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB, MIB
from tests.bench.harness import (
    Figure,
    Table,
    in_turn,
    parse_samples,
    ratio,
    short,
    timed,
)
from tests.bench.workshop import Workshop, run, settle

KINDS = {
    "plain": LayerOptions(codec=None),
    "lz4 4K": LayerOptions(codec="lz4", block_size=4 * KIB),
    "lz4 64K": LayerOptions(codec="lz4", block_size=64 * KIB),
    "zstd 16K": LayerOptions(codec="zstd", block_size=16 * KIB),
}
SMALL, LARGE = 4 * KIB, MIB

Figures = dict[str, dict[str, Figure]]
Reader = Callable[[int, memoryview], object]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    layers = {kind: make(shop, kind) for kind in KINDS}
    reads = 5_000 if shop.quick else 50_000
    in_c = from_c(shop, layers, reads)
    in_python = from_python(shop, layers, reads // 5)
    return "\n\n".join(
        [
            "In C, one thread, 4 KiB at random that are not all zeros, and 1 MiB"
            " after 1 MiB; *bare* is a loop of pread, crc and codec over the same"
            " blocks. *Again*: of blocks that were inflated for their neighbours"
            " just before. *2 CPUs*: one reader still; *2 readers*: each has its"
            " half:",
            table(in_c).markdown(),
            "From Python, `device.pread_into` beside `os.preadv`, both into one"
            " buffer:",
            python_table(in_python).markdown(),
        ]
    )


def from_c(shop: Workshop, layers: dict[str, Path], reads: int) -> Figures:
    """Measure in C, with the files brought into the page cache anew each round.

    Where its pages happen to lie makes a file up to 1.5 times as fast to read.
    What helpers and a second thread do is measured on two CPUs, all else on one.
    """
    program = shop.compiled("read", libraries=["lz4", "z", "zstd"])
    named = [f"{kind}={path}" for kind, path in layers.items()]
    text = ""
    for _ in range(shop.rounds):
        for path in (shop.disk, *layers.values()):
            settle(path)
        text += run(program, "alone", str(reads), shop.disk, *named)
        text += run(program, "both", str(reads), shop.disk, *named, cpus=2)
    return parse_samples(text)


def make(shop: Workshop, kind: str) -> Path:
    """Return the disk as one layer of that kind."""
    layer = shop.folder / f"{kind.replace(' ', '-')}.obd"
    if not layer.exists():
        written = to_layer(shop.disk, layer, options=KINDS[kind])
        assert written.block_size in (None, KINDS[kind].block_size), written
    return layer


def table(figures: Figures) -> Table:
    """Return what the C program found."""
    small = ["random, us", "of flat", "of bare", "again, us"]
    large = ["GB/s", "of flat", "of bare", "2 CPUs, GB/s", "2 readers"]
    made = Table(["", *small, *large])
    flat = figures["flat"]
    cells = [short(flat["random"].median * 1e6), "1", "", ""]
    made.add("`pread` of the flat disk", *cells, speed(flat), "1", "", "", "")
    for kind in KINDS:
        mine, bare = figures[kind], figures[f"{kind}+bare"]
        made.add(
            kind,
            short(mine["random"].median * 1e6),
            ratio(mine["random"], flat["random"]),
            ratio(mine["random"], bare["random"]),
            short(mine["again"].median * 1e6) if "again" in mine else "",
            speed(mine),
            ratio(mine["sequential"], flat["sequential"]),
            ratio(mine["sequential"], bare["sequential"])
            if "sequential" in bare
            else "",
            speed(mine, "helped"),
            speed(mine, "both"),
        )
    return made


def speed(figures: dict[str, Figure], what: str = "sequential") -> str:
    """Return the cell for a sequential read."""
    return short(figures[what].median / 1e9)


def from_python(shop: Workshop, layers: dict[str, Path], reads: int) -> Figures:
    """Measure the same from Python: by rival, then "random" and "sequential"."""
    size = shop.disk.stat().st_size
    chance = random.Random(reads)
    offsets = [chance.randrange(0, size, SMALL) for _ in range(reads)]
    steps = range(0, size, LARGE)
    with ExitStack() as opened:
        readers = open_readers(shop, layers, opened)
        wanted = hashes(readers["flat"], offsets)
        for name, read in readers.items():
            assert hashes(read, offsets) == wanted, name
        work = {
            what: {
                name: timed(partial(read_all, read, places, each))
                for name, read in readers.items()
            }
            for what, places, each in (
                ("random", offsets, SMALL),
                ("sequential", steps, LARGE),
            )
        }
        small = in_turn(work["random"], shop.rounds)
        large = in_turn(work["sequential"], shop.rounds)
    return {
        name: {
            "random": small[name].scaled(1 / reads),
            "sequential": large[name].inverted(size),
        }
        for name in small
    }


def open_readers(
    shop: Workshop, layers: dict[str, Path], opened: ExitStack
) -> dict[str, Reader]:
    """Return what reads the flat disk, and what reads each layer."""
    flat = opened.enter_context(shop.disk.open("rb")).fileno()
    readers: dict[str, Reader] = {"flat": partial(pread_flat, flat)}
    for kind, layer in layers.items():
        readers[kind] = opened.enter_context(obdengine.open([layer])).pread_into
    return readers


def pread_flat(fd: int, offset: int, buf: memoryview) -> None:
    """Fill buf as a program without us would; the same signature as ours."""
    os.preadv(fd, [buf], offset)


def read_all(read: Reader, offsets: list[int] | range, size: int) -> None:
    """Read size bytes at each offset, into one buffer."""
    buf = memoryview(bytearray(size))
    for offset in offsets:
        read(offset, buf)


def hashes(read: Reader, offsets: list[int]) -> list[int]:
    """Return a hash of what is read at each offset."""
    buf = memoryview(bytearray(SMALL))
    found = []
    for offset in offsets:
        read(offset, buf)
        found.append(hash(buf.tobytes()))
    return found


def python_table(figures: Figures) -> Table:
    """Return what Python saw."""
    made = Table(["", "random, us", "of flat", "GB/s", "of flat"])
    flat = figures["flat"]
    for name, mine in figures.items():
        made.add(
            "`os.preadv` of the flat disk" if name == "flat" else name,
            short(mine["random"].median * 1e6),
            ratio(mine["random"], flat["random"]),
            speed(mine),
            ratio(mine["sequential"], flat["sequential"]),
        )
    return made
