# SPDX-License-Identifier: Apache-2.0
"""
turbo_targets - where TurboOCI layers go: a folder with a configuration, or a store.

    folder   DIR/layer-N.ext4.fs.meta, DIR/layer-N.gzip.meta, the originals
             unless they are in a layout, and last DIR/config.v1.json
    store    a blob with both for each layer, the originals, the manifest
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from obdengine.config import LayerFile
from obdengine.errors import UsageError
from obdengine.oci import words
from obdengine.oci.image import ImageManifest
from obdengine.oci.layout import LayoutStore
from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import Store
from obdengine.ops.folder import row_of
from obdengine.ops.targets import NewFolder, NewImage
from obdengine.ops.turbo_blob import TurboFiles
from obdengine.ops.turbo_package import META_NAME, described, package
from obdengine.source import FileSource
from obdengine.source.output import Output
from obdengine.source.stream import SourceStream, sha256_of
from obdengine.source.writable import WritableFile

__all__ = ["Piece", "TurboFolder", "TurboStore", "TurboTarget"]

_COPY = 1 << 20

_ENDS = {
    words.OCI_LAYER_GZIP: ".tar.gz",
    words.DOCKER_LAYER_GZIP: ".tar.gz",
    words.OCI_LAYER_ZSTD: ".tar.zst",
    words.DOCKER_LAYER_ZSTD: ".tar.zst",
}


@dataclass(frozen=True)
class Piece:
    """A layer of the new image.

    Attributes:
        digest: of its file, or of the blob that has it.
        size: bytes of that.
        index_size: bytes of the index over the original, 0 for none.
        target_digest: of the original layer.
        target_size: bytes of that.
        reused: whether it had been made before.
    """

    digest: str
    size: int
    index_size: int
    target_digest: str
    target_size: int
    reused: bool = False


class TurboTarget(Protocol):
    """Where layers go, the lowest first, and then the image.

    Attributes:
        name: for people.
        folder: for temporary files, where there is room.
        pieces: the layers so far.
        kept: files of theirs that stay on this machine, by digest.
    """

    name: str
    folder: Path
    pieces: list[Piece]
    kept: dict[str, Path]

    @property
    def store(self) -> Store | None:
        """The store that the layers go to, if it is one."""

    def original(self, number: int, store: Store, layer: Descriptor) -> Path:
        """Return a file with an original layer, which stays where it is."""

    def add(
        self,
        number: int,
        layer: Descriptor,
        original: Path,
        files: TurboFiles,
        *,
        reused: bool = False,
    ) -> LayerFile:
        """Take a layer; return how it is read while the next ones are made."""

    def finish(self, image: ImageManifest) -> None:
        """Make the image, which everybody finds from now on."""

    def abandon(self) -> None:
        """Remove what would be in the way of another attempt."""


class TurboFolder(NewFolder):
    """A folder that gets the layers and a configuration."""

    store = None

    def __init__(self, path: Path) -> None:
        """Make the folder; raises UsageError when there is an image in it."""
        super().__init__(path)
        self.pieces: list[Piece] = []
        self.kept: dict[str, Path] = {}
        self._lowers: list[LayerFile] = []

    def original(self, number: int, store: Store, layer: Descriptor) -> Path:
        """Return the blob of a layout, or a copy in the folder."""
        place = _place(store, layer)
        if place:
            return place
        path = self._path(number, _ENDS.get(layer.media_type, ".tar"))
        _copy(store, layer, path)
        return path

    def add(
        self,
        number: int,
        layer: Descriptor,
        original: Path,
        files: TurboFiles,
        *,
        reused: bool = False,
    ) -> LayerFile:
        """Take a layer."""
        meta = self._path(number, f".{META_NAME}")
        digest, size = self._keep(files.meta, meta)
        index, index_size = None, 0
        if files.gzip_index:
            index = self._path(number, ".gzip.meta")
            _, index_size = self._keep(files.gzip_index, index)
        lower = LayerFile(
            path=meta,
            digest=digest,
            size=size,
            target=original,
            target_digest=layer.digest,
            gzip_index=index,
            where=str(meta),
        )
        self.pieces.append(
            Piece(digest, size, index_size, layer.digest, layer.size, reused)
        )
        self._lowers.append(lower)
        return lower

    def _keep(self, file: Path, path: Path) -> tuple[str, int]:
        """Move a file to path; return its digest and its size."""
        shutil.move(file, path)
        digest = _digest(path)
        self.kept[digest] = path
        return digest, path.stat().st_size

    def finish(self, image: ImageManifest) -> None:
        """Write the configurations."""
        WritableFile.create(self._path(0, ""), image.config_raw)
        rows = [row_of(lower, self.folder) for lower in self._lowers]
        self._publish(rows)

    def _path(self, number: int, end: str) -> Path:
        path = self.folder / (f"layer-{number}{end}" if number else "image.json")
        if path.exists():
            raise UsageError(f"{path}: is there already")
        self._files.append(path)
        return path


class TurboStore(NewImage):
    """An image in a layout or a registry, with overlaybd's annotations.

    The original layers go there too: they are what is read.
    """

    def __init__(
        self,
        store: Store,
        tag: str | None,
        folder: Path,
        *,
        subject: Descriptor | None = None,
    ) -> None:
        """Put the image into store as tag; the words are NewImage's."""
        super().__init__(store, tag, folder, subject=subject)
        self.pieces: list[Piece] = []
        self.kept: dict[str, Path] = {}
        self._copies: list[Path] = []  # for as long as layers are made
        self._layers: list[Descriptor] = []
        self._diff_ids: list[str] = []

    def original(self, number: int, store: Store, layer: Descriptor) -> Path:
        """Put an original layer, and return a file with it."""
        place = _place(store, layer)
        path = place or self.folder / f"obd-{os.getpid()}-original-{number}"
        if place is None:
            self._copies.append(path)
            _copy(store, layer, path)
        self.store.put_blob(layer, lambda: SourceStream(FileSource(path)))
        kept = _place(self.store, layer)
        if kept and place is None:
            path.unlink()
        return kept or path

    def add(
        self,
        number: int,
        layer: Descriptor,
        original: Path,
        files: TurboFiles,
        *,
        reused: bool = False,
    ) -> LayerFile:
        """Put a layer as a blob that registries take."""
        meta, index = files
        blob = meta.with_suffix(".blob")
        packed = package(blob, meta, index)
        descriptor = described(packed, layer)
        self.store.put_blob(descriptor, lambda: SourceStream(FileSource(blob)))
        blob.unlink()
        if place := _place(self.store, descriptor):
            self.kept[packed.digest] = place
        index_size = index.stat().st_size if index else 0
        words_of = (packed.digest, packed.size, index_size, layer.digest, layer.size)
        self.pieces.append(Piece(*words_of, reused))
        self._layers.append(descriptor)
        self._diff_ids.append(packed.diff_id)
        return LayerFile(
            path=meta, target=original, gzip_index=index, where=f"layer {number}"
        )

    def finish(self, image: ImageManifest) -> None:
        """Put the configuration and the manifest."""
        self._publish(image, self._layers, self._diff_ids, words.TURBO_ARTIFACT)
        self._remove_copies()

    def abandon(self) -> None:
        """Leave blobs where they are; what was copied goes."""
        self._remove_copies()

    def _remove_copies(self) -> None:
        for path in self._copies:
            path.unlink(missing_ok=True)


def _place(store: Store, layer: Descriptor) -> Path | None:
    """Return where a layer is, when that is a file of this machine."""
    return store.path_of(layer) if isinstance(store, LayoutStore) else None


def _copy(store: Store, layer: Descriptor, path: Path) -> None:
    with store.blob(layer) as blob, Output(path) as out:
        while data := blob.read(_COPY):
            out.append(data)
        out.commit()


def _digest(path: Path) -> str:
    with closing(FileSource(path)) as source:
        return f"sha256:{sha256_of(source)}"
