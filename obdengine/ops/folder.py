# SPDX-License-Identifier: Apache-2.0
"""
folder - a writable image in a folder of its own: config, upper, sealed uppers.

    DIR/config.v1.json    the whole image: lowers, upper, and its room
    DIR/upper-N.data      the writable layer; sealed ones stay as lowers
    DIR/upper-N.index

The configuration is replaced in one step, so a crash leaves the old image or
the new one. Files that it does not name are left-overs, and are written over.
Whoever changes it has the lock of the upper that it names.

An image whose files somebody else has named keeps them where they are; new
ones are beside them, and nothing that is there is written over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from obdengine.config import Image, ImageConfig, LayerFile, Room, UpperFiles
from obdengine.errors import ConfigError, ObdError, UsageError
from obdengine.layer import UpperOptions, create_upper, map_path
from obdengine.ops.layers import open_file
from obdengine.source.writable import WritableFile, alone_in

__all__ = [
    "CONFIG_NAME",
    "change_config",
    "lower_row",
    "make_or_reopen",
    "next_upper",
    "remove_left_overs",
    "pair",
    "room_of",
    "row_of",
    "rows_of",
    "tell_the_other",
    "upper_after",
]

CONFIG_NAME = "config.v1.json"
_UPPER_NAME = re.compile(r"upper-(\d+)\.data")
_UPPER_FILE = re.compile(r"upper-\d+\.(data|index)")

# In a lower's row: what counts from the folder of the configuration.
_PATH_KEYS = ("file", "dir", "targetFile", "gzipIndex")

_ACCELERATED = "accelerationLayer"  # the last of lowers is a trace

_OWN_KEY = "obdengine"
_REMOVE = "remove"  # in _OWN_KEY: names of files that a change has left over
_SAME = "same"  # in _OWN_KEY: another configuration of the image


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
    if not path.exists():
        if image.upper:
            raise UsageError(
                f"{image.upper.data}: the image has a writable layer already",
                hint="open it without a folder for another one",
            )
        size, uuid = _size_and_uuid(image.layers)
        with alone_in(folder):
            if not path.exists():
                _make(path, image, virtual_size or size, uuid, form, options)
                return path
    _judge_same(ImageConfig.load(path), image)
    return path


def _make(
    path: Path,
    image: Image,
    virtual_size: int,
    parent_uuid: str | None,
    form: str,
    options: UpperOptions | None,
) -> None:
    upper = next_upper(path.parent)
    create_upper(
        upper.data,
        upper.index,
        virtual_size=virtual_size,
        form=form,
        parent_uuid=parent_uuid,
    )
    lowers = [row_of(file) for file in image.layers]
    room, repository = Room(*_asked(options)), image.repo_blob_url
    change_config(path, lowers, upper, room, repo_blob_url=repository)


# -- Where the next upper goes


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


def upper_after(config: Path, present: UpperFiles) -> UpperFiles:
    """Return where the upper goes that follows the present one of config."""
    folder, data = present.data.parent, present.data
    if config.name == CONFIG_NAME and _is_own(data, config.parent):
        return next_upper(config.parent)
    stem = re.sub(r"-\d+$", "", data.stem)
    for number in count(2):
        files = [folder / f"{stem}-{number}{end}" for end in (".data", ".index")]
        if not any(file.exists() for file in [*files, map_path(files[0])]):
            break
    return UpperFiles(*files)


# -- Configurations


def lower_row(file: Path, folder: Path | None = None, **more: Any) -> dict[str, Any]:
    """Return what a configuration in folder says of a layer file.

    A file of that folder is named by its name alone, so that the folder can
    be moved; folder None: no file is.
    """
    return {"file": _name_in(folder, file), **more}


def row_of(layer: LayerFile, folder: Path | None = None) -> dict[str, Any]:
    """Return what a configuration in folder says of a layer, as lower_row()."""
    files = {
        "file": layer.path,
        "targetFile": layer.target,
        "gzipIndex": layer.gzip_index,
        "dir": None if layer.path else layer.dir,
    }
    row = {key: _name_in(folder, file) for key, file in files.items() if file}
    words = {
        "digest": layer.digest,
        "size": layer.size,
        "targetDigest": layer.target_digest,
    }
    return row | {key: word for key, word in words.items() if word}


def rows_of(config: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the layers of config as a configuration in folder has to say them."""
    found = _read(config)
    rows: list[dict[str, Any]] = found.get("lowers") or []
    rows = rows[:-1] if found.get(_ACCELERATED) else rows
    if config.parent.resolve() == folder.resolve():
        return rows
    return [
        {
            key: str((config.parent / value).resolve())
            if key in _PATH_KEYS and value
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


def change_config(
    path: Path,
    lowers: Sequence[dict[str, Any]],
    upper: UpperFiles | None,
    room: Room | None = None,
    *,
    like: Path | None = None,
    left_over: Sequence[Path] = (),
    repo_blob_url: str = "",
    accelerated: bool = False,
) -> None:
    """Give a configuration other lowers and upper, durably and in one step.

    Every other key that it has stays; a new one has those of like. room None:
    as it was. left_over: files of the old upper, for remove_left_overs().
    repo_blob_url: where a registry has the lowers, "" as it was. accelerated:
    the last of lowers is no layer, but what is read first.
    """
    found = _read(path) or (_unpaired(_read(like)) if like else {})
    if repo_blob_url:
        found["repoBlobUrl"] = repo_blob_url
    found["lowers"] = [*lowers, *_first_read(found, path.exists(), accelerated)]
    found["upper"] = _upper_object(path.parent, upper) if upper else {}
    own = _own(found)
    if room is not None:
        keys = {"maxSize": room.max_size, "garbage": room.garbage}
        own = {k: v for k, v in keys.items() if v is not None}
    names = [f.name for f in left_over if _is_own(f, path.parent)]
    own.pop(_REMOVE, None)
    if names:
        own[_REMOVE] = names
    found.pop(_OWN_KEY, None)
    if own:
        found[_OWN_KEY] = own
    _write(path, found)


def _first_read(
    found: dict[str, Any], same: bool, accelerated: bool
) -> list[dict[str, Any]]:
    """Return the lower that is no layer, to be put above others, if there is one.

    found is the configuration as it was, of the same place or another one,
    where the file would not be found.
    """
    if accelerated:
        found[_ACCELERATED] = True
    elif found.get(_ACCELERATED) and same:
        return [found["lowers"][-1]]
    else:
        found.pop(_ACCELERATED, None)
    return []


def remove_left_overs(path: Path) -> list[Path]:
    """Remove what the last change of a configuration left over; return that.

    Only what is named as this room names files, and is not in use. The other
    configuration of the image is told of the change before.
    """
    tell_the_other(path)
    found = _read(path)
    names = (found.get(_OWN_KEY) or {}).pop(_REMOVE, None)
    if names is None:
        return []
    image, folder = ImageConfig.load(path), path.parent
    used = {folder / lower.file for lower in image.lowers}
    if image.upper:
        used |= {image.upper.data, image.upper.index or image.upper.data}
    names = [str(name) for name in names] if isinstance(names, list) else []
    files = [folder / name for name in names if _UPPER_FILE.fullmatch(name)]
    removed = [file for file in files if file not in used and _removed(file)]
    if not found[_OWN_KEY]:
        del found[_OWN_KEY]
    _write(path, found)
    return removed


def pair(path: Path, other: Path) -> None:
    """Let two configurations of an image say the same from now on.

    Whichever is changed, the other one is next. A pair that either was in
    before ends. Raises what reading and writing raise.
    """
    if path.resolve() == other.resolve():
        return
    for one, partner in ((path, other), (other, path)):
        found = _read(one)
        found[_OWN_KEY] = {**_own(found), _SAME: str(partner.resolve())}
        _write(one, found)


def tell_the_other(path: Path) -> None:
    """Change the other configuration of an image as path was, if there is one.

    It must name path in turn. What cannot be done is left: it then names an
    upper that was sealed or removed, and is refused.
    """
    with suppress(ObdError):
        name = _own(_read(path)).get(_SAME)
        other = Path(name) if isinstance(name, str) else path
        if _own(_read(other)).get(_SAME) != str(path.resolve()):
            return
        found, there = ImageConfig.load(path), ImageConfig.load(other)
        if (found.layer_files(), found.upper) != (there.layer_files(), there.upper):
            change_config(other, rows_of(path, other.parent), found.upper)


def _unpaired(found: dict[str, Any]) -> dict[str, Any]:
    own = _own(found)
    own.pop(_SAME, None)
    return {**found, _OWN_KEY: own}


def _own(found: dict[str, Any]) -> dict[str, Any]:
    return dict(found.get(_OWN_KEY) or {})


def _removed(file: Path) -> bool:
    """Remove a file; that it could not be done is no reason to do nothing else."""
    try:
        file.unlink()
    except OSError:
        return False
    return True


def room_of(room: Room, asked: UpperOptions | None = None) -> UpperOptions:
    """Return the options that a configuration's room means; asked goes before."""
    wanted = Room(*_asked(asked))
    max_size = room.max_size if wanted.max_size is None else wanted.max_size
    garbage = room.garbage if wanted.garbage is None else wanted.garbage
    return UpperOptions(max_size=max_size, garbage=garbage)


def _read(path: Path) -> dict[str, Any]:
    """Return all that a configuration says; ImageConfig has judged it."""
    if not path.exists():
        return {}
    ImageConfig.load(path)
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _write(path: Path, found: dict[str, Any]) -> None:
    WritableFile.create(path, json.dumps(found, indent=2).encode(), b"\n")


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


def _name_in(folder: Path | None, file: Path) -> str:
    inside = folder is not None and file.parent.resolve() == folder.resolve()
    return file.name if inside else str(file.resolve())


def _is_own(file: Path, folder: Path) -> bool:
    inside = file.parent.resolve() == folder.resolve()
    return inside and bool(_UPPER_FILE.fullmatch(file.name))


def _judge_same(found: ImageConfig, image: Image) -> None:
    """Raise ConfigError unless found is image with more layers on top."""
    files = found.layer_files()
    for number, wanted in enumerate(image.layers):
        if number >= len(files) or not _is_same(files[number], wanted):
            has = files[number].name if number < len(files) else "nothing"
            raise ConfigError(
                f"{found.path}: lowers[{number}]: {has} is not {wanted.name}",
                hint="the folder holds a writable layer over another image",
            )


def _is_same(one: LayerFile, other: LayerFile) -> bool:
    if one.path and other.path:
        return one.path.samefile(other.path)
    return one.path is other.path and one.digest == other.digest


def _size_and_uuid(files: Sequence[LayerFile]) -> tuple[int, str | None]:
    """Return the size of a stack's disk in bytes, and the uuid of its top."""
    uuid = None
    for number, file in enumerate(reversed(files)):
        layer = open_file(file)
        layer.close()
        uuid = layer.uuid if number == 0 else uuid
        if layer.virtual_size:
            return layer.virtual_size, uuid
    return 0, uuid
