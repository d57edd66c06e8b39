# SPDX-License-Identifier: Apache-2.0
"""test_record - index entries out and in, and every rule on both sides of its edge."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.errors import BadIndex
from obdengine.segment import Segment
from tests.twins import record, writer

BOUNDS = {"name": "f", "offset": 4096, "disk_sectors": 1000}
DATA = {"data_start": 8, "data_end": 500}
FIRST = Segment(100, 50, 8)


@pytest.mark.parametrize(
    ("start", "length", "moffset", "zeroed", "good"),
    [
        (150, 1, 8, False, True),
        (150, 0, 8, False, False),
        (150, 0, 8, True, False),
        (149, 1, 8, False, False),
        (0, 5, 8, False, False),
        (990, 10, 8, False, True),
        (990, 11, 8, False, False),
        (990, 11, 8, True, False),
        ((1 << 50) - 2, 16383, 8, False, False),
        (150, 1, 7, False, False),
        (150, 1, 0, False, False),
        (150, 2, 498, False, True),
        (150, 2, 499, False, False),
        (150, 2, (1 << 55) - 1, False, False),
        (150, 2, (1 << 55) - 1, True, True),
        (150, 2, 0, True, True),
    ],
)
def test_rules(kernels, start, length, moffset, zeroed, good):
    second = Segment(start, length, moffset, zeroed)
    raw = record.pack([FIRST, second])
    if good:
        assert kernels.unpack(raw, **BOUNDS, **DATA) == [FIRST, second]
        return
    with pytest.raises(BadIndex) as raised:
        kernels.unpack(raw, **BOUNDS, **DATA)
    assert (raised.value.name, raised.value.offset) == ("f", 4096 + 16)


def test_padding_is_dropped_wherever_it_stands(kernels):
    chance = Random(1)
    segments = [Segment(i * 5, 3, 8 + i, i % 3 == 0) for i in range(100)]
    how = writer.Lsmt(padding=64, scattered=True, tags=True)
    raw = writer.index_bytes(segments, how, chance)
    assert len(raw) == 128 * 16
    assert kernels.unpack(raw, **BOUNDS, **DATA) == segments


def test_padding_may_have_any_length(kernels):
    odd = record.pack_one(Segment(record.PADDING_START, 99, 5, True), 7)
    assert kernels.unpack(odd * 3, **BOUNDS, **DATA) == []
    assert kernels.unpack(b"", **BOUNDS, **DATA) == []


SEGMENTS = st.lists(
    st.builds(
        Segment,
        st.integers(0, (1 << 50) - 2),
        st.integers(0, (1 << 14) - 1),
        st.integers(0, (1 << 55) - 1),
        st.booleans(),
        st.just(0),
    )
)


@given(SEGMENTS)
def test_pack_is_the_same_in_both(kernels, segments):
    assert kernels.pack(segments) == record.pack(segments)


@given(st.binary(max_size=400), st.integers(0, 1 << 51), st.integers(0, 1 << 56))
def test_any_bytes_are_judged_alike(core, raw, disk, data_end):
    raw = raw[: len(raw) // 16 * 16]
    how = {"name": "f", "offset": 0, "disk_sectors": disk + 1}
    how |= {"data_start": 8, "data_end": data_end}
    outcomes = []
    for unpack in (core.Segments.unpack, record.unpack):
        try:
            outcomes.append(list(unpack(raw, **how)))
        except BadIndex as error:
            outcomes.append(error.offset)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("field", [0, 1, 2, 4])
@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_numbers_that_do_not_fit_are_refused(core, field, value):
    from obdengine.errors import UsageError

    words = [1, 1, 1, False, 0]
    words[field] = value
    with pytest.raises(UsageError):
        core.Segments.from_list([Segment(*words)])
