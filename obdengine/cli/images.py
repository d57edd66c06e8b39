# SPDX-License-Identifier: Apache-2.0
"""images - what stands for IMAGE on the command line, turned into layer files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from obdengine.config import resolve
from obdengine.errors import UsageError

__all__ = ["image_argument", "layer_files", "same_file"]

_REMOTE = ("docker://", "oci:", "oci-archive:", "http://", "https://")

image_argument = click.argument("image", nargs=-1, required=True, metavar="IMAGE...")


def layer_files(image: Sequence[str]) -> list[Path]:
    """Return the layer files of an image, bottom first.

    Raises UsageError for an image that is not on this machine's disks, and
    what resolve() of the config room raises.
    """
    for word in image:
        if word.startswith(_REMOTE):
            raise UsageError(
                f"{word}: this version opens local images only",
                hint="name a config.v1.json, or layer files with the bottom first",
            )
    return resolve(image).layers


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, whatever they look like."""
    try:
        return one.samefile(other)
    except OSError:
        return False
