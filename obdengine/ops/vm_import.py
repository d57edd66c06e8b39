# SPDX-License-Identifier: Apache-2.0
"""
vm_import - disks on top of each other into layers on top of each other.

    level 0 -> layer 0;  level n - (layers 0 to n-1) -> layer n

A layer holds what its level has and the layers below have not, by content: the
same disks give the same bytes, whatever formats and clusters they came in.
What is made appears when all of it is there, or nothing does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from obdengine.blob import Progress
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.layer import Layer, LayerWriter, open_layer
from obdengine.ops.compare import verify
from obdengine.ops.difference import write_difference
from obdengine.ops.disks import Base, BaseDisk, Disk, StackDisk
from obdengine.ops.folder import CONFIG_NAME, change_config
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.ops.staging import (
    place_of,
    publish,
    publish_beside,
    refuse_filled,
    staging,
)
from obdengine.ops.vm_disks import Below, Level, Over, SliceDisk

__all__ = ["Part", "import_file", "import_folder"]


class Part(NamedTuple):
    """The part of the disks that is wanted, in bytes."""

    offset: int
    size: int


def import_file(
    level: Level,
    dst: str | os.PathLike[str],
    *,
    base: Device | None = None,
    part: Part | None = None,
    options: LayerOptions | None = None,
    checked: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the disk of a level as one layer to dst, less what base has.

    part: only this part of it. checked: read the result again and compare.
    Raises UsageError for an empty disk, FormatError when the comparison finds
    a difference, and what reading and writing raise; dst is untouched then.
    """
    options = options or LayerOptions()
    if base and options.parent_uuid is None:
        options = replace(options, parent_uuid=(base.upper or base.layers[-1]).uuid)
    with level.open(True) as whole:
        disk = _part_of(whole, part)
        _refuse_empty(disk)
        below = BaseDisk(base, disk.size) if base else None
        if not checked:
            return _write(disk, below, dst, options, progress)
        path = place_of(Path(dst))
        with staging(path.parent) as folder:
            written = _write(disk, below, folder / path.name, options, progress)
            with _opened([folder / path.name], disk.size) as device:
                result = Over(device, below) if below else StackDisk(device)
                verify(disk, result, progress)
            publish_beside(folder, path)
        return replace(written, path=os.fspath(dst))


def import_folder(
    levels: Sequence[Level],
    folder: Path,
    *,
    part: Part | None = None,
    options: LayerOptions | None = None,
    checked: bool = False,
    progress: Progress | None = None,
) -> list[Written]:
    """Write each level as a layer into folder, with a configuration of them.

    Returns what was written, bottom first; raises as import_file() does, and
    UsageError when something is in the folder already, which is left alone.
    """
    refuse_filled(folder)
    options = options or LayerOptions()
    with staging(folder if folder.is_dir() else folder.parent) as staged:
        written = _Stacker(staged, part, options, checked, progress).run(levels)
        rows = [
            {"file": Path(w.path).name, "digest": w.digest, "size": w.size}
            for w in written
        ]
        change_config(staged / CONFIG_NAME, rows, None)
        publish(staged, folder)
    return [replace(w, path=str(folder / Path(w.path).name)) for w in written]


class _Stacker:
    """Writes layers one after the other, each over those before it."""

    def __init__(
        self,
        folder: Path,
        part: Part | None,
        options: LayerOptions,
        checked: bool,
        progress: Progress | None,
    ) -> None:
        self._folder = folder
        self._part = part
        self._options = options
        self._checked = checked
        self._progress = progress
        self._written: list[Written] = []

    def run(self, levels: Sequence[Level]) -> list[Written]:
        for level in levels:
            # Whole, where there is nothing below that the rest could be as.
            with level.open(not self._written) as whole:
                disk = _part_of(whole, self._part)
                if level is levels[-1]:
                    _refuse_empty(disk)
                if disk.size:
                    self._add(disk)
            if self._checked:
                self._check(level)
        return self._written

    def _add(self, disk: Disk) -> None:
        path = self._folder / f"layer{len(self._written)}.obd"
        with self._stack(disk.size) as below:
            self._written.append(
                _write(disk, below, path, self._options, self._progress)
            )

    @contextmanager
    def _stack(self, size: int) -> Iterator[Below | None]:
        """Yield the layers so far as a disk of size bytes, None without any."""
        if not self._written:
            yield None
            return
        paths = [Path(one.path) for one in self._written]
        with _opened(paths, size) as device:
            yield Below(device)

    def _check(self, level: Level) -> None:
        with level.open(True) as whole:
            disk = _part_of(whole, self._part)
            if disk.size:
                paths = [Path(one.path) for one in self._written]
                with _opened(paths) as device:
                    verify(disk, StackDisk(device), self._progress)


def _write(
    disk: Disk,
    below: Base | None,
    dst: str | os.PathLike[str],
    options: LayerOptions,
    progress: Progress | None,
) -> Written:
    def fill(layer: LayerWriter) -> None:
        write_difference(disk, below, layer, progress)

    return write_layer(dst, disk.size, fill, options)


def _opened(paths: Sequence[Path], size: int | None = None) -> Device:
    """Return a stack of layers, which are closed with it."""
    with ExitStack() as opened:
        layers: list[Layer] = []
        for path in paths:
            layers.append(open_layer(path))
            opened.callback(layers[-1].close)
        device = Device(layers, paths[-1].name, size=size)
        opened.pop_all()
    return device


def _part_of(disk: Disk, part: Part | None) -> Disk:
    return SliceDisk(disk, *part) if part else disk


def _refuse_empty(disk: Disk) -> None:
    if not disk.size:
        # A layer of no size takes that of the layer below.
        raise UsageError(f"{disk.name}: the disk is empty")
