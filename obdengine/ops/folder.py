# SPDX-License-Identifier: Apache-2.0
"""
folder - a writable image in a folder of its own: config, upper, sealed uppers.

    DIR/config.v1.json    the whole image: lowers, upper, and its room
    DIR/upper-N.data      the writable layer; sealed ones stay as lowers
    DIR/upper-N.index

The configuration is replaced in one step, so a crash leaves the old image or
the new one. Files that it does not name are left-overs, and are written over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from obdengine.config import Image, ImageConfig, Room, UpperFiles
from obdengine.errors import ConfigError, SourceError, UsageError
from obdengine.layer import UpperOptions, create_upper, open_layer
from obdengine.source.output import Output

__all__ = ["CONFIG_NAME", "change_config", "make_or_reopen", "next_upper", "room_of"]

CONFIG_NAME = "config.v1.json"
_UPPER_NAME = re.compile(r"upper-(\d+)\.data")


def make_or_reopen(
    folder: Path,
    image: Image,
    *,
    virtual_size: int | None = None,
    form: str = "append",
    options: UpperOptions | None = None,
) -> Path:
    """Return the configuration of the writable image in folder; make it if new.

    virtual_size in bytes: of a new disk, None for that of image. Raises
    ConfigError when the folder holds a writable layer over another image,
    UsageError when image has one already, SourceError.
    """
    path = folder / CONFIG_NAME
    if path.exists():
        _judge_same(ImageConfig.load(path), image)
        return path
    if image.upper:
        raise UsageError(
            f"{image.upper.data}: the image has a writable layer already",
            hint="open it without a folder for another one",
        )
    size, uuid = _size_and_uuid(image.layers)
    upper = next_upper(folder)
    _make_folder(folder)
    create_upper(
        upper.data,
        upper.index,
        virtual_size=virtual_size or size,
        form=form,
        parent_uuid=uuid,
    )
    lowers = [{"file": str(file.resolve())} for file in image.layers]
    change_config(path, lowers, upper, Room(*_asked(options)))
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}", errno=error.errno) from error


def next_upper(folder: Path) -> UpperFiles:
    """Return where the next upper of a folder goes, after all that were named.

    The configuration says what is in use, so a number that only a lost
    attempt had is used again.
    """
    path, used = folder / CONFIG_NAME, [0]
    if path.exists():
        found = ImageConfig.load(path)
        names = [Path(lower.file).name for lower in found.lowers]
        names += [found.upper.data.name] if found.upper else []
        matches = (_UPPER_NAME.fullmatch(name) for name in names)
        used += [int(match[1]) for match in matches if match]
    stem = f"upper-{max(used) + 1}"
    return UpperFiles(folder / f"{stem}.data", folder / f"{stem}.index")


def change_config(
    path: Path,
    lowers: Sequence[dict[str, Any]],
    upper: UpperFiles | None,
    room: Room | None = None,
) -> None:
    """Give a configuration other lowers and upper, durably and in one step.

    Every other key that it has stays. room None: as it was.
    """
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found["lowers"] = list(lowers)
    found["upper"] = _upper_object(path.parent, upper) if upper else {}
    if room is not None:
        keys = {"maxSize": room.max_size, "garbage": room.garbage}
        found["obdengine"] = {k: v for k, v in keys.items() if v is not None}
    with Output(path) as out:
        out.append(json.dumps(found, indent=2).encode() + b"\n")
        out.commit()


def room_of(room: Room) -> UpperOptions:
    """Return the options that a configuration's room means."""
    usual = UpperOptions()
    garbage = usual.garbage if room.garbage is None else room.garbage
    return UpperOptions(max_size=room.max_size, garbage=garbage)


def _asked(options: UpperOptions | None) -> tuple[int | None, int | None]:
    return (options.max_size, options.garbage) if options else (None, None)


def _upper_object(folder: Path, upper: UpperFiles) -> dict[str, str]:
    """Name files of the folder by their names alone, so that it can be moved."""
    keys = {"index": upper.index, "data": upper.data}
    return {
        key: file.name if file.parent == folder else str(file.resolve())
        for key, file in keys.items()
        if file
    }


def _judge_same(found: ImageConfig, image: Image) -> None:
    """Raise ConfigError unless found is image with more layers on top."""
    files = found.layer_files()
    for number, wanted in enumerate(image.layers):
        if number >= len(files) or not files[number].samefile(wanted):
            has = files[number] if number < len(files) else "nothing"
            raise ConfigError(
                f"{found.path}: lowers[{number}]: {has} is not {wanted}",
                hint="the folder holds a writable layer over another image",
            )


def _size_and_uuid(files: Sequence[Path]) -> tuple[int, str | None]:
    """Return the size of a stack's disk in bytes, and the uuid of its top."""
    uuid = None
    for number, file in enumerate(reversed(files)):
        layer = open_layer(file)
        layer.close()
        uuid = layer.uuid if number == 0 else uuid
        if layer.virtual_size:
            return layer.virtual_size, uuid
    return 0, uuid
