# SPDX-License-Identifier: Apache-2.0
"""held - an image whose writable layer nobody else changes for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from obdengine.config import Image, LayerFile, UpperFiles, resolve
from obdengine.device import Device
from obdengine.errors import ReadOnly
from obdengine.layer import Upper, open_upper
from obdengine.ops.folder import remove_left_overs, room_of

__all__ = ["Held", "holding"]


class Held(NamedTuple):
    """An image and its upper, which is open and locked.

    Attributes:
        config: the configuration, which may be changed.
        layers: the read-only layers, bottom first.
        files: those of the upper.
        upper: it, open.
        left_over: files that an interrupted change had left, removed now.
        alone: a disk of nothing but the upper. It is closed, and the upper
            with it, at the end of the block.
    """

    config: Path
    layers: list[LayerFile]
    files: UpperFiles
    upper: Upper
    alone: Device
    left_over: list[Path]


@contextmanager
def holding(config: Path, *, readonly: bool = False) -> Iterator[Held]:
    """Open and lock the upper of a configuration, for the block.

    readonly: neither it nor the configuration is to be changed, and others
    may hold it so too. Raises ReadOnly when there is no upper, Busy when
    another process uses it, and what opening raises.
    """
    held = _open(config, readonly)
    try:
        if not readonly:
            held = held._replace(left_over=remove_left_overs(config))
        yield held
    finally:
        held.alone.close()
        held.upper.close()


def _open(config: Path, readonly: bool) -> Held:
    while True:
        image = resolve([config])
        files = _upper_of(config, image)
        upper = open_upper(
            files.data, files.index, readonly=readonly, options=room_of(image.room)
        )
        # Until we had the lock another process may have changed it.
        if resolve([config]) == image:
            alone = Device([], upper.name, upper)
            return Held(config, image.layers, files, upper, alone, [])
        upper.close()


def _upper_of(config: Path, image: Image) -> UpperFiles:
    if image.upper is None:
        raise ReadOnly(
            f"{config}: the image has no writable layer",
            hint="make one with `obd create`",
        )
    return image.upper
