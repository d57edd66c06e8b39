# SPDX-License-Identifier: Apache-2.0
"""
upper - a writable layer read from its two files, by overlaybd's rules.

Every record is inserted in the order of the file, and the newest wins. It is
stricter than the engine: a record that breaks a rule is an error, as it is for
overlaybd, which refuses the whole layer then.
"""

from __future__ import annotations

import struct

from obdengine.segment import Segment
from tests.twins.record import ENTRY_SIZE, PADDING_START, unpack_one
from tests.twins.stack import Stream

HEADER = 4096
SECTOR = 512

APPEND, SPARSE = 3, 19  # flags of a data file
INDEX, MAP = 1, 17  # flags of the file beside it


def open_upper(data: bytes, index: bytes) -> Stream:
    """Return the layer; its segments are in the order of time, and overlap."""
    flags, size, uuid = _header(data)
    beside, size_beside, uuid_beside = _header(index)
    assert (flags, beside) in ((APPEND, INDEX), (SPARSE, MAP))
    assert size == size_beside
    assert uuid == uuid_beside
    assert (len(index) - HEADER) % ENTRY_SIZE == 0
    found = []
    for at in range(HEADER, len(index), ENTRY_SIZE):
        segment = unpack_one(index[at : at + ENTRY_SIZE])
        if segment.start != PADDING_START:
            _judge(segment, size, len(data), flags == SPARSE)
            found.append(segment)
    return Stream(data, found, size)


def _judge(segment: Segment, disk_size: int, data_size: int, sparse: bool) -> None:
    assert segment.length > 0
    assert segment.end * SECTOR <= disk_size
    if not segment.zeroed:
        assert segment.moffset * SECTOR >= HEADER
        assert (segment.moffset + segment.length) * SECTOR <= data_size
        assert not sparse or segment.moffset * SECTOR == HEADER + segment.start * SECTOR


def _header(raw: bytes) -> tuple[int, int, bytes]:
    """Return flags, the size of the disk, and the uuid in upper case."""
    assert raw[:8] == b"LSMT\0\1\2\0"
    size, flags = struct.unpack_from("<II", raw, 24)
    (virtual_size,) = struct.unpack_from("<Q", raw, 48)
    assert size == 390
    return flags, virtual_size, raw[56:92].upper()
