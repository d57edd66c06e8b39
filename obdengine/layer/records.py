# SPDX-License-Identifier: Apache-2.0
"""records - the content of an index file made in Python; no file is touched."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from obdengine import _core
from obdengine.layer import format
from obdengine.segment import ENTRY_SIZE, MAX_LENGTH, Segment
from obdengine.units import SECTOR

__all__ = ["FIRST", "cut", "zeros"]

FIRST = format.SLOT // SECTOR  # sector of a data file that can have data


def cut(segments: _core.Segments, end: int) -> tuple[bytes, bytes]:
    """Return the records of the sectors before end, and of those behind."""
    raw = segments.pack()
    number = bisect_right(segments, end, key=lambda segment: segment.end)
    at = number * ENTRY_SIZE
    if number == len(segments) or segments[number].start >= end:
        return raw[:at], raw[at:]
    over = segments[number]
    before = over._replace(length=end - over.start)
    moffset = over.moffset + (0 if over.zeroed else before.length)
    behind = Segment(end, over.end - end, moffset, over.zeroed)
    first, second = (_core.Segments.from_list([s]).pack() for s in (before, behind))
    return raw[:at] + first, second + raw[at + ENTRY_SIZE :]


def zeros(ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return records that make (offset, size) read as zeros."""
    found = [
        Segment(at, min(MAX_LENGTH, (offset + size) // SECTOR - at), FIRST, True)
        for offset, size in ranges
        for at in range(offset // SECTOR, (offset + size) // SECTOR, MAX_LENGTH)
    ]
    return _core.Segments.from_list(found).pack()
