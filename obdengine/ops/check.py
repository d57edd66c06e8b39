# SPDX-License-Identifier: Apache-2.0
"""
check - every damage of an image that can be found by reading all of it.

A layer that cannot be opened has its blocks checked all the same. Only a
writable layer's log can be repaired: what a power cut has left in it is
stepped over anyway, and repair takes it out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from obdengine import source
from obdengine.blob import Progress, open_blob
from obdengine.config import LayerFile, UpperFiles
from obdengine.errors import BadIndex, Busy, FormatError
from obdengine.layer import Journal, Upper, open_upper
from obdengine.ops.held import holding
from obdengine.ops.layers import open_file

__all__ = ["Report", "check_image", "repair"]


@dataclass
class Report:
    """What was looked at, and what was wrong with it.

    Attributes:
        damage: one error for each thing that is wrong, layer by layer.
        checked: bytes of the layers' streams that were looked at.
        blocks: compressed blocks that were.
        layers: files that were.
        repaired: of the damage, what is mended now.
        left_over: files that an interrupted change had left, removed now.
        notes: what else there is to say of it, sentences.
    """

    damage: list[FormatError] = field(default_factory=list)
    checked: int = 0
    blocks: int = 0
    layers: int = 0
    repaired: list[FormatError] = field(default_factory=list)
    left_over: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_image(
    files: Sequence[LayerFile | str | os.PathLike[str]],
    progress: Progress | None = None,
    *,
    upper: UpperFiles | None = None,
) -> Report:
    """Check each layer file and the upper; progress counts bytes of the files.

    Raises SourceError when a file cannot be read.
    """
    report = Report()
    layers = [
        file if isinstance(file, LayerFile) else LayerFile(Path(file)) for file in files
    ]
    sizes = [sum(map(_size, layer.files)) for layer in layers]
    for number, layer in enumerate(layers):
        done, size = sum(sizes[:number]), sizes[number]
        _check_layer(layer, report, _share(progress, done, size, sum(sizes)))
        report.layers += 1
        if progress:
            progress(done + size, sum(sizes))
    if upper:
        _check_upper(upper, report)
    return report


def repair(config: Path) -> Report:
    """Take out of the log of a configuration's upper what does not count.

    The disk reads as before. Raises Busy when another process uses the upper,
    ReadOnly without one, and FormatError for what cannot be repaired.
    """
    report = Report()
    with holding(config) as held:
        report.left_over += held.left_over
        # Opening it has made such records padding already.
        report.repaired += _log_damage(held.upper)
        if report.repaired:
            held.upper.compact_index()
    return report


def _check_upper(files: UpperFiles, report: Report) -> None:
    report.layers += 1
    try:
        opened = open_upper(files.data, files.index, readonly=True, recover=False)
        with closing(opened) as upper:
            report.damage += _log_damage(upper)
            report.notes += _doubts(upper)
            report.checked += sum(f.size for f in (upper.data, upper.index) if f)
    except Busy as error:
        report.notes.append(f"not checked: {error.args[0]}")
    except FormatError as error:
        report.damage.append(error)


def _log_damage(upper: Upper) -> list[FormatError]:
    """Return what is wrong with a log; none of it counts for the disk."""
    facts, index = upper.facts(), upper.index
    name = index.name if index else upper.name
    rows = [
        (facts.empty, "records that are torn or were never written"),
        (facts.beyond_disk, "records that reach past the end of the disk"),
        (facts.dangling, "records whose data is not in the data file"),
        (upper.torn, "bytes of half a record at the end"),
    ]
    return [
        BadIndex(name, f"{number} {what}", hint="they do not count; --repair")
        for number, what in rows
        if number
    ]


def _doubts(upper: Upper) -> list[str]:
    if upper.journal:
        return _journal_notes(upper.journal)
    if not upper.guessed:
        return []
    return [
        f"{upper.name}: a sparse layer without a map file: by the holes of the file, "
        "what is beside a write of less than a block of the file system counts as "
        "written, and reads as zeros"
    ]


def _journal_notes(journal: Journal) -> list[str]:
    words = None
    if journal.kept:
        words = (
            f"holds {journal.kept} flushes that a crash has kept out of the layer's "
            "files: opening it for writing, or `--repair`, brings them there"
        )
    elif journal.is_past:
        words = (
            f"its {journal.found.entries} flushes do not count: the layer was written "
            "to by somebody who does not know of it"
        )
    elif journal.is_stray:
        words = (
            "not the journal of this layer, which does without one as long as it is "
            "there"
        )
    return [f"{journal.path}: {words}"] if words else []


def _check_layer(file: LayerFile, report: Report, progress: Progress) -> None:
    try:
        with closing(open_file(file)) as layer:
            report.damage += layer.check(progress)
            for blob in [layer.blob, *([layer.target] if layer.target else [])]:
                report.checked += blob.size
                report.blocks += blob.blocks
    except FormatError as error:
        report.damage += [error, *_blob_damage(file, error)]


def _blob_damage(file: LayerFile, known: FormatError) -> list[FormatError]:
    """Return what else is wrong in a file that is no good layer."""
    assert file.path is not None  # or it had not been opened
    try:
        with closing(open_blob(source.open(file.path))) as blob:
            return [error for error in blob.check() if str(error) != str(known)]
    except FormatError:
        return []  # it is the known one


def _share(progress: Progress | None, before: int, size: int, total: int) -> Progress:
    """Return the progress of one file as a share of all files'."""

    def show(done: int, of: int) -> None:
        if progress:
            progress(before + size * done // (of or 1), total)

    return show


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0  # opening it will say what is wrong
