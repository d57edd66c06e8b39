# SPDX-License-Identifier: Apache-2.0
"""
resize - another size for the disk of a writable image.

Growing adds zeros, also where a lower layer has something past the old end.
Shrinking is refused where anything but zeros would be cut off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from obdengine import _core
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.disks import hidden
from obdengine.ops.image import open_image
from obdengine.units import MIB, SECTOR, human_size

__all__ = ["Resized", "resize", "resize_live"]

_STEP = MIB


@dataclass(frozen=True)
class Resized:
    """Bytes that a disk had before, and has now."""

    before: int
    after: int


def resize(image: str | os.PathLike[str], size: int) -> Resized:
    """Give the disk of image, a configuration with an upper, size bytes.

    A crash leaves the old disk or the new one. Raises UsageError for a size
    that is none or would cut off data, which it names; Busy when another
    process uses the upper, ReadOnly without one, and what opening raises.
    """
    _judge_size(size)
    with open_image(image, readonly=False) as device:
        return resize_live(device, size)


def resize_live(device: Device, size: int) -> Resized:
    """Give a disk that may be in use size bytes; raises as resize() does.

    Reads go on, writes wait: for a moment, or while what is past the new end is
    looked at. Who uses the disk learns of it only when he asks anew; over NBD
    that is another connection.
    """
    _judge_size(size)
    before = device.size

    def judge() -> list[tuple[int, int]]:
        if size < device.size:
            _judge_end(device, size)
        return list(hidden(device, size))

    if size != before:
        device.resize(size, judge)
    return Resized(before, size)


def _judge_size(size: int) -> None:
    if size <= 0 or size % SECTOR:
        raise UsageError(f"a disk cannot have {size} bytes", hint="a multiple of 512")


def _judge_end(device: Device, size: int) -> None:
    """Raise UsageError when there is anything but zeros from size on."""
    found, first, last = 0, 0, 0
    for extent in device.extents(size, device.size - size):
        if not extent.data:
            continue
        for offset in range(extent.offset, extent.end, _STEP):
            data = device.pread(offset, min(_STEP, extent.end - offset))
            zero = _core.zero_granules(data, SECTOR)
            if zero.count(0):
                first = first if found else offset + zero.find(0) * SECTOR
                last = offset + (zero.rfind(0) + 1) * SECTOR
                found += zero.count(0) * SECTOR
    if found:
        raise UsageError(
            f"{device.name}: {human_size(found)} that are not zero lie past byte "
            f"{size}, from {first} to {last}",
            hint="shrink the file system in it first, and discard what is past its end",
        )
