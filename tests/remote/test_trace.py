# SPDX-License-Identifier: Apache-2.0
"""test_trace - the format, byte for byte, and what is done with hostile ones."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.device import Read
from obdengine.device.trace import MAGIC, merge_traces, pack_trace, unpack_trace
from obdengine.errors import BadChecksum, BadHeader, BadMagic, FormatError
from tests.twins.crc32c import crc32c

READS = [Read(0, 0, 4096), Read(3, 1 << 40, 12345), Read(0, 4096, 1)]


def by_hand(reads: list[Read]) -> bytes:
    """Return a trace as the format's description has it."""
    records = b"".join(
        b"R\0\0\0" + struct.pack("<IQq", read.layer, read.size, read.offset)
        for read in reads
    )
    crc = crc32c(records)
    return struct.pack("<IIQII", 3270449184, 0, len(records), crc, 0) + records


def test_bytes() -> None:
    raw = pack_trace(READS)
    assert raw == by_hand(READS)
    assert len(raw) == 24 * 4
    assert unpack_trace(raw, "x") == READS
    assert unpack_trace(pack_trace([]), "x") == []


def test_padding_is_part_of_the_sum() -> None:
    raw = bytearray(by_hand(READS))
    raw[25] = 7
    with pytest.raises(BadChecksum):
        unpack_trace(bytes(raw), "x")
    struct.pack_into("<I", raw, 16, crc32c(bytes(raw[24:])))
    assert unpack_trace(bytes(raw), "x") == READS


def resummed(change: Callable[[bytearray], None]) -> bytes:
    raw = bytearray(by_hand(READS))
    change(raw)
    struct.pack_into("<I", raw, 16, crc32c(bytes(raw[24:])))
    return bytes(raw)


HOSTILE = {
    "op": lambda raw: struct.pack_into("<c", raw, 24, b"W"),
    "no bytes": lambda raw: struct.pack_into("<Q", raw, 32, 0),
    "all bytes": lambda raw: struct.pack_into("<Q", raw, 32, (1 << 64) - 1),
    "negative": lambda raw: struct.pack_into("<q", raw, 40, -1),
    "size": lambda raw: struct.pack_into("<Q", raw, 8, 24),
    "huge": lambda raw: struct.pack_into("<Q", raw, 8, 1 << 63),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    with pytest.raises(BadHeader, match="x: offset"):
        unpack_trace(resummed(HOSTILE[name]), "x")


@pytest.mark.parametrize("raw", [b"", b"abc", b"not a trace at all, but a text"])
def test_something_else(raw: bytes) -> None:
    with pytest.raises(BadMagic):
        unpack_trace(raw, "x")


@given(st.binary(max_size=200))
def test_never_anything_but_a_format_error(tail: bytes) -> None:
    with contextlib.suppress(FormatError):
        unpack_trace(MAGIC.to_bytes(4, "little") + tail, "x")


def test_merge_keeps_what_comes_first() -> None:
    one = [Read(0, 0, 8192), Read(1, 0, 4096), Read(0, 0, 4096)]
    two = [Read(0, 4096, 8192), Read(2, 0, 4096)]
    merged = merge_traces([one, two])
    assert merged == [
        Read(0, 0, 8192),
        Read(0, 8192, 4096),
        Read(1, 0, 4096),
        Read(2, 0, 4096),
    ]
    assert merge_traces([merged, one]) == merged
    assert merge_traces([]) == []
