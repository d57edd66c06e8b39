# SPDX-License-Identifier: Apache-2.0
"""uppers - disks that are nothing but a writable layer, for those who need one."""

from __future__ import annotations

from pathlib import Path

from obdengine.config import Image
from obdengine.layer import UpperOptions
from obdengine.ops.folder import make_or_reopen


def empty_disk(
    folder: Path, size: int, form: str, options: UpperOptions | None = None
) -> Path:
    """Make an empty disk of size bytes in a new folder; return its configuration."""
    folder.mkdir()
    below = Image([])
    return make_or_reopen(folder, below, virtual_size=size, form=form, options=options)
