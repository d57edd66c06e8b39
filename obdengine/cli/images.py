# SPDX-License-Identifier: Apache-2.0
"""images - what stands for IMAGE on the command line, turned into files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

import obdengine
from obdengine.config import Image
from obdengine.device import Device
from obdengine.errors import Busy, UsageError
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.resolve import is_remote, resolve

__all__ = [
    "configuration",
    "files_of",
    "image_argument",
    "layer_files",
    "look",
    "name_of",
    "refuse_overwriting",
    "resolved",
    "same_file",
    "writable_argument",
]

_STREAM = "-"

image_argument = click.argument("image", nargs=-1, required=True, metavar="IMAGE...")
writable_argument = click.argument("image", metavar="IMAGE")


def resolved(image: Sequence[str]) -> Image:
    """Return what the words for an image mean; raises what resolve() raises."""
    return resolve([name_of(word) for word in image])


def name_of(word: str) -> str | Path:
    """Return what a word means: itself, or of a folder its configuration."""
    return word if is_remote(word) else configuration(word)


def configuration(word: str) -> Path:
    """Return the path that a word means: of a folder, its configuration.

    Raises UsageError for an image that is not on this machine's disks.
    """
    if is_remote(word):
        raise UsageError(
            f"{word}: only an image of this machine can be changed",
            hint="`obd create` makes a writable one above it",
        )
    path = Path(word)
    return path / CONFIG_NAME if (path / CONFIG_NAME).is_file() else path


def layer_files(image: Sequence[str]) -> list[Path]:
    """Return the files of an image's layers, bottom first; raises as resolved()."""
    return resolved(image).files


def files_of(image: Image) -> list[Path]:
    """Return every file of an image, those of its upper last."""
    upper = [image.upper.data, image.upper.index] if image.upper else []
    return [*image.files, *(path for path in upper if path)]


def look(image: Sequence[str]) -> tuple[Device, str | None]:
    """Open an image for facts about it; also return who is writing to it."""
    words = [name_of(word) for word in image]
    try:
        return obdengine.open(words), None
    except Busy as error:
        return obdengine.open(words, locked=False), str(error.args[0])


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, whatever they look like."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def refuse_overwriting(target: str | Path, inputs: Sequence[str | Path]) -> None:
    """Raise UsageError when the target of a command is among what it reads."""
    for path in inputs:
        if target != _STREAM and same_file(Path(target), Path(path)):
            raise UsageError(f"{target}: cannot be the result and be read as well")
