# SPDX-License-Identifier: Apache-2.0
"""test_damage - every cut and flip of good layers: an error, or the right bytes."""

from __future__ import annotations

from random import Random

import pytest

from obdengine.errors import FormatError, ObdError, SourceError
from obdengine.layer import open_layer
from obdengine.source import MemorySource
from tests.hostile import victims
from tests.hostile.victims import VICTIMS, Victim, tried

FLAT = victims.flat()

every_victim = pytest.mark.parametrize("victim", VICTIMS, ids=lambda v: v.name)


@every_victim
def test_victims_are_good(victim: Victim) -> None:
    assert victims.read(victim.raw) == FLAT
    layer = open_layer(MemorySource(victim.raw, victims.NAME))
    assert list(layer.check()) == []
    layer.close()


@every_victim
def test_cut_anywhere(victim: Victim) -> None:
    size = len(victim.raw)
    edges = {at for e in range(0, size, 512) for at in (e - 1, e, e + 1)}
    edges |= set(range(120)) | {size - n for n in range(1, 120)}
    for at in sorted(edge for edge in edges if 0 <= edge < size):
        result = tried(victim.raw[:at])
        if at < victim.payload_end:
            assert isinstance(result, FormatError | SourceError), at
        else:
            assert result == FLAT, at


@every_victim
@pytest.mark.parametrize("more", [1, 511, 512, 4096])
def test_something_added(victim: Victim, more: int) -> None:
    """Bytes behind the end are refused, or not looked at; never read as data."""
    result = tried(victim.raw + bytes([0xAA]) * more)
    assert isinstance(result, ObdError) or result == FLAT


def flips(victim: Victim, count: int) -> list[int]:
    """Return bits to flip: all of the first header, and count others."""
    chance = Random(victim.name)
    anywhere = (chance.randrange(8 * len(victim.raw)) for _ in range(count))
    ends = range(len(victim.raw) - 512, len(victim.raw) - 400)
    near = [8 * at + chance.randrange(8) for at in [*range(400), *ends]]
    return [*near, *anywhere]


@every_victim
def test_one_bit_flipped(victim: Victim) -> None:
    wrong = []
    for bit in flips(victim, 1200):
        damaged = bytearray(victim.raw)
        damaged[bit // 8] ^= 1 << bit % 8
        result = tried(bytes(damaged))
        if isinstance(result, bytes) and result != FLAT:
            wrong.append(bit // 8)
    # LSMT has no checksum: where nothing else has one, data and index can lie.
    assert not (victim.protected and wrong), wrong


# Bytes that no rule is about: behind a pax record, and behind what is wrapped.
def filling(victim: Victim) -> list[range]:
    behind = range(victim.payload_end, len(victim.raw))
    if victim.name == "lz4-pax":
        return [range(512 + int(victim.raw[512:515]), 1024)]
    return [behind]


@every_victim
def test_check_sees_every_flip(victim: Victim) -> None:
    if not victim.protected:
        return
    for bit in flips(victim, 200)[512:]:
        damaged = bytearray(victim.raw)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            layer = open_layer(MemorySource(bytes(damaged), victims.NAME))
        except ObdError:
            continue
        found = list(layer.check())
        layer.close()
        for error in found:
            victims.judge(error)
        assert found or any(bit // 8 in part for part in filling(victim)), bit // 8


@every_victim
def test_blocks_swapped_and_zeroed(victim: Victim) -> None:
    chance = Random(victim.name)
    for _ in range(150):
        damaged = bytearray(victim.raw)
        size = chance.choice([1, 16, 512, 600])
        a, b = (chance.randrange(len(damaged) - size) for _ in "ab")
        if chance.random() < 0.5:
            damaged[a : a + size] = victim.raw[b : b + size]
        else:
            damaged[a : a + size] = bytes(size)
        result = tried(bytes(damaged))
        if victim.protected:
            assert isinstance(result, ObdError) or result == FLAT
