# SPDX-License-Identifier: Apache-2.0
"""
check - every damage of an image that can be found by reading all of it.

A layer that cannot be opened has its blocks checked all the same.
Nothing is repaired.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from obdengine import source
from obdengine.blob import Progress, open_blob
from obdengine.errors import FormatError
from obdengine.layer import open_layer

__all__ = ["Report", "check_image"]


@dataclass
class Report:
    """What was looked at, and what was wrong with it.

    Attributes:
        damage: one error for each thing that is wrong, layer by layer.
        checked: bytes of the layers' streams that were looked at.
        blocks: compressed blocks that were.
        layers: files that were.
    """

    damage: list[FormatError] = field(default_factory=list)
    checked: int = 0
    blocks: int = 0
    layers: int = 0


def check_image(
    paths: Sequence[str | os.PathLike[str]], progress: Progress | None = None
) -> Report:
    """Check each layer file; progress counts bytes of the files.

    Raises SourceError when a file cannot be read.
    """
    report = Report()
    sizes = [_size(path) for path in paths]
    for number, path in enumerate(paths):
        done, size = sum(sizes[:number]), sizes[number]
        _check_layer(path, report, _share(progress, done, size, sum(sizes)))
        report.layers += 1
        if progress:
            progress(done + size, sum(sizes))
    return report


def _check_layer(
    path: str | os.PathLike[str], report: Report, progress: Progress
) -> None:
    try:
        with closing(open_layer(path)) as layer:
            report.damage += layer.check(progress)
            report.checked += layer.blob.size
            report.blocks += layer.blob.blocks
    except FormatError as error:
        report.damage += [error, *_blob_damage(path, error)]


def _blob_damage(path: str | os.PathLike[str], known: FormatError) -> list[FormatError]:
    """Return what else is wrong in a file that is no good layer."""
    try:
        with closing(open_blob(source.open(path))) as blob:
            return [error for error in blob.check() if str(error) != str(known)]
    except FormatError:
        return []  # it is the known one


def _share(progress: Progress | None, before: int, size: int, total: int) -> Progress:
    """Return the progress of one file as a share of all files'."""

    def show(done: int, of: int) -> None:
        if progress:
            progress(before + size * done // (of or 1), total)

    return show


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # opening it will say what is wrong
