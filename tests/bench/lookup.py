# SPDX-License-Identifier: Apache-2.0
"""
lookup - which segment covers a sector: the core's map beside other structures.

All rivals run in one C program (c/lookup.c), which fails unless they find the
same segments.
"""

from __future__ import annotations

from tests.bench.harness import Figure, Table, ratio, short
from tests.bench.workshop import Workshop, run_samples

NAMES = {
    "core": "`obd_segmap_find`",
    "directory": "bare bucket directory",
    "binary": "binary search without branches",
    "eytzinger": "Eytzinger layout",
    "btree-avx2": "B+ tree, AVX2",
    "btree-avx512": "B+ tree, AVX-512",
}
SHAPES = {
    "mixed": "**Runs of 4 to 256 KiB, half of them after a gap; any sector.**",
    "clustered": "**Clusters of 200 small runs, wide gaps; sectors inside runs.**",
}

Figures = dict[str, dict[str, Figure]]
Results = dict[int, Figures]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    program = shop.compiled("lookup", libraries=["lz4", "z", "zstd"])
    counts = [1_000, 10_000] if shop.quick else [1_000, 10_000, 100_000, 1_000_000]
    parts = []
    for shape, words in SHAPES.items():
        results: Results = {
            n: run_samples(program, shape, str(n), str(shop.rounds)) for n in counts
        }
        parts += [
            f"{words} Million lookups a second, none waiting for another:",
            table(results, "rate", 1e-6).markdown(),
            "Nanoseconds of one lookup when the next waits for it:",
            table(results, "latency", 1e9).markdown(),
        ]
    return "\n\n".join(parts)


def table(results: Results, what: str, unit: float) -> Table:
    """Return one row a structure, one column a number of entries."""
    made = Table(["entries", *map(_words, results), "bytes/entry"])
    for rival, name in NAMES.items():
        if all(rival in figures for figures in results.values()):
            cells = (_cell(figures, rival, what, unit) for figures in results.values())
            most = max(results)
            memory = results[most][rival]["memory"].median / most
            made.add(name, *cells, short(memory))
    return made


def _cell(figures: Figures, rival: str, what: str, unit: float) -> str:
    mine, core = figures[rival][what], figures["core"][what]
    times = "" if rival == "core" else f" ({ratio(mine, core)})"
    return short(mine.median * unit) + times


def _words(count: int) -> str:
    return f"{count // 1000}k" if count < 1_000_000 else f"{count // 1_000_000}M"
