# SPDX-License-Identifier: Apache-2.0
"""
ext4 - file systems on a disk of ours, made and filled as an ordinary user.

No mount, no loop, no root: libext2fs works on the device. Nothing here knows
of images, manifests or compression; a layer is the bytes of its tar.
"""

from obdengine.ext4.apply import Applied, ApplyOptions, Mapped, apply_layer
from obdengine.ext4.filesystem import Entry, FileSystem, open_file_system
from obdengine.ext4.make import MakeOptions, make_file_system
from obdengine.ext4.volume import Facts, Run

__all__ = [
    "Applied",
    "ApplyOptions",
    "Entry",
    "Facts",
    "FileSystem",
    "MakeOptions",
    "Mapped",
    "Run",
    "apply_layer",
    "make_file_system",
    "open_file_system",
]
