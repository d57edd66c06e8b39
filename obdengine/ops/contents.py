# SPDX-License-Identifier: Apache-2.0
"""
contents - what layers have, in the order of the disk, as one layer holds it.

Runs of sectors that have data are cut where an aligned granule of 4096 bytes
is zero, and these granules become zeroed sectors. Where one piece ends and
the next begins depends on what is mapped and on the bytes, never on how the
layers have cut it. Where it goes is none of its business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from obdengine import _core
from obdengine.blob import Progress
from obdengine.device import Device
from obdengine.units import MIB, SECTOR, round_up

__all__ = ["FINEST", "Piece", "contents"]

FINEST = 4096  # bytes: the granule that zeros are looked for in

_STEP = MIB  # as much as is compressed as one batch
_RUN = re.compile(b"\0+|\1+")


class Piece(NamedTuple):
    """Sectors that have data, or that read as zeros: data None.

    The data is good until the next piece is asked for.
    """

    start: int
    length: int
    data: memoryview | None


def contents(
    device: Device,
    *,
    granule: Callable[[], int | None] = lambda: FINEST,
    whole: Callable[[], Device] | None = None,
    progress: Progress | None = None,
) -> Iterator[Piece]:
    """Yield everything that the layers of device map, in order.

    granule says how coarse it may be from here on, in bytes; None: all of the
    rest shall be one run. Only what is coarser than FINEST needs whole: the
    image that fills what device does not map. Memory does not grow with the
    disk.
    """
    cutter = _Cutter(device, granule, whole)
    for start, end, stored in _runs(device):
        for piece in cutter.cut(start, end, stored):
            yield piece
            if progress:
                progress((piece.start + piece.length) * SECTOR, device.size)
    if progress:
        progress(device.size, device.size)


def _runs(device: Device) -> Iterator[tuple[int, int, bool]]:
    """Yield (offset, end, stored) of what is mapped, as long as can be."""
    held: tuple[int, int, bool] | None = None
    for extent in device.extents():
        if extent.layer is None:
            continue
        if held and held[1:] == (extent.offset, extent.data):
            held = (held[0], extent.end, extent.data)
            continue
        if held:
            yield held
        held = (extent.offset, extent.end, extent.data)
    if held:
        yield held


class _Cutter:
    """Cuts runs into pieces; its buffer is used again and again."""

    def __init__(
        self,
        device: Device,
        granule: Callable[[], int | None],
        whole: Callable[[], Device] | None,
    ) -> None:
        self._device = device
        self._granule = granule
        self._whole = whole or (lambda: device)
        self._floor = 0  # end of the last piece, bytes
        self._buffer = memoryview(b"")

    def cut(self, start: int, end: int, stored: bool) -> Iterator[Piece]:
        """Yield the pieces of a run; coarse ones may go on behind its end."""
        while (at := max(start, self._floor)) < end:
            granule = self._granule()
            if granule is None:
                yield from self._rest(at)
            elif granule > FINEST:
                yield self._coarse(at, end, stored, granule)
            elif stored:
                yield from self._fine(at, min(end, round_up(at + 1, _STEP)))
            else:
                yield self._piece(at, end, None)

    def _piece(self, start: int, end: int, data: memoryview | None) -> Piece:
        self._floor = end
        return Piece(start // SECTOR, (end - start) // SECTOR, data)

    def _room(self, size: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        return self._buffer[:size]

    def _fine(self, start: int, end: int) -> Iterator[Piece]:
        """Yield what is stored, granule by granule."""
        lead = start % FINEST
        buffer = self._room(lead + end - start)
        buffer[:lead] = bytes(lead)
        self._device.pread_into(start, buffer[lead:])
        zero = _core.zero_granules(buffer, FINEST)
        for run in _RUN.finditer(zero):
            first = max(run.start() * FINEST, lead)
            last = min(run.end() * FINEST, len(buffer))
            data = None if zero[run.start()] else buffer[first:last]
            yield self._piece(start - lead + first, start - lead + last, data)

    def _coarse(self, start: int, end: int, stored: bool, granule: int) -> Piece:
        """Return the granule that start is in, or all that are zeroed whole."""
        low = max(start - start % granule, self._floor)
        whole_end = end - end % granule
        if not stored and low == start < whole_end:
            return self._piece(start, whole_end, None)
        high = min(low - low % granule + granule, self._device.size)
        buffer = self._room(high - low)
        self._whole().pread_into(low, buffer)
        zero = all(_core.zero_granules(buffer, FINEST))
        return self._piece(low, high, None if zero else buffer)

    def _rest(self, start: int) -> Iterator[Piece]:
        """Yield all that is left of the disk as data."""
        for low in range(start, self._device.size, _STEP):
            high = min(low + _STEP, self._device.size)
            buffer = self._room(high - low)
            self._whole().pread_into(low, buffer)
            yield self._piece(low, high, buffer)
