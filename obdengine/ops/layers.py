# SPDX-License-Identifier: Apache-2.0
"""layers - what a configuration names as layers, opened, each by its kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from errno import ENOMEM

from obdengine.config import LayerFile
from obdengine.errors import ConfigError, CoreError, LimitError
from obdengine.layer import Layer, open_layer

__all__ = ["MAX_STACK_ENTRIES", "open_file", "open_layers"]

# Entries of all layers together. A layer of a million compresses to 20 KiB, so
# a small image could ask for any amount of memory; this many take 1 GiB, and
# no real image comes near.
MAX_STACK_ENTRIES = 1 << 24


def open_layers(files: Sequence[LayerFile], opened: ExitStack) -> list[Layer]:
    """Open every layer, bottom first; opened closes them.

    Raises LimitError for more index entries than are accepted, and what
    open_file() raises.
    """
    entries = 0
    layers: list[Layer] = []
    for file in files:
        layers.append(open_file(file))
        opened.callback(layers[-1].close)
        entries += layers[-1].entries
        if entries > MAX_STACK_ENTRIES:
            raise LimitError(
                f"{file.name}: with this layer the image has {entries} index "
                f"entries, at most {MAX_STACK_ENTRIES} are accepted"
            )
    return layers


def open_file(file: LayerFile | str | os.PathLike[str]) -> Layer:
    """Open one layer; a path is that of a layer by itself.

    Raises ConfigError for one that is not on this machine, FormatError when
    it is damaged, SourceError when it cannot be read.
    """
    path = file.path if isinstance(file, LayerFile) else file
    if isinstance(file, LayerFile):
        _judge(file)
    assert path is not None
    try:
        return open_layer(path)
    except MemoryError as error:
        raise CoreError(f"{path}: no memory to open it", errno=ENOMEM) from error


def _judge(file: LayerFile) -> None:
    if file.is_turbo:
        raise ConfigError(f"{file.where}: this version does not read TurboOCI layers")
    if file.path is None:
        raise ConfigError(
            f"{file.where}: {file.digest} is not on this machine",
            hint="this version reads local layers only",
        )
