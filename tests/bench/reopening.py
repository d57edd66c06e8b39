# SPDX-License-Identifier: Apache-2.0
"""
reopening - how long an upper with a long log takes to open, beside reading it.

The log is replayed, repaired and synced, as after a crash; its files are in
memory.
"""

from __future__ import annotations

import random
import tempfile
import time
from array import array
from functools import partial
from pathlib import Path

from obdengine import _core
from obdengine.layer import create_upper, format, open_upper
from obdengine.segment import Segment
from obdengine.units import KIB, SECTOR
from tests.bench.harness import Table, in_turn, ratio, short, timed
from tests.bench.workshop import Workshop, memory

PAGE = 4 * KIB
PER_PAGE = PAGE // SECTOR
FIRST = format.SLOT // SECTOR


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    count = 50_000 if shop.quick else 1_000_000
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        rivals = {"read": timed((folder / "0.index").read_bytes)}
        segments = {}
        for number, (name, pages) in enumerate(logs(count).items()):
            data, index = folder / f"{number}.data", folder / f"{number}.index"
            write_log(data, index, pages)
            segments[name] = count_segments(data, index)
            rivals[name] = partial(reopen, data, index)
        figures = in_turn(rivals, shop.rounds)
    table = Table([f"{count} records", "segments", "ms", "ns a record", "of reading"])
    for name, left in segments.items():
        found = figures[name]
        each = short(found.median * 1e9 / count)
        times = ratio(found, figures["read"])
        table.add(name, str(left), short(found.median * 1e3), each, times)
    return table.markdown()


def logs(count: int) -> dict[str, list[int]]:
    """Return the pages that so many records are about, by what they are called."""
    chance = random.Random(count)
    shuffled = list(range(count))
    chance.shuffle(shuffled)
    few = count // 16
    return {
        "each page once, at random": shuffled,
        f"{few} pages, at random": [chance.randrange(few) for _ in shuffled],
        "each page once, in order": list(range(count)),
    }


def write_log(data: Path, index: Path, pages: list[int]) -> None:
    """Make the files of an upper to which these pages were written, in turn."""
    size = (max(pages) + 1) * PAGE
    create_upper(data, index, virtual_size=size, form="append")
    # In this order no two of them belong together, unless they are in order.
    first = Segment(0, PER_PAGE, FIRST)
    low, high = array("Q", _core.Segments.from_list([first]).pack())
    records = array("Q")
    for number, page in enumerate(pages):
        records.append(low + page * PER_PAGE)
        records.append(high + number * PER_PAGE)
    with index.open("ab") as file:
        file.write(records.tobytes())
    with data.open("r+b") as file:
        file.truncate(format.SLOT + len(pages) * PAGE)


def count_segments(data: Path, index: Path) -> int:
    """Return how many segments a log makes; every record must count."""
    upper = open_upper(data, index)
    facts = upper.facts()
    upper.close()
    assert not facts.damaged, facts
    assert facts.stored <= upper.virtual_size, facts
    return facts.segments


def reopen(data: Path, index: Path) -> float:
    """Return the seconds that opening takes."""
    began = time.perf_counter()
    upper = open_upper(data, index)
    took = time.perf_counter() - began
    upper.close()
    return took
