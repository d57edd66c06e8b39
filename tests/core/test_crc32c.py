# SPDX-License-Identifier: Apache-2.0
"""test_crc32c - the checksum over all sizes, alignments and kernels."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.errors import CoreError
from tests.twins.crc32c import crc32c

ALL_ONES = 0xFFFFFFFF


def test_known_values(kernels):
    # The check value that catalogues of crcs give, which inverts twice.
    assert kernels.crc32c(b"123456789", ALL_ONES) ^ ALL_ONES == 0xE3069283
    assert kernels.crc32c(bytes(32), ALL_ONES) ^ ALL_ONES == 0x8A9136AA
    assert kernels.crc32c(b"") == 0
    assert kernels.crc32c(b"", 100007) == 100007
    # Raw: zeros in front do not show when the seed is 0.
    assert kernels.crc32c(bytes(1000)) == 0


@given(data=st.binary(max_size=500), cut=st.integers(0, 500), seed=st.integers(0, 9))
def test_goes_on_from_a_seed(kernels, data, cut, seed):
    whole = kernels.crc32c(data, seed)
    assert kernels.crc32c(data[cut:], kernels.crc32c(data[:cut], seed)) == whole


@pytest.mark.parametrize("name", ["portable", "sse42"])
def test_c_kernel_equals_twin(core, name):
    if name not in core.crc32c_kernels():
        with pytest.raises(CoreError, match=name):
            core.crc32c_with(name, b"")
        pytest.skip(f"kernel: this machine cannot run {name}")
    chance = Random(1)
    data = chance.randbytes(80000)
    sizes = [*range(200), 4096, 65536, 24 * 1024, 24 * 1024 + 7, 70001]
    for size in sizes:
        at = chance.randrange(64)
        seed = chance.getrandbits(32)
        part = memoryview(data)[at : at + size]
        assert core.crc32c_with(name, part, seed) == crc32c(part, seed), (at, size)


def test_kernel_that_does_not_exist(core):
    with pytest.raises(CoreError, match="abacus"):
        core.crc32c_with("abacus", b"")
    assert "portable" in core.crc32c_kernels()
