# SPDX-License-Identifier: Apache-2.0
"""
put - a tar or a directory tree on top of an image, as one more layer.

Without an image below, it makes the file system too. Memory does not grow
with the tree, and the layer appears when it is whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from obdengine import ext4
from obdengine.config import Image, LayerFile
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.build import DEFAULT_SIZE
from obdengine.ops.disks import STREAM
from obdengine.ops.feed import LayerFeed, OpenBlob
from obdengine.ops.host_fs import EXT4, HostMake, apply_on_host, kind_of
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.ops.layers import open_layers
from obdengine.ops.stacking import Stacking

__all__ = ["put_on_top"]

_USUAL = ext4.MakeOptions()


def put_on_top(
    open_tar: OpenBlob,
    dst: str | os.PathLike[str],
    *,
    name: str,
    base: Image | None = None,
    size: int | None = None,
    make: ext4.MakeOptions | HostMake = _USUAL,
    options: LayerOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Written, list[str]]:
    """Write what a tar, compressed or not, changes in base as a layer to dst.

    dst "-" is standard output. size and make are for a new file system, where
    base is None. progress is told the bytes of the tar that were taken. Also
    returns sentences that a person should read. Raises UsageError, BadTar,
    LimitError when the disk is too small, and what reading and writing raise;
    dst is untouched then.
    """
    below = _layers_of(base) if base else []
    notes: list[str] = []

    def fill(disk: Device) -> None:
        if not below and isinstance(make, ext4.MakeOptions):
            ext4.make_file_system(disk, make)
        with LayerFeed(open_tar, None, name, progress) as feed:
            notes.extend(_apply(disk, feed, stack.folder, None if below else make))
            feed.finish()

    chosen = size or (_size_of(below) if below else DEFAULT_SIZE)
    with Stacking(_folder_of(dst), chosen) as stack:
        for lower in below:
            stack.put(lower)
        layer = options or LayerOptions()
        future = stack.grow(fill, Path(dst), layer, lambda written: written)
        return future.result(), notes


def _apply(
    disk: Device,
    feed: LayerFeed,
    folder: Path,
    make: ext4.MakeOptions | HostMake | None,
) -> list[str]:
    """Apply a tar to a disk, whose file system is there or is to be made."""
    if isinstance(make, HostMake):
        return apply_on_host(disk, feed, make.kind, folder, make).notes
    kind = EXT4 if make else kind_of(disk)
    if kind != EXT4:
        return apply_on_host(disk, feed, kind, folder).notes
    return ext4.apply_layer(disk, feed, name=feed.name).notes


def _layers_of(base: Image) -> list[LayerFile]:
    if base.upper:
        raise UsageError(
            f"{base.upper.data}: the base has a writable layer",
            hint="commit it, or name the layers below it",
        )
    return base.layers


def _folder_of(dst: str | os.PathLike[str]) -> Path:
    """Return where there is room for temporary files."""
    if os.fspath(dst) == STREAM:
        return Path(tempfile.gettempdir())
    return Path(dst).resolve().parent


def _size_of(layers: Sequence[LayerFile]) -> int:
    """Return the bytes of the disk that layers make."""
    with ExitStack() as opened:
        device = Device(open_layers(layers, opened), layers[-1].name)
        opened.callback(device.close)
        return device.size
