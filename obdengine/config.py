# SPDX-License-Identifier: Apache-2.0
"""
config - which layer files make an image: overlaybd's config.v1.json.

A lower layer is looked for as `file`, then in `dir` as overlaybd.commit,
.commit or overlaybd.sealed, and else is the blob of its digest in a registry.
Nothing is opened but the configuration itself.
Keys that this release does not know are overlaybd's to add, and left alone;
keys that it knows must have the right type.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import ConfigError, SourceError, SourceMissing, UsageError
from obdengine.segment import MAX_LAYERS
from obdengine.service import Download, download_of
from obdengine.units import MIB

__all__ = [
    "LAYER_NAMES",
    "MAX_CONFIG_SIZE",
    "Image",
    "ImageConfig",
    "LayerFile",
    "Plans",
    "Lower",
    "Room",
    "UpperFiles",
    "begins_config",
    "resolve",
]

# A stack of 255 layers with every key set has well under 1 MiB.
MAX_CONFIG_SIZE = 4 * MIB

# What a folder may call its layer, in the order of preference.
LAYER_NAMES = ("overlaybd.commit", ".commit", "overlaybd.sealed")

# How a JSON object begins.
_OBJECT = re.compile(rb"\s*\{\s*[\"}]")

_TEXT, _NUMBER = (str,), (int,)
_LOWER_TYPES: dict[str, tuple[type, ...]] = {
    "file": _TEXT,
    "dir": _TEXT,
    "digest": _TEXT,
    "size": _NUMBER,
    "targetFile": _TEXT,
    "targetDigest": _TEXT,
    "gzipIndex": _TEXT,
}
_IMAGE_TYPES: dict[str, tuple[type, ...]] = {
    "repoBlobUrl": _TEXT,
    "lowers": (list,),
    "upper": (dict,),
    "obdengine": (dict,),
    "resultFile": _TEXT,
    "download": (dict,),
    "accelerationLayer": (bool,),
    "recordTracePath": _TEXT,
}
_UPPER_TYPES: dict[str, tuple[type, ...]] = {
    "index": _TEXT,
    "data": _TEXT,
    "target": _TEXT,
    "gzipIndex": _TEXT,
}
_ROOM_TYPES: dict[str, tuple[type, ...]] = {"maxSize": _NUMBER, "garbage": _NUMBER}
_JSON_NAMES = {
    str: "a text",
    int: "a number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


class Lower(NamedTuple):
    """A read-only layer as the configuration names it; "" and 0: not said."""

    file: str = ""
    dir: str = ""
    digest: str = ""
    size: int = 0
    target_file: str = ""
    target_digest: str = ""
    gzip_index: str = ""


@dataclass(frozen=True)
class LayerFile:
    """Where a read-only layer is; "", 0 and None: not said.

    A TurboOCI layer is an index over another file, its target: what holds
    the data is the original layer, as it is or compressed.

    Attributes:
        path: its file; None for one that only a registry has.
        digest: of the file, "sha256:...".
        size: bytes of the file.
        url: where a registry has it; only where path is None.
        target: the file of a TurboOCI layer's target.
        target_digest: of the target.
        target_url: where a registry has the target.
        gzip_index: the file that says where to start reading in the target.
        dir: the folder that may hold it, and may get it from the registry.
        where: what names the layer, for errors.
    """

    path: Path | None = None
    digest: str = ""
    size: int = 0
    url: str = ""
    target: Path | None = None
    target_digest: str = ""
    target_url: str = ""
    gzip_index: Path | None = None
    dir: Path | None = None
    where: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return str(self.path or self.url or self.digest)

    @property
    def is_turbo(self) -> bool:
        """Whether it is an index over another file."""
        return bool(self.target or self.target_digest)

    @property
    def files(self) -> list[Path]:
        """The files of this machine that it needs."""
        named = (self.path, self.target, self.gzip_index)
        return [path for path in named if path]


@dataclass(frozen=True)
class UpperFiles:
    """The files of a writable layer; index None: found by the data file."""

    data: Path
    index: Path | None


class Room(NamedTuple):
    """How much room a writable layer may take, in bytes; None: not said."""

    max_size: int | None = None
    garbage: int | None = None


class Plans(NamedTuple):
    """What else is done while an image is in use.

    Attributes:
        download: the object of that name, or None: as the service says.
        acceleration: the top layer, when it is not a layer but a trace.
        record: where a trace is recorded to, or None.
    """

    download: Download | None = None
    acceleration: LayerFile | None = None
    record: Path | None = None


class ImageConfig(NamedTuple):
    """A configuration that was read and judged.

    Attributes:
        path: the file that it came from; relative paths count from its folder.
        lowers: the read-only layers, bottom first.
        upper: the writable layer, or None.
        repo_blob_url: where a registry has the blobs, "" when not said.
        room: what `obdengine`, a key of our own, says of the upper.
        download: the object of that name, or None.
        accelerated: whether the top layer is a trace.
        record: where to record a trace to, or None.
    """

    path: Path
    lowers: tuple[Lower, ...]
    upper: UpperFiles | None
    repo_blob_url: str
    room: Room = Room()
    download: Download | None = None
    accelerated: bool = False
    record: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageConfig:
        """Read a configuration.

        Raises SourceMissing or SourceError when it cannot be read, ConfigError
        when it is not JSON or a key that matters has the wrong type.
        """
        where = Path(path)
        found = _parse(where)
        _judge_types(f"{where}: ", found, _IMAGE_TYPES)
        rows = found.get("lowers") or []
        if len(rows) > MAX_LAYERS:
            raise ConfigError(
                f"{where}: lowers: {len(rows)} layers, a stack has at most {MAX_LAYERS}"
            )
        lowers = [_lower(where, number, row) for number, row in enumerate(rows)]
        download = found.get("download")
        record = found.get("recordTracePath")
        return cls(
            where,
            tuple(lowers),
            _upper(where, found),
            found.get("repoBlobUrl") or "",
            _room(where, found),
            None if download is None else download_of(download, str(where)),
            bool(found.get("accelerationLayer")),
            where.parent / record if record else None,
        )

    def layer_files(self) -> list[LayerFile]:
        """Return where each layer is, bottom first.

        Raises ConfigError where nothing says that, or a layer is the
        configuration itself.
        """
        if not self._count() and not self.upper:
            raise ConfigError(f"{self.path}: lowers: the image has no layers")
        return [self._file_of(number) for number in range(self._count())]

    def plans(self) -> Plans:
        """Return what else is done while the image is in use."""
        top = self._acceleration() if self.accelerated and self.lowers else None
        return Plans(self.download, top, self.record)

    def _acceleration(self) -> LayerFile:
        """Return where the top layer is; as overlaybd has it, in a folder."""
        number = len(self.lowers) - 1
        lower, where = self.lowers[number], f"{self.path}: lowers[{number}]"
        folder = self.path.parent / lower.dir
        if lower.dir and _tried((folder / "trace").is_file, folder, f"{where}.dir"):
            return LayerFile(dir=folder, where=where)
        return self._file_of(number)

    def _count(self) -> int:
        """Return how many lowers are layers."""
        return len(self.lowers) - self.accelerated

    def _file_of(self, number: int) -> LayerFile:
        lower, where = self.lowers[number], f"{self.path}: lowers[{number}]"
        path = self._path_of(lower, where)
        target = self._named(lower.target_file, f"{where}.targetFile")
        if lower.gzip_index and not target and not lower.target_digest:
            raise ConfigError(f"{where}.gzipIndex: without targetFile or targetDigest")
        return LayerFile(
            path=path,
            digest=lower.digest,
            size=lower.size,
            url="" if path else self._url_of(lower.digest),
            target=target,
            target_digest=lower.target_digest,
            target_url=self._url_of(lower.target_digest),
            gzip_index=self._named(lower.gzip_index, f"{where}.gzipIndex"),
            dir=self.path.parent / lower.dir if lower.dir else None,
            where=where,
        )

    def _path_of(self, lower: Lower, where: str) -> Path | None:
        """Return the file of a layer, None for one that a registry has."""
        folder = self.path.parent
        if lower.file:
            return self._named(lower.file, f"{where}.file")
        if lower.dir:
            for name in LAYER_NAMES:
                candidate = folder / lower.dir / name
                if _tried(candidate.exists, candidate, f"{where}.dir"):
                    return self._judged(candidate, f"{where}.dir")
        if lower.digest:
            return None
        if lower.dir:
            raise ConfigError(
                f"{where}.dir: {folder / lower.dir} holds no layer: none of "
                + ", ".join(LAYER_NAMES)
            )
        raise ConfigError(f"{where}: neither file, dir nor digest is given")

    def _named(self, name: str, where: str) -> Path | None:
        return self._judged(self.path.parent / name, where) if name else None

    def _url_of(self, digest: str) -> str:
        if not digest or not self.repo_blob_url:
            return ""
        return f"{self.repo_blob_url.rstrip('/')}/{digest}"

    def _judged(self, candidate: Path, where: str) -> Path:
        same = _tried(lambda: candidate.samefile(self.path), candidate, where)
        if same:
            raise ConfigError(f"{where}: the configuration names itself as a layer")
        return candidate


def _tried(call: Callable[[], bool], path: Path, where: str) -> bool:
    """Return call(), or say that path, named at where, cannot be looked at."""
    try:
        return call()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{where}: {path}: {why}") from error


class Image(NamedTuple):
    """What an image is made of: layers, bottom first, and an upper."""

    layers: list[LayerFile]
    upper: UpperFiles | None = None
    room: Room = Room()
    repo_blob_url: str = ""
    plans: Plans = Plans()
    is_config: bool = False

    @property
    def files(self) -> list[Path]:
        """The files of this machine that the layers need, bottom first."""
        return [path for layer in self.layers for path in layer.files]


def resolve(image: Sequence[str | os.PathLike[str]]) -> Image:
    """Return what image means: one configuration, or layer files.

    Raises UsageError when it is neither, and what ImageConfig raises.
    """
    paths = [Path(word) for word in image]
    if not paths:
        raise UsageError("an image needs a configuration or at least one layer")
    configs = [path for path in paths if _is_config(path)]
    if not configs:
        return Image([LayerFile(path, where=str(path)) for path in paths])
    if len(paths) > 1:
        raise UsageError(
            f"{configs[0]}: a configuration is an image of its own",
            hint="name either one configuration, or layer files",
        )
    found = ImageConfig.load(configs[0])
    return Image(
        found.layer_files(),
        found.upper,
        found.room,
        found.repo_blob_url,
        found.plans(),
        is_config=True,
    )


def begins_config(start: bytes) -> bool:
    """Tell whether a file that starts like this is meant as a configuration.

    A disk may start with a brace too, but not with an object's first key.
    """
    return _OBJECT.match(start) is not None


def _is_config(path: Path) -> bool:
    """Tell whether path is meant as a configuration: by its name, or its start."""
    if path.suffix == ".json":
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as opened:
            return begins_config(opened.read(64))
    except (OSError, ValueError):
        return False  # opening it as a layer will say what is wrong


def _parse(path: Path) -> dict[str, Any]:
    found = _json(path, _read(path))
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: the configuration is not a JSON object")
    return found


def _json(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def _read(path: Path) -> bytes:
    try:
        # A pipe would be waited for, a device may never end.
        if path.exists() and not path.is_file():
            raise SourceError(f"{path}: not a regular file")
        with path.open("rb") as opened:
            text = opened.read(MAX_CONFIG_SIZE + 1)
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if len(text) > MAX_CONFIG_SIZE:
        raise ConfigError(
            f"{path}: larger than {MAX_CONFIG_SIZE} bytes, not a configuration"
        )
    return text


def _judge_types(
    prefix: str, found: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]
) -> None:
    """Raise ConfigError unless every known key is null or of its type."""
    for key, wanted in types.items():
        value = found.get(key)
        if value is None:
            continue
        if not isinstance(value, wanted) or (
            isinstance(value, bool) and bool not in wanted
        ):
            name = _JSON_NAMES[wanted[0]]
            raise ConfigError(f"{prefix}{key}: must be {name}, not {value!r:.60}")


def _upper(path: Path, found: Mapping[str, Any]) -> UpperFiles | None:
    row = found.get("upper") or {}
    _judge_types(f"{path}: upper.", row, _UPPER_TYPES)
    data, index = row.get("data") or "", row.get("index") or ""
    if row.get("target") or row.get("gzipIndex"):
        raise ConfigError(f"{path}: upper: this version does not write TurboOCI layers")
    if not data and index:
        raise ConfigError(f"{path}: upper.data: not given, but upper.index is")
    if not data:
        return None
    folder = path.parent
    return UpperFiles(folder / data, folder / index if index else None)


def _room(path: Path, found: Mapping[str, Any]) -> Room:
    row = found.get("obdengine") or {}
    _judge_types(f"{path}: obdengine.", row, _ROOM_TYPES)
    for key in _ROOM_TYPES:
        if (row.get(key) or 0) < 0:
            raise ConfigError(f"{path}: obdengine.{key}: cannot be less than nothing")
    return Room(row.get("maxSize"), row.get("garbage"))


def _lower(path: Path, number: int, row: Any) -> Lower:
    where = f"{path}: lowers[{number}]"
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: must be an object, not {row!r:.60}")
    _judge_types(f"{where}.", row, _LOWER_TYPES)
    return Lower(
        file=row.get("file") or "",
        dir=row.get("dir") or "",
        digest=row.get("digest") or "",
        size=row.get("size") or 0,
        target_file=row.get("targetFile") or "",
        target_digest=row.get("targetDigest") or "",
        gzip_index=row.get("gzipIndex") or "",
    )
