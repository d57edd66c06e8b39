# SPDX-License-Identifier: Apache-2.0
"""holes - what a sparse data file without a map seems to hold; a guess, no more."""

from __future__ import annotations

from collections.abc import Iterator

from obdengine import _core
from obdengine.layer import format
from obdengine.segment import MAX_LENGTH, Segment
from obdengine.source.writable import WritableFile
from obdengine.units import SECTOR

__all__ = ["guess_from_holes"]

_FIRST = format.SLOT // SECTOR


def guess_from_holes(data: WritableFile, virtual_size: int) -> _core.Segments:
    """Return what overlaybd takes for written: all that is no hole.

    virtual_size: bytes of the disk. Raises SourceError.
    """
    return _core.Segments.from_list(_written(data, virtual_size // SECTOR))


def _written(data: WritableFile, disk_end: int) -> Iterator[Segment]:
    for offset, size in data.data_ranges(format.SLOT):
        start = max(offset // SECTOR - _FIRST, 0)
        end = min((offset + size) // SECTOR - _FIRST, disk_end)
        for at in range(start, end, MAX_LENGTH):
            yield Segment(at, min(MAX_LENGTH, end - at), _FIRST + at)
