# SPDX-License-Identifier: Apache-2.0
"""
snapshot - the upper of a disk in use becomes its top lower, a new one follows.

    the new upper's files are made, empty
    the old upper is sealed in place                     writes wait from here
    the configuration names the sealed file as a lower   one step
    its header says that it was sealed
    the device goes on with the new upper                                to here

A crash at any point leaves the image before or after: a sealed file that is
still named as the upper is opened as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from obdengine.config import ImageConfig, UpperFiles
from obdengine.device import Device
from obdengine.errors import ConfigError, LimitError, ObdError, ReadOnly
from obdengine.layer import Layer, Upper, create_upper, open_layer, open_upper
from obdengine.ops.folder import (
    change_config,
    lower_row,
    pair,
    remove_left_overs,
    rows_of,
    upper_after,
)
from obdengine.ops.in_use import judge_layers, judge_upper
from obdengine.ops.layers import MAX_STACK_ENTRIES
from obdengine.segment import MAX_LAYERS

__all__ = ["Snapshot", "snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot made.

    Attributes:
        config: the configuration of the image as it is now.
        layer: the file that was the upper.
        layers: how many there are now below the new upper.
        upper: the data file of the new one.
    """

    config: Path
    layer: Path
    layers: int
    upper: Path


def snapshot(
    device: Device,
    config: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
) -> Snapshot:
    """Seal the upper of device, which was opened from config, and go on.

    new: a configuration that names the present layers, the present upper's
    data file as the top one, and an upper whose files are made if they are
    missing, as overlaybd has it; config then says the same, and from now on
    each later change is made to both.

    Reads go on, writes wait for a moment. Raises ConfigError when config is
    not what device has or new not what it should be, LimitError for too many
    layers or entries, ReadOnly, Closed, and what writing raises; nothing has
    changed then.
    """
    job = _Snapshot(device, Path(config), Path(new) if new else None)
    device.exchange(job.change)
    if new:
        with suppress(ObdError):  # it is the caller's, and may be out of reach
            pair(job.config, Path(new))
    remove_left_overs(job.config)
    if job.late:
        raise job.late
    upper = device.upper
    assert upper is not None
    return Snapshot(job.config, job.sealed, len(device.layers), upper.data.path)


class _Snapshot:
    """One snapshot.

    Attributes:
        config: that which the device was opened from, and will be.
        sealed: the file that is a layer now.
        late: what failed when the change had been made.
    """

    def __init__(self, device: Device, config: Path, new: Path | None) -> None:
        self.config = config
        self.sealed = config
        self.late: ObdError | None = None
        self._device = device
        self._new = new

    @contextmanager
    def change(self) -> Iterator[tuple[list[Layer], Upper]]:
        """Make the layer and the new upper, and at the end the change."""
        upper = self._device.upper
        if upper is None or upper.readonly:
            raise ReadOnly(f"{self._device.name}: the image has no writable layer")
        _judge_limits(self._device, upper)
        files = self._judged(upper)
        with ExitStack() as undo:
            # Left-overs of a lost attempt have our names, and are replaced.
            if self._new is None or not files.data.exists():
                _create(files, upper, undo)
            fresh = _open_empty(files, upper, undo)
            undo.callback(upper.unseal)
            upper.seal()
            layer = open_layer(upper.data.path)
            undo.callback(layer.close)
            self.sealed = upper.data.path
            yield [*self._device.layers, layer], fresh
            self._settle(upper, files)
            undo.pop_all()

    def _judged(self, upper: Upper) -> UpperFiles:
        """Judge the configurations, and return where the new upper goes."""
        if self._new is None:
            present = ImageConfig.load(self.config)
            judge_layers(present, self._device, None)
            judge_upper(present, upper)
            assert present.upper is not None
            return upper_after(self.config, present.upper)
        wanted = ImageConfig.load(self._new)
        judge_layers(wanted, self._device, upper)
        if wanted.upper is None or wanted.upper.index is None:
            raise ConfigError(f"{self._new}: upper: data and index must be given")
        return wanted.upper

    def _settle(self, upper: Upper, files: UpperFiles) -> None:
        """Name the new upper in the configuration."""
        folder = self.config.parent
        if self._new is None:
            row = lower_row(upper.data.path, folder)
            rows = [*rows_of(self.config, folder), row]
        else:
            rows = rows_of(self._new, folder)
        left = [upper.index.path] if upper.index and not self._new else []
        try:
            change_config(self.config, rows, files, left_over=left)
            upper.finish()
        except ObdError as error:
            # It may be that it is in place and not durable yet: then there is
            # no way back.
            now = ImageConfig.load(self.config).upper
            if now is None or not now.data.samefile(files.data):
                raise
            self.late = error


def _judge_limits(device: Device, upper: Upper) -> None:
    if len(device.layers) >= MAX_LAYERS:
        raise LimitError(
            f"{device.name}: the image has {MAX_LAYERS} layers, there cannot be more",
            hint="merge some of them with `obd merge`",
        )
    entries = sum(layer.entries for layer in device.layers) + upper.facts().segments
    if entries > MAX_STACK_ENTRIES:
        raise LimitError(
            f"{device.name}: its layers would have {entries} index entries, at most "
            f"{MAX_STACK_ENTRIES} are accepted",
            hint="merge some of them with `obd merge`",
        )


def _create(files: UpperFiles, below: Upper, undo: ExitStack) -> None:
    create_upper(
        files.data,
        files.index,
        virtual_size=below.virtual_size,
        form=below.form,
        parent_uuid=below.uuid,
    )
    for file in (files.data, files.index):
        if file:
            undo.callback(file.unlink, missing_ok=True)


def _open_empty(files: UpperFiles, below: Upper, undo: ExitStack) -> Upper:
    """Open an upper that is to be on top of another one."""
    fresh = open_upper(files.data, files.index, options=below.options)
    undo.callback(fresh.close)
    if fresh.virtual_size != below.virtual_size or fresh.facts().segments:
        raise ConfigError(
            f"{files.data}: is there and not an empty layer of "
            f"{below.virtual_size} bytes"
        )
    return fresh
