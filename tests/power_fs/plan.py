# SPDX-License-Identifier: Apache-2.0
"""
plan - what hands write to a disk, and what the disk may hold after a power cut.

Each hand has a part of the disk to itself, and does step after step: it writes
stamped sectors, discards, writes zeros, and ends each batch of steps with a
flush. All of it follows from a seed, so it need not be recorded. A hand claims,
after each flush,

    (1) up to which step everything is durable;
    (2) up to which step it may have begun before its next claim.

After a cut each sector holds what its last durable step put there, or what a
step since has put there, and no mixture of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple

SECTOR = 512
SECTORS = 8192  # 4 MiB
HANDS = 2
PART = SECTORS // HANDS

# The layer below holds data in every second piece of so many sectors.
BASE_PIECE = 64

# The claim that the layer has been made.
MADE = "made"

_STAMP = struct.Struct("<IIQ")
_ZEROS = bytes(SECTOR)


class Step(NamedTuple):
    """What a hand does to length sectors from start. number counts from 1."""

    number: int
    kind: str  # "write", "discard", "zero"
    start: int
    length: int


class Claim(NamedTuple):
    """Steps of a hand that are durable, and that may have begun."""

    hand: int
    durable: int
    begun: int

    def __str__(self) -> str:
        """Return it as a word without blanks."""
        return f"{self.hand}:{self.durable}:{self.begun}"


def claim_of(word: str) -> Claim:
    """Return the claim that a word is."""
    hand, durable, begun = map(int, word.split(":"))
    return Claim(hand, durable, begun)


def latest(words: Iterable[str]) -> tuple[bool, list[Claim]]:
    """Tell whether the layer was made, and each hand's last claim."""
    made, claims = False, [Claim(hand, 0, 0) for hand in range(HANDS)]
    for word in words:
        if word == MADE:
            made = True
        elif word[:1].isdecimal():
            claim = claim_of(word)
            claims[claim.hand] = claim
    return made, claims


# -- Steps

_LENGTHS = (1, 1, 2, 7, 8, 8, 8, 16, 64, 200)
_KINDS = ("write",) * 8 + ("discard", "zero")


def batches(seed: int, hand: int) -> Iterator[list[Step]]:
    """Yield what a hand does between two flushes, for ever."""
    chance, number = Random(f"{seed} {hand}"), 0
    while True:
        batch = []
        for _ in range(chance.choice((1, 2, 4, 12, 30))):
            number += 1
            length = chance.randint(1, chance.choice(_LENGTHS))
            # A quarter of the part gets most steps, so that much is overwritten.
            room = chance.choice((PART // 4, PART // 4, PART)) - length
            start = hand * PART + chance.randint(0, room)
            batch.append(Step(number, chance.choice(_KINDS), start, length))
        yield batch


def stamp(hand: int, number: int, sector: int) -> bytes:
    """Return the sector that a step of a hand writes."""
    return _STAMP.pack(hand, number, sector) * (SECTOR // _STAMP.size)


def payload(hand: int, step: Step) -> bytes:
    """Return all that a step writes."""
    sectors = range(step.start, step.start + step.length)
    return b"".join(stamp(hand, step.number, sector) for sector in sectors)


def base_disk() -> bytes:
    """Return the disk before the first step."""
    return b"".join(_base(sector) for sector in range(SECTORS))


def _base(sector: int) -> bytes:
    inside = sector // BASE_PIECE % 2
    return stamp(sector // PART, 0, sector) if inside else _ZEROS


# -- What may be there after a cut

# A step that put something into a sector: its number, negative if that was
# zeros; 0: nobody did.
_Mover = int


def judge(seed: int, claims: Iterable[Claim], disk: bytes) -> list[str]:
    """Return a sentence for each sector that is not as the claims allow."""
    wrong = []
    for claim in claims:
        durable, since = _movers(seed, claim)
        for number in range(PART):
            sector = claim.hand * PART + number
            found = disk[sector * SECTOR : (sector + 1) * SECTOR]
            if found == _content(claim.hand, sector, durable[number]):
                continue
            later = since.get(sector, [])
            if all(found != _content(claim.hand, sector, m) for m in later):
                allowed = ", ".join(map(_name, [durable[number], *later]))
                wrong.append(f"sector {sector}: {_describe(found)}, not {allowed}")
    return wrong


def _movers(seed: int, claim: Claim) -> tuple[list[_Mover], dict[int, list[_Mover]]]:
    """Return each sector's last durable mover, and the movers since, by sector."""
    durable, since = [0] * PART, dict[int, list[_Mover]]()
    for batch in batches(seed, claim.hand):
        for hand_step in batch:
            number, kind, start, length = hand_step
            if number > claim.begun and number > claim.durable:
                return durable, since
            mover = number if kind == "write" else -number
            if number <= claim.durable:
                first = start - claim.hand * PART
                durable[first : first + length] = [mover] * length
            else:
                for sector in range(start, start + length):
                    since.setdefault(sector, []).append(mover)
    raise AssertionError("batches() ended")


def _content(hand: int, sector: int, mover: _Mover) -> bytes:
    if mover > 0:
        return stamp(hand, mover, sector)
    return _ZEROS if mover else _base(sector)


def _name(mover: _Mover) -> str:
    return f"step {mover}" if mover > 0 else f"zeros of step {-mover}"


def _describe(found: bytes) -> str:
    if found == _ZEROS:
        return "zeros"
    hand, number, sector = _STAMP.unpack_from(found)
    if found == stamp(hand, number, sector):
        return f"sector {sector} of step {number} of hand {hand}"
    return f"a mixture that begins with {found[:16].hex()}"
