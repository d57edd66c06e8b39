# SPDX-License-Identifier: Apache-2.0
"""
converting - a flat disk into a layer, beside lz4 and zstd on the same bytes.

Those compress one long stream and make no index, no blocks that can be read
alone, no checksum for each: their size is smaller, and is given beside ours.
On several CPUs sha256sum runs beside them, as ours has the hash of the file.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import obdengine
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB, MIB
from tests.bench.harness import Figure, Table, in_turn, ratio, short, timed
from tests.bench.workshop import Workshop, memory, run
from tests.tools import tool

OURS = {
    "plain": LayerOptions(codec=None),
    "lz4 4K": LayerOptions(codec="lz4", block_size=4 * KIB),
    "lz4 64K": LayerOptions(codec="lz4", block_size=64 * KIB),
    "zstd 16K": LayerOptions(codec="zstd", block_size=16 * KIB),
    "zstd 64K": LayerOptions(codec="zstd", block_size=64 * KIB),
}
THEIRS = {
    "lz4": ("`lz4 -1`", ["lz4", "-1", "-q", "-f"]),
    "zstd": ("`zstd -3`", ["zstd", "-3", "-q", "-f", "--single-thread", "-o"]),
}


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        out = Path(folder)
        shop.disk.read_bytes()
        rivals = {codec: timed(partial(their, shop, codec, out)) for codec in THEIRS}
        for codec in THEIRS:
            rivals[many(codec)] = timed(partial(their_hashed, shop, codec, out))
        for kind, options in OURS.items():
            for threads in sorted({1, cpus()}):
                chosen = replace(options, threads=threads)
                work = partial(our, shop, kind, chosen, out)
                rivals[f"{kind}, {threads}"] = timed(work)
        figures = in_turn(rivals, shop.rounds)
        sizes = {path.name: path.stat().st_size for path in out.iterdir()}
        for kind in OURS:
            check(shop, out / kind)
    size = shop.disk.stat().st_size
    return table({n: f.inverted(size / 1e9) for n, f in figures.items()}, sizes)


def cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def only_cpus(count: int) -> Iterator[None]:
    """Let this thread, and those that it starts, use so many CPUs."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def our(shop: Workshop, kind: str, options: LayerOptions, out: Path) -> None:
    """Convert on as many CPUs as threads."""
    with only_cpus(options.threads):
        written = to_layer(shop.disk, out / kind, options=options)
    assert written.block_size in (None, options.block_size), written


def their(shop: Workshop, codec: str, out: Path) -> None:
    """Compress with the codec's own program on one CPU."""
    program, *words = THEIRS[codec][1]
    target = out / codec
    files = [target, shop.disk] if words[-1] == "-o" else [shop.disk, target]
    run(tool(program), *words, *files)


def their_hashed(shop: Workshop, codec: str, out: Path) -> None:
    """Compress on all CPUs that the program knows to use, and hash what it makes."""
    program = shlex.quote(tool(codec))
    threads = f" -T{cpus()}" if codec == "zstd" else ""
    level, disk = THEIRS[codec][1][1], shlex.quote(str(shop.disk))
    target = shlex.quote(str(out / many(codec)))
    line = f"{program} {level} -q -c{threads} {disk} | tee {target} | sha256sum"
    run("sh", "-c", line, cpus=cpus())


def check(shop: Workshop, layer: Path) -> None:
    """Assert that a layer has the bytes of the disk."""
    with obdengine.open([layer]) as device, shop.disk.open("rb") as disk:
        for offset in range(0, device.size, MIB):
            assert device.pread(offset, MIB) == disk.read(MIB), (layer, offset)


def many(name: str) -> str:
    """Return the name of a figure on all CPUs."""
    return f"{name}, {cpus()}"


def table(rates: dict[str, Figure], sizes: dict[str, int]) -> str:
    """Return the table: GB of the disk a second, and what came out."""
    ours = ["GB/s, 1 CPU", "of theirs", f"GB/s, {cpus()} CPUs", "of theirs"]
    made = Table(["", *ours, "MiB", "of theirs"])
    for codec, (words, _) in THEIRS.items():
        rate, size = short(rates[codec].median), short(sizes[codec] / MIB)
        made.add(words, rate, "1", short(rates[many(codec)].median), "1", size, "1")
    for kind in OURS:
        codec, cells = kind.split()[0], []
        rival = codec in THEIRS
        for name, theirs in ((f"{kind}, 1", codec), (many(kind), many(codec))):
            cells += [short(rates[name].median)]
            cells += [ratio(rates[name], rates[theirs]) if rival else ""]
        size = f"{sizes[kind] / sizes[codec]:.2f}x" if rival else ""
        made.add(kind, *cells, short(sizes[kind] / MIB), size)
    return made.markdown()
