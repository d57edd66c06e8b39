# SPDX-License-Identifier: Apache-2.0
"""
compact - a writable layer without its garbage.

Append form: the live data goes, in the order of the disk, into new files,
which the configuration then names, and the old ones are removed. Sparse form:
what is stored for nothing becomes holes. While a disk is served only the
index is written anew: its garbage is written over as it goes along.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from obdengine.blob import Progress
from obdengine.config import UpperFiles, resolve
from obdengine.device import Device
from obdengine.errors import ReadOnly
from obdengine.layer import Upper, create_upper, open_upper
from obdengine.ops.contents import contents
from obdengine.ops.folder import (
    change_config,
    remove_left_overs,
    rows_of,
    upper_after,
)
from obdengine.ops.held import Held, holding
from obdengine.units import SECTOR

__all__ = ["Compacted", "compact", "compact_live"]


@dataclass(frozen=True)
class Compacted:
    """What the files of a writable layer took, and what they take now.

    Attributes:
        path: the data file, as it is now.
        before: bytes on the host's disk of both files.
        after: likewise.
        records_before: records in the index file.
        records_after: likewise.
    """

    path: Path
    before: int
    after: int
    records_before: int
    records_after: int


def compact(
    image: str | os.PathLike[str], *, progress: Progress | None = None
) -> Compacted:
    """Compact the upper of image, a configuration.

    In append form there must be room for the live data once more. A crash
    leaves the old files or the new ones in use. Raises Busy when another
    process uses the upper, ReadOnly without one, and what reading and writing
    raise; the image is as it was then.
    """
    config = Path(image)
    with holding(config) as held:
        before, records = _taken(held.upper), held.upper.facts().records
        if held.upper.form == "sparse":
            held.upper.trim()
            held.upper.compact_index()
            after, left = _taken(held.upper), held.upper.facts().records
            return Compacted(held.files.data, before, after, records, left)
        files = upper_after(config, held.files)
        after, left = _copy(held, files, progress)
        old = _paths(held.upper)
        try:
            rows = rows_of(config, config.parent)
            change_config(config, rows, files, left_over=old)
        except BaseException:
            # What failed may be that the change is not durable yet.
            if resolve([config]).upper == held.files:
                _remove(_paths_of(files))
            raise
        _remove(old)
    remove_left_overs(config)
    return Compacted(files.data, before, after, records, left)


def compact_live(device: Device) -> Compacted:
    """Write the index of a device's upper anew, while it is in use.

    Data that was overwritten needs no compaction: it is written over, and
    long pieces of it are holes already. Raises ReadOnly, SourceError.
    """
    upper = device.upper
    if upper is None:
        raise ReadOnly(f"{device.name}: the image has no writable layer")
    before, records = _taken(upper), upper.facts().records
    device.compact_index()
    after, left = _taken(upper), upper.facts().records
    return Compacted(upper.data.path, before, after, records, left)


def _copy(held: Held, files: UpperFiles, progress: Progress | None) -> tuple[int, int]:
    """Write the live data of the upper to files; return bytes and records."""
    old = held.upper
    with ExitStack() as opened:
        opened.callback(lambda: _remove(_paths_of(files)))
        create_upper(
            files.data,
            files.index,
            virtual_size=old.virtual_size,
            uuid=old.uuid,
            parent_uuid=old.parent_uuid,
        )
        new = open_upper(files.data, files.index)
        target = opened.enter_context(Device([], new.name, new))
        for piece in contents(held.alone, progress=progress):
            offset, size = piece.start * SECTOR, piece.length * SECTOR
            if piece.data is not None:
                target.pwrite(offset, piece.data)
            elif held.layers:
                target.write_zeroes(offset, size)
        target.flush()
        new.compact_index()
        taken = _taken(new), new.facts().records
        opened.pop_all()
    target.close()
    return taken


def _paths(upper: Upper) -> list[Path]:
    return [file.path for file in (upper.data, upper.index) if file]


def _paths_of(files: UpperFiles) -> list[Path]:
    return [path for path in (files.data, files.index) if path]


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _taken(upper: Upper) -> int:
    """Return the bytes that the files of an upper take on the host's disk."""
    return sum(path.stat().st_blocks * 512 for path in _paths(upper))
