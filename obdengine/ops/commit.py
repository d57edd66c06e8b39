# SPDX-License-Identifier: Apache-2.0
"""
commit - the writable layer of an image as a read-only one; seal - in place.

A committed layer is dense and in the order of the disk. Only the writable
layer is read, and the same writes give the same bytes, in append form and in
sparse form, however they were cut. What is zero becomes zeroed where a layer
is below, and nothing where none is.
"""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from obdengine.blob import Progress
from obdengine.config import LayerFile, resolve
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.layer import LayerWriter
from obdengine.ops.contents import contents
from obdengine.ops.difference import Budget
from obdengine.ops.disks import STREAM
from obdengine.ops.folder import (
    change_config,
    lower_row,
    remove_left_overs,
    rows_of,
)
from obdengine.ops.held import Held, holding
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.ops.layers import open_file, open_layers

__all__ = ["Sealed", "commit", "seal"]


@dataclass(frozen=True)
class Sealed:
    """A writable layer that is none any more.

    Attributes:
        path: its data file, a layer now.
        virtual_size: bytes of the disk.
        entries: of its index.
        uuid: of the layer, or None.
        parent_uuid: likewise, of the layer below.
    """

    path: Path
    virtual_size: int
    entries: int
    uuid: str | None
    parent_uuid: str | None


def commit(
    image: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    options: LayerOptions | None = None,
    config: Path | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the upper of image, a configuration, as a layer to dst.

    "-" is standard output. options.uuid None: a new one; parent_uuid None:
    that of the layer below. config: write a configuration of the layers below
    and the new one there; it may be image itself, which then has no upper any
    more. The upper's files stay.

    Raises Busy when another process writes to the upper, ReadOnly without
    one, LimitError for more index entries than can be read, and what reading
    and writing raise; dst is untouched then.
    """
    if config and os.fspath(dst) == STREAM:
        raise UsageError("a configuration cannot name standard output as a layer")
    with holding(Path(image), readonly=True) as held, ExitStack() as opened:
        options = _named(options or LayerOptions(), held.layers)
        fill = _filler(held, opened, progress)
        written = write_layer(dst, held.alone.size, fill, options)
        if config:
            _write_config(held, config, written)
    return written


def seal(image: str | os.PathLike[str]) -> Sealed:
    """Make the upper of image, a configuration, its top lower, without copying.

    Raises Busy, ReadOnly and LimitError as commit() does; the image is as it
    was then.
    """
    config = Path(image)
    with holding(config) as held:
        upper = held.upper
        try:
            upper.seal()
            rows = rows_of(config, config.parent)
            row = lower_row(held.files.data, config.parent)
            left = [upper.index.path] if upper.index else []
            change_config(config, [*rows, row], None, left_over=left)
        except BaseException:
            # What failed may be that the change is not durable yet.
            if resolve([config]).upper:
                upper.unseal()
            raise
        upper.finish()
        sealed = Sealed(
            held.files.data,
            upper.virtual_size,
            upper.facts().segments,
            upper.uuid,
            upper.parent_uuid,
        )
    remove_left_overs(config)
    return sealed


def _named(options: LayerOptions, layers: list[LayerFile]) -> LayerOptions:
    """Return options with the uuids that were left open."""
    if options.uuid is None:
        options = replace(options, uuid=str(uuids.uuid4()))
    if options.parent_uuid is None and layers:
        top = open_file(layers[-1])
        top.close()
        options = replace(options, parent_uuid=top.uuid)
    return options


def _filler(
    held: Held, opened: ExitStack, progress: Progress | None
) -> Callable[[LayerWriter], None]:
    """Return what gives a layer all that the upper has."""
    kept: list[Device] = []

    def whole() -> Device:
        """Return the image; few uppers are so cut up that it is needed."""
        if not kept:
            layers = open_layers(held.layers, opened)
            kept.append(Device(layers, held.alone.name, held.upper))
        return kept[0]

    def fill(layer: LayerWriter) -> None:
        budget = Budget(layer, held.alone.size)
        for piece in contents(
            held.alone, granule=budget.granule, whole=whole, progress=progress
        ):
            if piece.data is not None:
                layer.data(piece.start, piece.data)
            elif held.layers:
                layer.zero(piece.start, piece.length)

    return fill


def _write_config(held: Held, config: Path, written: Written) -> None:
    more = {"digest": written.digest, "size": written.size}
    row = lower_row(Path(written.path), config.parent, **more)
    rows = rows_of(held.config, config.parent)
    change_config(config, [*rows, row], None, like=held.config)
