# SPDX-License-Identifier: Apache-2.0
"""
merge - a run of an image's layers as one, in whose place it reads the same.

Zeroed sectors stay where they hide something below the run. Neither the
layers nor what is above and below them are touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from obdengine.blob import Progress
from obdengine.config import Image, resolve
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.layer import Layer, LayerWriter
from obdengine.ops.contents import Piece, contents
from obdengine.ops.difference import Budget
from obdengine.ops.disks import STREAM
from obdengine.ops.folder import (
    change_config,
    lower_row,
    row_of,
    rows_of,
    tell_the_other,
)
from obdengine.ops.held import holding
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.ops.layers import open_layers
from obdengine.units import SECTOR

__all__ = ["judged_end", "merge"]


class _Run(NamedTuple):
    """The layers to be merged, and what is around them.

    Attributes:
        alone: they by themselves.
        below: what they are on; None: nothing.
        whole: both.
    """

    alone: Device
    below: Device | None
    whole: Device


def merge(
    image: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    dst: str | os.PathLike[str],
    *,
    first: int = 0,
    end: int | None = None,
    options: LayerOptions | None = None,
    config: Path | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the layers of image from number first up to end as one layer to dst.

    Numbers count from 0 at the bottom; end None: up to the top one. An upper
    is never part of it. options.uuid None: that of the topmost of them;
    parent_uuid None: that which the bottom one has. config: write a
    configuration there that has the new layer in their place, and the upper,
    if image has one; it may be image itself.

    Raises UsageError for a run that is none, Busy when config is image and
    another process uses its upper, and what reading and writing raise; dst is
    untouched then.
    """
    names = [image] if isinstance(image, (str, os.PathLike)) else list(image)
    found = resolve(names)
    end = judged_end(len(found.layers), first, end)
    if config and os.fspath(dst) == STREAM:
        raise UsageError("a configuration cannot name standard output as a layer")
    with ExitStack() as opened:
        if config and found.upper:
            # So that nobody goes on with the configuration that was.
            opened.enter_context(holding(Path(names[0]), readonly=True))
        layers = open_layers(found.layers, opened)
        run = _open_run(layers, first, end, bool(found.upper), opened)
        options = _named(options or LayerOptions(), layers[first:end])
        fill = _filler(run, progress)
        written = write_layer(dst, run.alone.size, fill, options)
        if config:
            _write_config(names, found, config, written, first, end)
    return written


def judged_end(count: int, first: int, end: int | None) -> int:
    """Return the end of a run of layers; raises UsageError when there is none."""
    end = count if end is None else end
    if not 0 <= first < end <= count:
        raise UsageError(
            f"there are no layers from {first} up to {end}",
            hint=f"the image has {count}, and counting starts with 0",
        )
    return end


def _open_run(
    layers: Sequence[Layer], first: int, end: int, covered: bool, opened: ExitStack
) -> _Run:
    """Put the layers of the run, and those below, on top of each other."""
    size = _size(layers, end, covered)

    def stack(part: Sequence[Layer]) -> Device:
        return opened.enter_context(Device(part, layers[end - 1].name, size=size))

    below = stack(layers[:first]) if first else None
    return _Run(stack(layers[first:end]), below, stack(layers[:end]))


def _size(layers: Sequence[Layer], end: int, covered: bool) -> int:
    """Return how large the new layer's disk must be, in bytes.

    Where a layer above says how large the disk is, what lies past the end of
    the layers here may still be on it.
    """
    size = next((s.virtual_size for s in reversed(layers[:end]) if s.virtual_size), 0)
    if covered or any(layer.virtual_size for layer in layers[end:]):
        used = (s.segments[-1].end for s in layers[:end] if s.entries)
        size = max(size, max(used, default=0) * SECTOR)
    return size


def _named(options: LayerOptions, run: Sequence[Layer]) -> LayerOptions:
    """Keep the chain of uuids as it is, unless they were given."""
    if options.uuid is None:
        options = replace(options, uuid=run[-1].uuid)
    if options.parent_uuid is None:
        options = replace(options, parent_uuid=run[0].parent_uuid)
    return options


def _filler(run: _Run, progress: Progress | None) -> Callable[[LayerWriter], None]:
    def fill(layer: LayerWriter) -> None:
        budget = Budget(layer, run.alone.size)
        for piece in contents(
            run.alone,
            granule=budget.granule,
            whole=lambda: run.whole,
            progress=progress,
        ):
            if piece.data is not None:
                layer.data(piece.start, piece.data)
            elif run.below and _hides(piece, run.below):
                layer.zero(piece.start, piece.length)

    return fill


def _hides(piece: Piece, below: Device) -> bool:
    """Tell whether zeros hide anything that is stored."""
    extents = below.extents(piece.start * SECTOR, piece.length * SECTOR)
    return any(extent.data for extent in extents)


def _write_config(
    names: Sequence[str | os.PathLike[str]],
    found: Image,
    config: Path,
    written: Written,
    first: int,
    end: int,
) -> None:
    """Write a configuration with the new layer in place of the run."""
    more = {"digest": written.digest, "size": written.size}
    row = lower_row(Path(written.path), config.parent, **more)
    source = Path(names[0])
    if len(names) == 1 and found.files != [source]:
        rows, like = rows_of(source, config.parent), source
    else:
        rows, like = [row_of(file, config.parent) for file in found.layers], None
    rows[first:end] = [row]
    change_config(config, rows, found.upper, like=like)
    tell_the_other(config)
