# SPDX-License-Identifier: Apache-2.0
"""create - a new writable image in a folder, of any size."""

from __future__ import annotations

from pathlib import Path

from obdengine.config import Image
from obdengine.errors import UsageError
from obdengine.layer import UpperOptions
from obdengine.ops.folder import CONFIG_NAME, make_or_reopen, next_upper
from obdengine.ops.resize import resize

__all__ = ["create"]


def create(
    folder: Path,
    image: Image,
    *,
    size: int | None = None,
    form: str = "append",
    options: UpperOptions | None = None,
) -> Path:
    """Make a writable layer over image in folder; return the configuration.

    size: bytes of the disk, None for that of image. What a layer has past the
    end of a smaller one above it reads as zeros. Raises UsageError when there
    is an image in folder, image is nothing and size None, or size would cut
    off data; and what reading and writing raise. The folder is as it was then.
    """
    if (folder / CONFIG_NAME).exists():
        raise UsageError(f"{folder}: there is an image already")
    if not image.layers and size is None:
        raise UsageError("a new disk needs a size")
    files = next_upper(folder)
    new = size if not image.layers else None
    config = make_or_reopen(folder, image, virtual_size=new, form=form, options=options)
    try:
        if size is not None and image.layers:
            resize(config, size)
    except BaseException:
        for path in (config, files.index, files.data):
            if path:
                path.unlink(missing_ok=True)
        raise
    return config
