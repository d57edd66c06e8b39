# SPDX-License-Identifier: Apache-2.0
"""test_jump - the table of block lengths, whole, in pieces, and wrong."""

from __future__ import annotations

import struct
from itertools import accumulate
from random import Random

import pytest

from obdengine.errors import BadJumpTable, UsageError
from tests.twins.crc32c import crc32c
from tests.twins.zblock import bound

FIRST = 512


def table_of(lengths):
    return struct.pack(f"<{len(lengths)}I", *lengths)


def shape(lengths, **changes):
    """What a good header says of blocks with these lengths."""
    return {
        "algo": 1,
        "block_size": 4096,
        "size": 4096 * len(lengths),
        "verify": True,
        "first_offset": FIRST,
        "end_offset": FIRST + sum(lengths),
        "name": "f",
        "table_offset": 9000,
    } | changes


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025, 32767, 32768, 40000])
def test_offsets_are_sums(kernels, count):
    chance = Random(count)
    lengths = [chance.randint(5, 4000) for _ in range(count)]
    found = kernels.offsets(table_of(lengths), **shape(lengths))
    assert found == list(accumulate(lengths, initial=FIRST))


@pytest.mark.parametrize(
    "lengths",
    [
        [0, 100],
        [4, 100],
        [100, 0],
        [1 << 31, 100],
        [(1 << 32) - 1, 1],
        [4096 * 2, 100],
        [bound(1, 4096) + 5, 100],
    ],
)
def test_lengths_out_of_bounds(kernels, lengths):
    with pytest.raises(BadJumpTable) as raised:
        kernels.offsets(table_of(lengths), **shape(lengths))
    wrong = next(i for i, length in enumerate(lengths) if not 5 <= length <= 4132)
    assert (raised.value.name, raised.value.offset) == ("f", 9000 + 4 * wrong)


def test_lengths_at_their_bounds(kernels):
    lengths = [5, bound(1, 4096) + 4]
    assert kernels.offsets(table_of(lengths), **shape(lengths))[-1] == 512 + sum(
        lengths
    )
    bare = [1, bound(2, 65536)]
    how = shape(bare, algo=2, verify=False, block_size=65536, size=65536 * 2)
    assert kernels.offsets(table_of(bare), **how)[-1] == FIRST + sum(bare)


@pytest.mark.parametrize("end", [0, 100, FIRST, 661, 663, 1 << 40, (1 << 64) - 1])
def test_sum_must_be_exact(kernels, end):
    lengths = [100, 50]
    with pytest.raises(BadJumpTable):
        kernels.offsets(table_of(lengths), **shape(lengths, end_offset=end))


@pytest.mark.parametrize("size", [4096, 8193, 3 * 4096, (1 << 64) - 1])
def test_number_must_be_exact(kernels, size):
    lengths = [100, 50]
    with pytest.raises(BadJumpTable):
        kernels.offsets(table_of(lengths), **shape(lengths, size=size))


def test_last_block_may_be_short(kernels):
    lengths = [100, 50]
    for size in (4097, 8191, 8192):
        kernels.offsets(table_of(lengths), **shape(lengths, size=size))


def test_fed_in_pieces(core):
    chance = Random(3)
    lengths = [chance.randint(5, 4000) for _ in range(5000)]
    raw = table_of(lengths)
    how = shape(lengths)
    how["original_size"] = how.pop("size")
    made = core.JumpTable(len(lengths), **how)
    while raw:
        cut = 4 * chance.randint(1, 700)
        made.feed(raw[:cut])
        raw = raw[cut:]
    made.finish()
    assert made.crc == crc32c(table_of(lengths))
    assert made.offset(len(made)) == FIRST + sum(lengths)
    with pytest.raises(IndexError):
        made.offset(len(made) + 1)


@pytest.mark.parametrize("block_size", [0, 1, 512, 2048, 4097, 5000, 131072, 1 << 31])
def test_block_size_must_be_a_power_of_two_in_bounds(core, block_size):
    how = shape([], block_size=block_size)
    how["original_size"] = how.pop("size")
    with pytest.raises(UsageError):
        core.JumpTable(0, **how)
