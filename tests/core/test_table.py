# SPDX-License-Identifier: Apache-2.0
"""test_table - folding layers and looking sectors up, against a flat array."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from obdengine.segment import MAX_LENGTH, Segment
from tests.twins import table


def random_layer(chance: Random, count: int, gap: int = 20, longest: int = 30):
    segments, floor = [], 0
    for _ in range(count):
        floor += chance.randrange(gap)
        length = chance.randint(1, longest)
        zeroed = chance.random() < 0.3
        segments.append(Segment(floor, length, chance.randrange(9999), zeroed))
        floor += length
    return segments


def painted(layers):
    """What each sector reads from: the slow model that cannot be wrong."""
    cells = {}
    for number, layer in enumerate(layers):
        for s in layer:
            for k in range(s.length):
                place = None if s.zeroed else s.moffset + k
                cells[s.start + k] = (number, place)
    return cells


def cells_of(merged):
    cells = {}
    for s in merged:
        for k in range(s.length):
            cells[s.start + k] = (s.layer, None if s.zeroed else s.moffset + k)
    return cells


@pytest.mark.parametrize("seed", range(25))
def test_merge_is_painting(kernels, seed):
    chance = Random(seed)
    layers = [random_layer(chance, chance.randrange(25)) for _ in range(seed % 9 + 1)]
    merged = kernels.merge(layers)
    assert all(a.end <= b.start for a, b in pairwise(merged))
    assert all(s.length > 0 for s in merged)
    assert cells_of(merged) == painted(layers)


def test_merge_of_255_layers(core):
    chance = Random(255)
    layers = [random_layer(chance, 12, gap=400) for _ in range(255)]
    merged = core.merge([core.Segments.from_list(layer) for layer in layers])
    assert cells_of(merged) == painted(layers)


def test_merge_keeps_every_entry_short(kernels):
    layers = [[Segment(0, MAX_LENGTH, 8), Segment(MAX_LENGTH, MAX_LENGTH, 9)]]
    layers.append([Segment(5, 1, 8)])
    merged = kernels.merge(layers)
    assert table.joined(merged) == table.merge(layers)
    assert merged[0] == Segment(0, 5, 8, False, 0)


def test_merge_of_nothing(kernels):
    assert kernels.merge([[], []]) == []
    assert kernels.merge([[], [Segment(3, 4, 8)], []]) == [Segment(3, 4, 8, False, 1)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 100])
def test_find(kernels, count):
    chance = Random(count)
    segments = random_layer(chance, count, gap=1 << chance.randrange(1, 12))
    edges = {e for s in segments for e in (s.start - 1, s.start, s.end - 1, s.end)}
    for sector in sorted(edges | {0, (1 << 50) - 1}):
        if sector >= 0:
            assert kernels.find(segments, sector) == table.find(segments, sector)


@pytest.mark.parametrize("span", [1 << 10, 1 << 20, 1 << 34, 1 << 49])
def test_find_in_crowds(core, span):
    """Most entries close together, a few far away: no bucket fits all."""
    chance = Random(span)
    starts = {chance.randrange(4000) * 2 for _ in range(2500)}
    starts |= {8002 + chance.randrange(span) * 2 for _ in range(40)}
    segments = [Segment(start, 1, 8) for start in sorted(starts) if start < 1 << 50]
    found = core.SegMap(core.Segments.from_list(segments))
    for number, segment in enumerate(segments):
        assert found.find(segment.start) == number
        assert found.find(segment.end) == number + 1
    assert found.memory < 64 * len(segments) + 4096
