# SPDX-License-Identifier: Apache-2.0
"""image - what a person or a program names, opened as a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from errno import ENOMEM
from pathlib import Path

from obdengine import config
from obdengine.device import Device
from obdengine.errors import CoreError, LimitError, ReadOnly
from obdengine.layer import Layer, open_layer

__all__ = ["MAX_STACK_ENTRIES", "open_image"]

# Entries of all layers together. A layer of a million compresses to 20 KiB, so
# a small image could ask for any amount of memory; this many take 1 GiB, and
# no real image comes near.
MAX_STACK_ENTRIES = 1 << 24

_Name = str | os.PathLike[str]


def open_image(image: _Name | Sequence[_Name], *, readonly: bool = True) -> Device:
    """Open an image as a disk; close the Device when done with it.

    image is the path of a config.v1.json, of one layer, or a list of layer
    paths with the bottom first. Raises ConfigError when the configuration is
    wrong, FormatError when a layer is, SourceError when one cannot be read,
    LimitError for more layers or entries than are accepted, and ReadOnly for
    readonly=False: there is no writable layer yet.
    """
    names = [image] if isinstance(image, (str, os.PathLike)) else list(image)
    if not readonly:
        raise ReadOnly(f"{_name_of(names)}: this version opens images for reading")
    files = config.resolve([os.fspath(name) for name in names])
    return _stack(files, _name_of(names))


def _name_of(names: Sequence[_Name]) -> str:
    return os.fspath(names[-1]) if names else "image"


def _stack(files: Sequence[Path], name: str) -> Device:
    """Open every file as a layer and put them on top of each other."""
    entries = 0
    with ExitStack() as opened:
        layers: list[Layer] = []
        for path in files:
            layers.append(_open(path))
            opened.callback(layers[-1].close)
            entries += layers[-1].entries
            if entries > MAX_STACK_ENTRIES:
                raise LimitError(
                    f"{path}: with this layer the image has {entries} index entries, "
                    f"at most {MAX_STACK_ENTRIES} are accepted"
                )
        device = Device(layers, name)
        opened.pop_all()
    return device


def _open(path: Path) -> Layer:
    try:
        return open_layer(path)
    except MemoryError as error:
        raise CoreError(f"{path}: no memory to open it", errno=ENOMEM) from error
