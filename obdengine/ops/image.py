# SPDX-License-Identifier: Apache-2.0
"""image - what a person or a program names, opened as a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from obdengine import config
from obdengine.device import Device
from obdengine.errors import ReadOnly
from obdengine.layer import UpperOptions, open_upper
from obdengine.ops.background import Serving, begin
from obdengine.ops.folder import make_or_reopen, room_of
from obdengine.ops.layers import open_layers
from obdengine.ops.resolve import resolve
from obdengine.service import Service, using

__all__ = ["open_image"]

_Name = str | os.PathLike[str]


def open_image(
    image: _Name | Sequence[_Name],
    *,
    readonly: bool = True,
    upper: _Name | None = None,
    form: str = "append",
    options: UpperOptions | None = None,
    locked: bool = True,
    service: _Name | Service | None = None,
    serving: Serving | None = None,
) -> Device:
    """Open an image as a disk; close the Device when done with it.

    image is the path of a config.v1.json, of one layer, or a list of layer
    paths with the bottom first. upper is a folder that holds, or will hold, a
    writable layer over the image; form ("append" or "sparse") is for a new
    one. options, where they say something, overrule the configuration.
    service is overlaybd's overlaybd.json, or what was read from it: where the
    cache is, how registries are spoken to; None: as usual. serving is for who
    serves the image: prefetch, recording and download go along with it.
    locked=False is for facts about an image that may be written to meanwhile:
    what is read from it may be torn.

    Raises ConfigError when the configuration is wrong, FormatError when a
    layer is, SourceError when one cannot be read, LimitError for more layers
    or entries than are accepted, Busy when another process writes to the
    upper or, for writing, reads it, and ReadOnly for readonly=False without
    one.
    """
    with using(service) as used:
        words = [image] if isinstance(image, (str, os.PathLike)) else list(image)
        name = str(words[-1]) if words else "image"
        if upper is not None:
            below = resolve(words, service=used)
            words = [make_or_reopen(Path(upper), below, form=form, options=options)]
        how = _How(name, readonly, locked, options, used)
        device, found = _open(words, how)
    if serving:
        folder = Path(words[0]).parent if found.is_config else None
        try:
            begin(device, found, used, serving, folder)
        except BaseException:
            device.close()
            raise
    return device


class _How(NamedTuple):
    """How an image is opened."""

    name: str
    readonly: bool
    locked: bool
    options: UpperOptions | None
    service: Service


def _open(words: Sequence[_Name], how: _How) -> tuple[Device, config.Image]:
    while True:
        found = resolve(words, service=how.service)
        if not how.readonly and not found.upper:
            raise ReadOnly(
                f"{how.name}: the image has no writable layer",
                hint="make one with `obd create`, or name a folder for it",
            )
        with ExitStack() as opened:
            device = _stack(found, how, opened)
            # Who changes a configuration has the lock of the upper in it: it
            # may have been changed until we had the lock.
            if not found.upper or resolve(words, service=how.service) == found:
                opened.pop_all()
                return device, found


def _stack(image: config.Image, how: _How, opened: ExitStack) -> Device:
    """Open every file and put them on top of each other; opened closes them."""
    layers = open_layers(image.layers, opened, how.service)
    if image.upper is None:
        return Device(layers, how.name)
    upper = open_upper(
        image.upper.data,
        image.upper.index,
        readonly=how.readonly,
        locked=how.locked,
        options=room_of(image.room, how.options),
    )
    opened.callback(upper.close)
    return Device(layers, how.name, upper)
