# SPDX-License-Identifier: Apache-2.0
"""test_contract - what every source promises, over every kind of source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obdengine.errors import Closed, OutOfRange
from obdengine.source import Source


def test_size_and_name(opened: Source, content: bytes) -> None:
    assert opened.size == len(content)
    assert opened.name.endswith("content")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_reads_any_range(opened: Source, content: bytes, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(content)))
    size = data.draw(st.integers(0, len(content) - offset))
    assert opened.pread(offset, size) == content[offset : offset + size]
    buffer = bytearray(size)
    opened.pread_into(offset, memoryview(buffer))
    assert buffer == content[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, 1 << 62), (1 << 62, 1)])
def test_range_outside(opened: Source, offset: int, size: int) -> None:
    with pytest.raises(OutOfRange):
        opened.pread(offset, size)


def test_one_byte_too_many(opened: Source) -> None:
    with pytest.raises(OutOfRange):
        opened.pread_into(opened.size - 1, memoryview(bytearray(2)))


def test_many_threads(opened: Source, content: bytes) -> None:
    def read(offset: int) -> bool:
        return opened.pread(offset, 100) == content[offset : offset + 100]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, len(content) - 100, 7)))


def test_read_after_close(opened: Source) -> None:
    opened.close()
    opened.close()
    with pytest.raises(Closed):
        opened.pread(0, 1)
    with pytest.raises(Closed):
        opened.pread_into(0, memoryview(bytearray(1)))
