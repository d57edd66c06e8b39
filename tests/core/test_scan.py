# SPDX-License-Identifier: Apache-2.0
"""test_scan - which granules are zero, and which are equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.errors import UsageError

FEW_BYTES = st.lists(st.sampled_from([0, 0, 0, 0, 0, 7]), max_size=300).map(bytes)


def granules(data: bytes, granule: int) -> list[bytes]:
    return [data[at : at + granule] for at in range(0, len(data), granule)]


@given(FEW_BYTES, st.sampled_from([1, 8, 64]))
def test_zero(core, data, granule):
    expected = bytes(not any(part) for part in granules(data, granule))
    assert core.zero_granules(data, granule) == expected


@given(FEW_BYTES, st.data(), st.sampled_from([1, 8, 64]))
def test_same(core, data, draw, granule):
    other = bytearray(data)
    for at in draw.draw(st.lists(st.integers(0, max(0, len(data) - 1)), max_size=3)):
        other[at : at + 1] = b"\x09"[: len(data)]
    pairs = zip(granules(data, granule), granules(bytes(other), granule), strict=True)
    assert core.same_granules(data, bytes(other), granule) == bytes(
        a == b for a, b in pairs
    )


def test_same_needs_equal_sizes(core):
    with pytest.raises(UsageError):
        core.same_granules(b"ab", b"abc", 1)
