# SPDX-License-Identifier: Apache-2.0
"""
targets - where a built image goes: a folder with a configuration, or a store.

    folder   DIR/layer-N.obd ..., DIR/image.json, and last DIR/config.v1.json
    store    a blob for each layer, the configuration, and last the manifest

Until the last step nobody finds a new image there. What makes the layers is
none of its business.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from obdengine.config import LayerFile
from obdengine.errors import UsageError
from obdengine.oci import words
from obdengine.oci.digest import DigestReader
from obdengine.oci.image import ImageManifest
from obdengine.oci.layout import LayoutStore
from obdengine.oci.manifest import Descriptor, Manifest, describe
from obdengine.oci.registry import RegistryStore
from obdengine.oci.store import Store
from obdengine.ops.folder import CONFIG_NAME, change_config, lower_row
from obdengine.source import FileSource
from obdengine.source.output import Output, make_folder
from obdengine.source.stream import SourceStream
from obdengine.source.writable import WritableFile

__all__ = [
    "FS_TYPE",
    "FolderTarget",
    "IMAGE_NAME",
    "Made",
    "NewFolder",
    "NewImage",
    "StoreTarget",
    "Target",
    "copy_file",
]

IMAGE_NAME = "image.json"
FS_TYPE = "ext4"
_COPY = 1 << 20


@dataclass(frozen=True)
class Made:
    """A layer of the new image.

    Attributes:
        digest: of the layer file.
        size: bytes of it.
        reused: whether it had been made before.
    """

    digest: str
    size: int
    reused: bool = False


def copy_file(src: Path, dst: Path, digest: str, size: int) -> None:
    """Copy a file that has this digest and size; raises DigestMismatch if not."""
    with SourceStream(FileSource(src)) as stream, Output(dst) as out:
        reader = DigestReader(stream, str(src), digest, size)
        while data := reader.read(_COPY):
            out.append(data)
        out.commit()


class Target(Protocol):
    """Where layers go, the lowest first, and then the image.

    Attributes:
        name: for people.
        folder: for temporary files, where there is room.
        tar: whether layers must be in the wrapper that registries need.
    """

    name: str
    folder: Path
    tar: bool

    def path(self, number: int) -> Path | None:
        """Return where layer number may be written; None: a temporary file."""

    def place(self, layer: Made) -> LayerFile | None:
        """Return where a layer is in the target already, None: it is not."""

    def add(self, number: int, layer: Made, file: Path) -> Path | None:
        """Take a layer from file; return where it stays, None: nowhere here."""

    def finish(self, image: ImageManifest | None, layers: Sequence[Made]) -> None:
        """Make the image of layers, like image, that everybody finds."""

    def abandon(self) -> None:
        """Remove what would be in the way of another attempt."""


class NewFolder:
    """A folder for an image that nobody sees before it is whole.

    Attributes:
        name: for people.
        folder: the same as a path.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder; raises UsageError when there is an image in it."""
        if (path / CONFIG_NAME).exists():
            raise UsageError(f"{path}: there is an image already")
        self.name = str(path)
        self.folder = path
        self._is_new = not path.exists()
        self._files: list[Path] = []
        make_folder(path)

    def abandon(self) -> None:
        """Remove the files, and the folder if it was made."""
        for file in self._files:
            file.unlink(missing_ok=True)
        if self._is_new:
            with suppress(OSError):
                self.folder.rmdir()

    def _publish(self, rows: list[dict[str, Any]]) -> None:
        """Write the configuration of the layers in rows; what is here stays."""
        change_config(self.folder / CONFIG_NAME, rows, None)
        self._files, self._is_new = [], False


class FolderTarget(NewFolder):
    """A folder that gets layer files and a configuration."""

    tar = False

    def __init__(self, path: Path) -> None:
        """Make the folder; raises UsageError when it cannot be a new one."""
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: is there and not a folder")
        super().__init__(path)

    def path(self, number: int) -> Path:
        """Return where layer number is, counted from 1."""
        path = self.folder / f"layer-{number}.obd"
        if path not in self._files:
            if path.exists():
                raise UsageError(
                    f"{path}: is there already",
                    hint="an attempt that was killed may have left it: remove it then",
                )
            self._files.append(path)
        return path

    def place(self, layer: Made) -> None:
        """Return None: the folder is new."""
        del layer

    def add(self, number: int, layer: Made, file: Path) -> Path:
        """Copy a layer, unless it was written in place."""
        path = self.path(number)
        if file != path:
            copy_file(file, path, layer.digest, layer.size)
        return path

    def finish(self, image: ImageManifest | None, layers: Sequence[Made]) -> None:
        """Write the configurations."""
        if image:
            path = self.folder / IMAGE_NAME
            self._files.append(path)
            WritableFile.create(path, image.config_raw)
        rows = [
            lower_row(
                self.path(number), self.folder, digest=layer.digest, size=layer.size
            )
            for number, layer in enumerate(layers, 1)
        ]
        self._publish(rows)


class NewImage:
    """An image on its way into a layout or a registry: blobs, and last a manifest.

    Attributes:
        name: for people.
        folder: for temporary files.
        store: that it goes to.
    """

    def __init__(
        self,
        store: Store,
        tag: str | None,
        folder: Path,
        *,
        subject: Descriptor | None = None,
    ) -> None:
        """Put the image into store as tag.

        folder: for temporary files. subject: make it refer to that image.
        """
        self.name = f"{store.name}:{tag}" if tag else store.name
        self.folder = folder
        self.store = store
        self._tag = tag
        self._subject = subject

    def abandon(self) -> None:
        """Leave blobs where they are: nothing names them, others may use them."""

    def _publish(
        self,
        image: ImageManifest,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        artifact_type: str,
    ) -> None:
        """Put configuration and manifest; artifact_type: if it refers to another."""
        raw = image.config.with_layers(list(diff_ids))
        config = describe(raw, words.OCI_CONFIG)
        self.store.put_blob(config, lambda: io.BytesIO(raw))
        manifest = Manifest(
            words.OCI_MANIFEST,
            config,
            list(layers),
            annotations=image.manifest.annotations,
            subject=self._subject,
            artifact_type=artifact_type if self._subject else "",
        )
        self.store.put_manifest(manifest.raw(), words.OCI_MANIFEST, self._tag)


class StoreTarget(NewImage):
    """An image in a layout or a registry, with overlaybd's annotations."""

    tar = True

    def __init__(
        self,
        store: Store,
        tag: str | None,
        folder: Path,
        *,
        subject: Descriptor | None = None,
        fs_type: str = FS_TYPE,
    ) -> None:
        """Put the image into store as tag; fs_type: what the layers hold."""
        super().__init__(store, tag, folder, subject=subject)
        self._fs_type = fs_type

    def path(self, number: int) -> None:
        """Return None: a store wants the digest first."""
        del number

    def place(self, layer: Made) -> LayerFile | None:
        """Return where the blob is, in a layout or a registry, if it is there."""
        if not self.store.has_blob(self._described(layer)):
            return None
        if isinstance(self.store, RegistryStore):
            url = f"{self.store.base}/blobs/{layer.digest}"
            return LayerFile(digest=layer.digest, size=layer.size, url=url)
        path = self._path_in_layout(layer)
        return LayerFile(path, layer.digest, layer.size) if path else None

    def add(self, number: int, layer: Made, file: Path) -> Path | None:
        """Put the blob; return its place when that is a file of this host."""
        del number
        self.store.put_blob(
            self._described(layer), lambda: SourceStream(FileSource(file))
        )
        return self._path_in_layout(layer)

    def finish(self, image: ImageManifest | None, layers: Sequence[Made]) -> None:
        """Put the configuration and the manifest."""
        assert image is not None
        blobs = [self._described(layer) for layer in layers]
        diff_ids = [layer.digest for layer in layers]
        self._publish(image, blobs, diff_ids, words.NATIVE_ARTIFACT)

    def _path_in_layout(self, layer: Made) -> Path | None:
        if isinstance(self.store, LayoutStore):
            return self.store.path_of(self._described(layer))
        return None

    def _described(self, layer: Made) -> Descriptor:
        annotations = {
            words.VERSION: words.VERSION_NATIVE,
            words.BLOB_DIGEST: layer.digest,
            words.BLOB_SIZE: str(layer.size),
            words.BLOB_FS_TYPE: self._fs_type,
        }
        return Descriptor(words.OCI_LAYER, layer.digest, layer.size, annotations)
