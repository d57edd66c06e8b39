# SPDX-License-Identifier: Apache-2.0
"""
journal - a writable layer's journal, applied to its two files as bytes.

The twin of `_core/journal.c`: it reads what counts and returns what the two
files are with it. Whether somebody wrote to them since is not looked at.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from obdengine.segment import Segment
from tests.twins.crc32c import crc32c
from tests.twins.record import ENTRY_SIZE, unpack_one

SECTOR = 512
_HEADER = struct.Struct("<8sQ36sI")  # magic, generation, uuid, crc of these
_ENTRY = struct.Struct("<8sQQQIIII")


class Flush(NamedTuple):
    """One entry: where its records belong, they as bytes, and their data."""

    place: int
    records: bytes
    data: bytes


def flushes(raw: bytes) -> list[Flush]:
    """Return the flushes that count."""
    if len(raw) < SECTOR:
        return []
    magic, generation, _, crc = _HEADER.unpack_from(raw)
    if magic != b"OBDJRNL1" or crc != checksum(raw[: _HEADER.size - 4]):
        return []
    found: list[Flush] = []
    at = SECTOR
    while at + SECTOR <= len(raw):
        words = _ENTRY.unpack_from(raw, at)
        place, sectors, count, crc = words[3:7]
        entry = raw[at : at + sectors * SECTOR]
        if words[:3] != (b"OBDFLUSH", generation, len(found)):
            break
        if len(entry) < sectors * SECTOR or not sectors:
            break
        if crc != checksum(entry[:40] + bytes(4) + entry[44:]):
            break
        end = _ENTRY.size + count * ENTRY_SIZE
        data = entry[-(-end // SECTOR) * SECTOR :]
        found.append(Flush(place, entry[_ENTRY.size : end], data))
        at += len(entry)
    return found


def checksum(raw: bytes) -> int:
    """Return what an entry whose checksum is zero says of itself."""
    return crc32c(raw, seed=0xFFFFFFFF)


def applied(data: bytes, index: bytes, journal: bytes) -> tuple[bytes, bytes]:
    """Return the two files with all that the journal holds."""
    whole, log = bytearray(data), bytearray(index)
    for flush in flushes(journal):
        _put(whole, flush)
        log += flush.records
    return bytes(whole), bytes(log)


def _put(whole: bytearray, flush: Flush) -> None:
    at = 0
    for number in range(0, len(flush.records), ENTRY_SIZE):
        segment: Segment = unpack_one(flush.records[number : number + ENTRY_SIZE])
        if not segment.zeroed:
            piece = flush.data[at : at + segment.length * SECTOR]
            offset = segment.moffset * SECTOR
            whole.extend(bytes(max(0, offset - len(whole))))
            whole[offset : offset + len(piece)] = piece
            at += len(piece)
    assert at == len(flush.data)
