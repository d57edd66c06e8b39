# SPDX-License-Identifier: Apache-2.0
"""
segment - the words of an LSMT index: a run of sectors and where it is stored.

One 16-byte entry on disk is one Segment here (overlaybd's SegmentMapping):

    lo = start | length << 50            sectors of the disk
    hi = moffset | zeroed << 55 | tag << 56     sectors of the layer's stream

Data of a TurboOCI layer may be in its target: then TARGET_MOFFSET is set in
moffset, and the rest counts sectors of the target's stream.

In a merged index the tag byte is the number of the layer, 0 at the bottom.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ENTRY_SIZE",
    "MAX_ENTRIES",
    "MAX_LAYERS",
    "MAX_LENGTH",
    "PADDING_START",
    "TARGET_MOFFSET",
    "Segment",
]

ENTRY_SIZE = 16
MAX_LENGTH = (1 << 14) - 1
PADDING_START = (1 << 50) - 1
TARGET_MOFFSET = 1 << 54

# What overlaybd's reader accepts; its writer checks neither.
MAX_ENTRIES = 1_000_000
MAX_LAYERS = 255


class Segment(NamedTuple):
    """A run of sectors: start and length on the disk, moffset in a layer."""

    start: int
    length: int
    moffset: int
    zeroed: bool = False
    layer: int = 0

    @property
    def end(self) -> int:
        """The first sector after the run."""
        return self.start + self.length

    @property
    def in_target(self) -> bool:
        """Whether the data is in the target of a TurboOCI layer."""
        return bool(self.moffset & TARGET_MOFFSET)
