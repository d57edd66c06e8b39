# SPDX-License-Identifier: Apache-2.0
"""image - what a person or a program names, opened as a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from obdengine import config
from obdengine.device import Device
from obdengine.errors import ReadOnly
from obdengine.layer import UpperOptions, open_upper
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
) -> Device:
    """Open an image as a disk; close the Device when done with it.

    image is the path of a config.v1.json, of one layer, or a list of layer
    paths with the bottom first. upper is a folder that holds, or will hold, a
    writable layer over the image; form ("append" or "sparse") is for a new
    one. options, where they say something, overrule the configuration.
    service is overlaybd's overlaybd.json, or what was read from it: where the
    cache is, how registries are spoken to; None: as usual. locked=False is for
    facts about an image that may be written to meanwhile: what is read from it
    may be torn.

    Raises ConfigError when the configuration is wrong, FormatError when a
    layer is, SourceError when one cannot be read, LimitError for more layers
    or entries than are accepted, Busy when another process writes to the
    upper or, for writing, reads it, and ReadOnly for readonly=False without
    one.
    """
    with using(service) as used:
        return _open(image, readonly, upper, form, options, locked, used)


def _open(
    image: _Name | Sequence[_Name],
    readonly: bool,
    upper: _Name | None,
    form: str,
    options: UpperOptions | None,
    locked: bool,
    service: Service,
) -> Device:
    names = [image] if isinstance(image, (str, os.PathLike)) else list(image)
    words: list[_Name] = [os.fspath(name) for name in names]
    name = str(words[-1]) if words else "image"
    if upper is not None:
        below = resolve(words, service=service)
        words = [make_or_reopen(Path(upper), below, form=form, options=options)]
    while True:
        found = resolve(words, service=service)
        if not readonly and not found.upper:
            raise ReadOnly(
                f"{name}: the image has no writable layer",
                hint="make one with `obd create`, or name a folder for it",
            )
        with ExitStack() as opened:
            device = _stack(found, name, readonly, locked, options, service, opened)
            # Who changes a configuration has the lock of the upper in it: it
            # may have been changed until we had the lock.
            if not found.upper or resolve(words, service=service) == found:
                opened.pop_all()
                return device


def _stack(
    image: config.Image,
    name: str,
    readonly: bool,
    locked: bool,
    options: UpperOptions | None,
    service: Service,
    opened: ExitStack,
) -> Device:
    """Open every file and put them on top of each other; opened closes them."""
    layers = open_layers(image.layers, opened, service)
    if image.upper is None:
        return Device(layers, name)
    upper = open_upper(
        image.upper.data,
        image.upper.index,
        readonly=readonly,
        locked=locked,
        options=room_of(image.room, options),
    )
    opened.callback(upper.close)
    return Device(layers, name, upper)
