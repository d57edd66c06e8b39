# SPDX-License-Identifier: Apache-2.0
"""
disks - writable images for the tests of writing, and what is on them.

The lower layer is written by the twins, so that the engine cannot be wrong in
both places in the same way.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.nbd import programs
from tests.running import Export
from tests.twins import invent, writer
from tests.twins.writer import Run

MIB = 1 << 20
FORMS = ["append", "sparse"]


def lower(path: Path, size: int) -> bytes:
    """Write a layer of a disk of that size, and return what it reads as.

    Every second 64 KiB has data.
    """
    chance, disk, runs = Random(size), bytearray(size), []
    for start in range(0, size // 512 - 128, 256):
        runs.append(Run(start, invent.sectors(chance, 128)))
        disk[start * 512 : (start + 128) * 512] = runs[-1].data
    path.write_bytes(writer.lsmt(runs, size))
    return bytes(disk)


def content(export: Export) -> bytes:
    """Return all the bytes that an export has."""
    return programs.output("nbdcopy", export.uri, "-")


def upper_data(folder: Path) -> Path:
    """Return the data file of the upper that a folder has now."""
    found = json.loads((folder / "config.v1.json").read_text())
    return folder / found["upper"]["data"]
