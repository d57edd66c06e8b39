# SPDX-License-Identifier: Apache-2.0
"""
pull - an image out of a store into a folder: layer files, and a configuration.

    DIR/layer-N.obd            a layer, counted from 1, the lowest
    DIR/layer-N/...            the files of a TurboOCI layer, and its target
    DIR/acceleration.tar       what is read first, if the image says that
    DIR/manifest.json          the documents of the image, as they were
    DIR/image.json
    DIR/config.v1.json         last: where it is, everything is

A layer that is there, from an attempt before, is verified and not fetched again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdengine import oci
from obdengine.config import LayerFile
from obdengine.errors import DigestMismatch, SourceError, SourceMissing, UsageError
from obdengine.oci import words
from obdengine.oci.digest import DigestReader, digest_of
from obdengine.oci.manifest import Descriptor
from obdengine.oci.registry import RegistryStore
from obdengine.oci.store import Progress, Store
from obdengine.ops.blobs_at_once import for_all
from obdengine.ops.folder import CONFIG_NAME, change_config, row_of
from obdengine.ops.local_store import IMAGE_NAME, MANIFEST_NAME
from obdengine.ops.resolve import acceleration_layer, block_layers, is_turbo
from obdengine.ops.transfer import target_of
from obdengine.ops.turbo_blob import unpacked
from obdengine.source import FileSource
from obdengine.source.output import Output, make_folder
from obdengine.source.stream import SourceStream
from obdengine.source.writable import WritableFile
from obdengine.units import MIB

__all__ = ["Pulled", "pull_image"]

_TARGET, _FIRST = "target", "acceleration.tar"


@dataclass
class Pulled:
    """What was pulled.

    Attributes:
        config: the configuration.
        digest: of the manifest.
        files: the layers, bottom first.
        fetched, there: blobs that were fetched, and found here.
        bytes_fetched: of those that were.
    """

    config: Path
    digest: str
    files: list[LayerFile]
    fetched: int = 0
    there: int = 0
    bytes_fetched: int = 0


def pull_image(
    store: Store,
    which: str | None,
    folder: Path,
    *,
    platform: oci.Platform | None = None,
    parallel: int = 4,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch the image that which, a tag or digest, is in store, into folder.

    platform: which image of an index, None for this machine's. Raises
    UsageError when another image is in folder, Unsupported for one that is not
    of a block device, what the store raises, SourceError.
    """
    image = oci.resolve_image(store, which, platform=platform)
    layers = block_layers(store.name, image)
    _judge_folder(folder, image)
    pulling = _Pulling(store, folder, layers, acceleration_layer(image))
    blobs = list({blob.digest: blob for blob in pulling.blobs}.values())
    for_all(blobs, pulling.fetch, parallel=parallel, progress=progress)
    WritableFile.create(folder / MANIFEST_NAME, image.raw)
    WritableFile.create(folder / IMAGE_NAME, image.config_raw)
    files = pulling.named()[: len(layers)]
    config = folder / CONFIG_NAME
    base = f"{store.base}/blobs" if isinstance(store, RegistryStore) else ""
    rows = [_relative(row_of(file, folder), folder) for file in pulling.named()]
    accelerated = len(rows) > len(files)
    change_config(config, rows, None, repo_blob_url=base, accelerated=accelerated)
    pulled = pulling.pulled
    return Pulled(config, image.descriptor.digest, files, *pulled)


def _relative(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Name files below folder from there, so that it can be moved."""
    start = f"{folder.resolve()}/"
    return {
        key: value.removeprefix(start) if isinstance(value, str) else value
        for key, value in row.items()
    }


def _judge_folder(folder: Path, image: oci.ImageManifest) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is there and not a folder")
    if not (folder / CONFIG_NAME).exists():
        return
    manifest = folder / MANIFEST_NAME
    known = digest_of(manifest.read_bytes()) if manifest.exists() else None
    if known != image.descriptor.digest:
        raise UsageError(f"{folder}: another image is there")


class _Pulling:
    """The layers of one image on their way into a folder."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        layers: Sequence[Descriptor],
        first: Descriptor | None,
    ) -> None:
        self._store, self._folder, self._layers = store, folder, layers
        self._first = first
        self._lock = threading.Lock()
        self._counts = [0, 0, 0]
        # Where each blob goes; one may be in an image twice.
        self._paths: dict[str, list[Path]] = {}
        self.blobs: list[Descriptor] = []
        for number, layer in enumerate(layers):
            place = folder / f"layer-{number + 1}"
            if is_turbo(layer):
                target = target_of(store, layer)
                if target is None:
                    raise SourceMissing(f"{store.name}: the target of layers[{number}]")
                self._want(target, place / _TARGET)
            self._want(layer, place if is_turbo(layer) else place.with_suffix(".obd"))
        if first:
            self._want(first, folder / _FIRST)

    @property
    def pulled(self) -> tuple[int, int, int]:
        """Blobs fetched, blobs that were there, bytes fetched."""
        fetched, there, size = self._counts
        return fetched, there, size

    def _want(self, blob: Descriptor, path: Path) -> None:
        self.blobs.append(blob)
        self._paths.setdefault(blob.digest, []).append(path)

    def fetch(self, blob: Descriptor, show: Progress) -> None:
        for path in self._paths[blob.digest]:
            fetched = self._fetch_to(blob, path, show)
            with self._lock:
                self._counts[0 if fetched else 1] += 1
                self._counts[2] += blob.size if fetched else 0

    def _fetch_to(self, blob: Descriptor, path: Path, show: Progress) -> bool:
        make_folder(path.parent)
        if is_turbo(blob):
            unpacked(self._store, blob, path)
            return True
        if _is_there(path, blob):
            return False
        with self._store.blob(blob) as reader, Output(path) as out:
            while data := reader.read(MIB):
                out.append(data)
                show(reader.position, blob.size)
            out.commit()
        return True

    def named(self) -> list[LayerFile]:
        """Return the layers that are here, and last what is read first, if any."""
        found = [self._file(number) for number in range(len(self._layers))]
        if self._first:
            path, first = self._folder / _FIRST, self._first
            found.append(LayerFile(path, first.digest, first.size))
        return found

    def _file(self, number: int) -> LayerFile:
        layer = self._layers[number]
        place = self._folder / f"layer-{number + 1}"
        if not is_turbo(layer):
            path = place.with_suffix(".obd")
            return LayerFile(path, layer.digest, layer.size)
        files = unpacked(self._store, layer, place)
        return LayerFile(
            files.meta,
            target=place / _TARGET,
            target_digest=layer.annotations[words.TARGET_DIGEST],
            gzip_index=files.gzip_index,
        )


def _is_there(path: Path, blob: Descriptor) -> bool:
    """Tell whether a file is the blob; what is not is written over."""
    try:
        source = FileSource(path)
    except SourceError:
        return False
    with SourceStream(source) as stream:
        if source.size != blob.size:
            return False
        try:
            DigestReader(stream, str(path), blob.digest, blob.size).finish()
        except DigestMismatch:
            return False
    return True
