# SPDX-License-Identifier: Apache-2.0
"""
local_store - an image of layer files as a store, so that it can be pushed.

A registry and the runtimes that pull from it take a layer for a tarball. One
that has no tar wrapper gets it on the way; its digest is that of the result. Where a
pulled image's own documents lie beside the configuration, and fit its layers,
they are used as they are: what was pulled can be pushed unchanged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from obdengine import oci
from obdengine.blob import tar
from obdengine.config import Image, LayerFile
from obdengine.device import Device
from obdengine.device.trace import unpack_trace
from obdengine.errors import (
    ConfigError,
    ObdError,
    OutOfRange,
    ReadOnly,
    SourceMissing,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.digest import DigestReader, digest_of
from obdengine.oci.manifest import (
    Configuration,
    Descriptor,
    Manifest,
    canonical,
    describe,
)
from obdengine.oci.store import OpenStream, Progress
from obdengine.ops.layers import open_layers
from obdengine.ops.traces import pack_acceleration
from obdengine.ops.turbo_package import described, package
from obdengine.source import FileSource, MemorySource, Source
from obdengine.source.joined import JoinedSource
from obdengine.source.stream import SourceStream, sha256_of

__all__ = ["IMAGE_NAME", "MANIFEST_NAME", "LocalStore"]

# Beside a configuration: the documents of the image that it was pulled from.
IMAGE_NAME, MANIFEST_NAME = "image.json", "manifest.json"

_EXT4_MAGIC_AT, _EXT4_MAGIC = 1024 + 56, b"\x53\xef"


class LocalStore:
    """One image of layer files; it is only read (see Store).

    Attributes:
        home: the host and the repository that may have the layers, or "".
    """

    def __init__(
        self, image: Image, name: str, client: oci.Client, folder: Path | None = None
    ) -> None:
        """Look at the layers of image, and at the documents in folder.

        client: for layers that only a registry has; it stays the caller's.
        Raises UsageError for a writable image, and for a TurboOCI layer whose
        files are not here, and what reading raises.
        """
        if image.upper:
            raise UsageError(
                f"{name}: the image has a writable layer",
                hint="make it an ordinary one first: obd commit, or obd seal",
            )
        self.name = name
        url = image.repo_blob_url
        self.home = urlsplit(url).netloc, oci.repository_of(f"{url.rstrip('/')}/")
        self._made = ExitStack()
        self._layers = [self._layer(file, client) for file in image.layers]
        if image.plans.acceleration:
            self._layers.append(_Trace(image.plans.acceleration, client))
        kept = _kept(folder, self._layers) if folder else None
        self._manifest, self._config = kept or _made(image, self._layers, folder)

    def _layer(self, file: LayerFile, client: oci.Client) -> _Layer:
        if not file.is_turbo:
            return _Layer(file, client)
        place = Path(self._made.enter_context(tempfile.TemporaryDirectory()))
        return _Turbo(file, client, place)

    def target_of(self, digest: str) -> Descriptor | None:
        """Return the blob that a TurboOCI layer is an index over, None: no such."""
        for layer in self._layers:
            if isinstance(layer, _Turbo) and layer.target.digest == digest:
                return layer.target
        return None

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return the manifest of the image, whatever it is called."""
        found = describe(self._manifest, words.OCI_MANIFEST)
        if which not in (None, found.digest):
            raise SourceMissing(f"{self.name}: no manifest {which}")
        return found, self._manifest

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[DigestReader]:
        """Return a reader of a layer, or of the configuration (see Store)."""
        with SourceStream(self.source(descriptor)) as stream:
            name = f"{self.name}: {descriptor.digest}"
            yield DigestReader(stream, name, descriptor.digest, descriptor.size)

    def source(self, descriptor: Descriptor) -> Source:
        """Return a layer or the configuration (see Store)."""
        if descriptor.digest == digest_of(self._config):
            return MemorySource(self._config, self.name)
        for layer in self._layers:
            if layer.digest == descriptor.digest:
                return layer.open()
            if isinstance(layer, _Turbo) and layer.target.digest == descriptor.digest:
                return layer.open_target()
        raise SourceMissing(f"{self.name}: no blob {descriptor.digest}")

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether it is a layer, or the configuration."""
        known = {layer.digest for layer in self._layers} | {digest_of(self._config)}
        return descriptor.digest in known or bool(self.target_of(descriptor.digest))

    def put_blob(
        self,
        descriptor: Descriptor,
        open_stream: OpenStream,
        progress: Progress | None = None,
    ) -> None:
        """Raise ReadOnly."""
        del descriptor, open_stream, progress
        raise self._read_only()

    def mount_blob(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Return False: there are no other repositories."""
        del descriptor, from_repository
        return False

    def put_manifest(self, raw: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Raise ReadOnly."""
        del raw, media_type, tag
        raise self._read_only()

    def tags(self) -> list[str]:
        """Return nothing: the image has no name here."""
        return []

    def close(self) -> None:
        """Remove what was made to be sent; twice does nothing."""
        self._made.close()

    def _read_only(self) -> ReadOnly:
        return ReadOnly(f"{self.name}: files of a local image are not put there so")


class _Layer:
    """One layer, wrapped in tar.

    Attributes:
        digest, size: of what is sent.
        diff_id: of the same without compression.
    """

    marks: ClassVar[dict[str, str]] = {words.VERSION: words.VERSION_NATIVE}

    def __init__(self, file: LayerFile, client: oci.Client) -> None:
        """Hash the layer unless what it is is known."""
        self._file, self._client = file, client
        source = self.open()
        try:
            self.size = source.size
            same = source.size == file.size and not isinstance(source, JoinedSource)
            known = file.digest if same else ""
            self.digest = known or f"sha256:{sha256_of(source)}"
            self.diff_id = self.digest
        finally:
            source.close()

    def descriptor(self, kind: str) -> Descriptor:
        """Return what a manifest says of it; kind: of its file system, or ""."""
        annotations = {
            **self.marks,
            words.BLOB_DIGEST: self.digest,
            words.BLOB_SIZE: str(self.size),
            **({words.BLOB_FS_TYPE: kind} if kind else {}),
        }
        return Descriptor(words.OCI_LAYER, self.digest, self.size, annotations)

    def open(self) -> Source:
        """Return the layer as it is sent."""
        file = self._file
        if file.path is None:
            if not file.url:
                raise ConfigError(f"{file.where}: {file.digest} is not on this machine")
            return self._client.source(file.url, size=file.size or None)
        source = FileSource(file.path)
        try:
            if tar.unwrap(source).kind:
                return source
        except BaseException:
            source.close()
            raise
        ends = [tar.head(source.size), tar.tail(source.size)]
        head, tail = (MemorySource(part, source.name) for part in ends)
        return JoinedSource([head, source, tail], source.name)


class _Turbo(_Layer):
    """A TurboOCI layer: its files packed as one blob.

    Attributes:
        target: the original layer, which goes along.
    """

    def __init__(self, file: LayerFile, client: oci.Client, folder: Path) -> None:
        """Pack the files into folder, and hash the target unless that is known."""
        if file.path is None:
            raise UsageError(
                f"{file.where or file.name}: a TurboOCI layer whose files are not here",
                hint="push or copy the image that it is from",
            )
        self._file, self._client = file, client
        self._blob = folder / "blob"
        self._packed = package(self._blob, file.path, file.gzip_index)
        self.digest, self.size = self._packed.digest, self._packed.size
        self.diff_id = self._packed.diff_id
        with closing(self.open_target()) as target:
            digest = file.target_digest or f"sha256:{sha256_of(target)}"
            start = target.pread(0, min(4, target.size))
            self.target = Descriptor(_media_type(start), digest, target.size)

    def open(self) -> Source:
        """Return the blob."""
        return FileSource(self._blob)

    def open_target(self) -> Source:
        """Return the original layer, from this machine or from where it is."""
        if self._file.target:
            return FileSource(self._file.target)
        if not self._file.target_url:
            where = self._file.where or self._file.name
            raise ConfigError(f"{where}: its target is not on this machine")
        return self._client.source(self._file.target_url, size=None)

    def descriptor(self, kind: str) -> Descriptor:
        """Return what a manifest says of it."""
        return described(self._packed, self.target)


def _media_type(start: bytes) -> str:
    """Return what an original layer is, by its first four bytes."""
    if start.startswith(b"\x1f\x8b"):
        return words.OCI_LAYER_GZIP
    return words.OCI_LAYER_ZSTD if start == b"\x28\xb5\x2f\xfd" else words.OCI_LAYER


class _Trace(_Layer):
    """What is read first, as a layer that is none."""

    marks: ClassVar[dict[str, str]] = {words.ACCELERATION_LAYER: "yes"}

    def open(self) -> Source:
        """Return it as it is sent: a blob, or the tar of a file `trace`."""
        file = self._file
        if not file.dir:
            return FileSource(file.path) if file.path else super().open()
        path = file.dir / "trace"
        with SourceStream(FileSource(path)) as stream:
            reads = unpack_trace(stream.read(), str(path))
        return MemorySource(pack_acceleration(reads), str(path))


def _kept(folder: Path, layers: Sequence[_Layer]) -> tuple[bytes, bytes] | None:
    """Return a manifest and a configuration in folder that fit the layers."""
    try:
        raw, config = ((folder / n).read_bytes() for n in (MANIFEST_NAME, IMAGE_NAME))
        manifest = Manifest.parse(raw, str(folder / MANIFEST_NAME), words.OCI_MANIFEST)
    except (OSError, ObdError):
        return None
    wanted = [layer.digest for layer in layers]
    fits = [layer.digest for layer in manifest.layers] == wanted
    return (
        (raw, config) if fits and digest_of(config) == manifest.config.digest else None
    )


def _made(
    image: Image, layers: Sequence[_Layer], folder: Path | None
) -> tuple[bytes, bytes]:
    """Return a new manifest and configuration for layers."""
    kind = _file_system(image)
    rows = [layer.descriptor(kind) for layer in layers]
    config = _configuration(folder, [layer.diff_id for layer in layers])
    manifest = Manifest(words.OCI_MANIFEST, describe(config, words.OCI_CONFIG), rows)
    return manifest.raw(), config


def _configuration(folder: Path | None, digests: Sequence[str]) -> bytes:
    """Return how to run the image: what is in folder, if it has as many layers."""
    if folder:
        try:
            path = folder / IMAGE_NAME
            found = Configuration.parse(path.read_bytes(), str(path))
            if len(found.diff_ids) == len(digests):
                return found.with_layers(digests)
        except (OSError, ObdError):
            pass
    platform = oci.host_platform()
    return canonical(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": list(digests)},
        }
    )


def _file_system(image: Image) -> str:
    """Return what the disk holds, if it is something that runtimes mount."""
    with ExitStack() as opened:
        device = Device(open_layers(image.layers, opened), "image")
        opened.pop_all()
    with device:
        try:
            start = device.pread(0, _EXT4_MAGIC_AT + len(_EXT4_MAGIC))
        except OutOfRange:
            return ""
    if start.endswith(_EXT4_MAGIC):
        return "ext4"
    return "xfs" if start.startswith(b"XFSB") else ""
