# SPDX-License-Identifier: Apache-2.0
"""
merge_live - lowers of a disk in use become one, under whoever uses it.

    the new layer's file is made, from files of our own     all goes on
    the configuration names it in their place, one step     writes wait from here
    the device goes on with it                              to here

A crash at any point leaves the image before or after, which read the same. The
old files stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from obdengine.config import ImageConfig, LayerFile, resolve
from obdengine.device import Device
from obdengine.errors import Busy, ObdError, UsageError
from obdengine.layer import Layer, Upper, open_layer
from obdengine.ops.folder import change_config, lower_row, rows_of, tell_the_other
from obdengine.ops.in_use import judge_layers, judge_upper
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.ops.merge import judged_end, merge

__all__ = ["merge_live"]


def merge_live(
    device: Device,
    config: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    first: int = 0,
    end: int | None = None,
    options: LayerOptions | None = None,
    alone: AbstractContextManager[object] | None = None,
) -> Written:
    """Merge layers of device, which was opened from config, while it is in use.

    first, end and options are those of merge(). dst must not be there. alone
    is entered when the layer is written, for the change itself: nobody else
    may change the image then; before it he may.

    Raises ConfigError when config is not what device has, Busy when the
    layers became others meanwhile or reads are recorded, which goes by the
    numbers of layers, UsageError for a run that is none, and what merge()
    raises. The image is as it was then.
    """
    path, target = Path(config), Path(dst)
    if os.path.lexists(target):
        raise UsageError(f"{target}: is there already")
    files = resolve([path]).layers
    end = judged_end(len(files), first, end)
    written = merge(path, target, first=first, end=end, options=options)
    run = _Run(first, end, files[first:end])
    with alone or nullcontext():
        job = _Merge(device, path, target, run, written)
        try:
            device.exchange(job.change)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        tell_the_other(path)
    if job.late:
        raise job.late
    return written


class _Run(NamedTuple):
    """What was merged: from number first up to end, and what they were."""

    first: int
    end: int
    files: list[LayerFile]


class _Merge:
    """One change.

    Attributes:
        late: what failed when the change had been made.
    """

    def __init__(
        self, device: Device, config: Path, target: Path, run: _Run, written: Written
    ) -> None:
        self.late: ObdError | None = None
        self._device = device
        self._config = config
        self._target = target
        self._run = run
        self._written = written

    @contextmanager
    def change(self) -> Iterator[tuple[list[Layer], Upper | None]]:
        """Open the new layer, and at the end name it."""
        device, run = self._device, self._run
        found = self._judged()
        with ExitStack() as undo:
            layer = open_layer(self._target)
            undo.callback(layer.close)
            above = device.layers[run.end :]
            yield [*device.layers[: run.first], layer, *above], device.upper
            self._settle(found)
            undo.pop_all()

    def _judged(self) -> ImageConfig:
        found = ImageConfig.load(self._config)
        judge_layers(found, self._device, None)
        if self._device.upper:
            judge_upper(found, self._device.upper)
        if found.layer_files()[self._run.first : self._run.end] != self._run.files:
            raise Busy(f"{self._config}: the layers were changed meanwhile")
        if self._device.recorder:
            raise Busy(f"{self._device.name}: reads are recorded by layer")
        return found

    def _settle(self, found: ImageConfig) -> None:
        folder, run, written = self._config.parent, self._run, self._written
        rows = rows_of(self._config, folder)
        more = {"digest": written.digest, "size": written.size}
        rows[run.first : run.end] = [lower_row(self._target, folder, **more)]
        try:
            change_config(self._config, rows, found.upper)
        except ObdError as error:
            # It may be that it is in place and not durable yet: then there is
            # no way back.
            now = ImageConfig.load(self._config).layer_files()
            if len(now) != len(rows) or now[run.first].path != self._target:
                raise
            self.late = error
