# SPDX-License-Identifier: Apache-2.0
"""
merging - fold the indexes of 32 layers into one: all at once, or pair by pair.

Both ways must give the same map, entry for entry.
"""

from __future__ import annotations

import random
from array import array
from functools import partial, reduce

from obdengine import _core
from tests.bench.harness import Table, in_turn, ratio, short, timed
from tests.bench.workshop import Workshop

LAYERS = 32
# A run of 4 to 256 KiB starts somewhere in each MiB that is chosen.
CELL_SECTORS, RUN_GRANULES, GRANULE = 2048, 64, 8
CELLS = 1 << 20


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    table = Table(["", "at once, ms", "million entries/s", "in pairs, ms", "ratio"])
    for count in [3125] if shop.quick else [3125, 31250]:
        layers = [invent(number, count) for number in range(LAYERS)]
        assert maps_equal(_core.merge(layers), pair_by_pair(layers))
        figures = in_turn(
            {
                "merge": timed(partial(_core.merge, layers)),
                "pairs": timed(partial(pair_by_pair, layers)),
            },
            shop.rounds,
        )
        merge, pairs = figures["merge"], figures["pairs"]
        table.add(
            f"{LAYERS} layers of {count} entries",
            short(merge.median * 1e3),
            short(LAYERS * count / merge.median / 1e6),
            short(pairs.median * 1e3),
            ratio(pairs, merge),
        )
    return table.markdown()


def invent(seed: int, count: int) -> _core.Segments:
    """Return `count` runs at random places of a disk of 1 TiB."""
    chance = random.Random(seed)
    words, moffset = array("Q"), GRANULE
    for cell in sorted(chance.sample(range(CELLS), count)):
        start = cell * CELL_SECTORS + GRANULE * chance.randrange(RUN_GRANULES)
        length = GRANULE * chance.randrange(1, RUN_GRANULES + 1)
        words.extend((start | length << 50, moffset))
        moffset += length
    return _core.Segments.unpack(
        words.tobytes(),
        name="invented",
        offset=0,
        disk_sectors=CELLS * CELL_SECTORS,
        data_start=GRANULE,
        data_end=moffset,
    )


def pair_by_pair(layers: list[_core.Segments]) -> _core.Segments:
    """Return the fold of all that have come so far with the next, to the end."""
    return reduce(lambda below, layer: _core.merge([below, layer]), layers)


def maps_equal(one: _core.Segments, other: _core.Segments) -> bool:
    """Tell whether two maps say the same, tags aside, wherever runs are cut."""
    return len(one) > 0 and one.pack() == other.pack()
