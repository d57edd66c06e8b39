# SPDX-License-Identifier: Apache-2.0
"""exports - what a server has to offer: devices, by the names that clients use."""

from __future__ import annotations

from typing import NamedTuple

from obdengine import _core
from obdengine.device import Device
from obdengine.errors import SourceMissing
from obdengine.nbd.words import Flag

__all__ = ["Export", "Exports"]

_ALWAYS = Flag.HAS_FLAGS | Flag.CAN_MULTI_CONN | Flag.SEND_CACHE | Flag.SEND_DF
_WRITING = (
    Flag.SEND_FLUSH
    | Flag.SEND_FUA
    | Flag.SEND_TRIM
    | Flag.SEND_WRITE_ZEROES
    | Flag.SEND_FAST_ZERO
)


class Export(NamedTuple):
    """A disk under a name."""

    name: str
    device: Device

    @property
    def flags(self) -> Flag:
        """What clients may do with it."""
        return _ALWAYS | (Flag.READ_ONLY if self.device.readonly else _WRITING)

    @property
    def description(self) -> str:
        """The image in a few words."""
        device = self.device
        layers = len(device.layers)
        top = device.layers[-1].name if layers else device.name
        text = f"{top}, {layers} layer{'' if layers == 1 else 's'}"
        return f"{text} and a writable one" if device.upper else text

    @property
    def block_sizes(self) -> tuple[int, int, int]:
        """The least, the best and the largest request, in bytes."""
        blocks = [layer.blob.block_size or 4096 for layer in self.device.layers]
        return (1, max([4096, *blocks]), _core.REQUEST_MAX)


class Exports:
    """One disk, under one name or under any."""

    def __init__(self, device: Device, name: str = "") -> None:
        """Offer device; "" is a name that fits whatever a client says."""
        self._export = Export(name, device)

    def names(self) -> list[str]:
        """Return what a client may ask for."""
        return [self._export.name]

    def find(self, name: str) -> Export:
        """Return the export that a client means; raises SourceMissing."""
        known = self._export.name
        if known and name not in ("", known):
            raise SourceMissing(f"the export is called {known!r}, not {name!r}")
        return self._export
