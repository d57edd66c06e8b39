# SPDX-License-Identifier: Apache-2.0
"""
in_use - whether a configuration says what a disk in use is made of.

Before it is replaced, so that nobody's change is lost. It opens nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from obdengine.config import ImageConfig
from obdengine.device import Device
from obdengine.errors import ConfigError
from obdengine.layer import Upper

__all__ = ["judge_layers", "judge_upper"]


def judge_layers(config: ImageConfig, device: Device, upper: Upper | None) -> None:
    """Raise ConfigError unless config names the layers of device, and upper."""
    has = [layer.blob.source.fileno() for layer in device.layers]
    has += [upper.data.fileno()] if upper else []
    files = [file.path for file in config.layer_files()]
    for number in range(max(len(files), len(has))):
        if number >= len(has):
            raise ConfigError(
                f"{config.path}: lowers[{number}]: the disk in use has no such layer"
            )
        if number >= len(files) or not _is_open_as(files[number], has[number]):
            name = [*(layer.name for layer in device.layers), upper and upper.name]
            raise ConfigError(
                f"{config.path}: lowers[{number}]: the disk in use has "
                f"{name[number]} there"
            )


def judge_upper(config: ImageConfig, upper: Upper) -> None:
    """Raise ConfigError unless config names upper as its own."""
    if not config.upper or not _is_open_as(config.upper.data, upper.data.fileno()):
        raise ConfigError(
            f"{config.path}: upper.data: the disk in use has {upper.name} there"
        )


def _is_open_as(file: Path | None, fd: int | None) -> bool:
    if file is None:
        return fd is None  # of a registry, both
    try:
        return fd is not None and os.path.samestat(file.stat(), os.fstat(fd))
    except OSError:
        return False
