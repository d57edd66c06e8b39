# SPDX-License-Identifier: Apache-2.0
"""compare - two disks byte by byte, where either has anything but zeros."""

from __future__ import annotations

import heapq

from obdengine.blob import Progress
from obdengine.errors import FormatError
from obdengine.ops.disks import Disk
from obdengine.units import MIB

__all__ = ["first_difference", "verify"]

_STEP = MIB


def first_difference(
    one: Disk, other: Disk, progress: Progress | None = None
) -> int | None:
    """Return the offset of the first byte that differs, None when none does.

    A disk that ends earlier differs there. Raises what reading raises.
    """
    size = min(one.size, other.size)
    done = 0
    buffers = memoryview(bytearray(_STEP)), memoryview(bytearray(_STEP))
    for start, end in heapq.merge(one.ranges(), other.ranges()):
        at = max(start, done)
        while at < min(end, size):
            stop = min(at + _STEP, end, size)
            mine, its = (buffer[: stop - at] for buffer in buffers)
            one.pread_into(at, mine)
            other.pread_into(at, its)
            if mine != its:
                pairs = zip(mine, its, strict=True)
                return at + next(n for n, (a, b) in enumerate(pairs) if a != b)
            at = done = stop
            if progress:
                progress(done, size)
    if progress:
        progress(size, size)
    return None if one.size == other.size else size


def verify(source: Disk, result: Disk, progress: Progress | None = None) -> None:
    """Raise FormatError unless result reads as source does."""
    at = first_difference(source, result, progress)
    if at is not None:
        raise FormatError(
            result.name, f"does not read as {source.name} does", offset=at
        )
