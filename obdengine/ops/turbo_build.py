# SPDX-License-Identifier: Apache-2.0
"""
turbo_build - a container image as TurboOCI layers, its own layers unmodified.

One layer in, one layer out: `<fs>.fs.meta`, and where the original is
compressed an index over it. The same image and options give the same bytes;
what was made before of the same original over the same layers is found.
What one layer is made of is turbo's business.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from obdengine import ext4
from obdengine.blob import Progress
from obdengine.blob.indexing import Indexing
from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.errors import Unsupported, UsageError
from obdengine.layer import create_upper, open_upper
from obdengine.oci import words
from obdengine.oci.digest import hasher_of
from obdengine.oci.image import ImageManifest
from obdengine.oci.store import Store
from obdengine.ops import turbo_known
from obdengine.ops.build import DEFAULT_SIZE
from obdengine.ops.chain import chain_ids, uuid_of
from obdengine.ops.feed import judge_tar
from obdengine.ops.known import KnownLayers, key_of
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.layers import open_layers
from obdengine.ops.turbo import TurboLayer, write_turbo
from obdengine.ops.turbo_blob import TurboFiles
from obdengine.ops.turbo_package import INDEX_NAME, META_NAME
from obdengine.ops.turbo_targets import Piece, TurboTarget
from obdengine.segment import MAX_LAYERS

__all__ = ["TurboBuilt", "TurboOptions", "build_turbo"]

_CHUNK = 1 << 20

# Counted up when the same image and options give other bytes than before.
_EDITION = 1


@dataclass(frozen=True)
class TurboOptions:
    """How a TurboOCI image is built.

    Attributes:
        size: bytes of the disk.
        make: how its file system is made.
        known: layers that were made before; None: make all.
    """

    size: int = DEFAULT_SIZE
    make: ext4.MakeOptions = field(default_factory=ext4.MakeOptions)
    known: KnownLayers | None = None


@dataclass(frozen=True)
class TurboBuilt:
    """A TurboOCI image that was built.

    Attributes:
        name: where it is.
        size: bytes of the disk.
        layers: of the image, bottom first.
        notes: sentences that a person should read.
    """

    name: str
    size: int
    layers: list[Piece]
    notes: list[str]


def build_turbo(
    store: Store,
    image: ImageManifest,
    target: TurboTarget,
    *,
    options: TurboOptions | None = None,
    progress: Progress | None = None,
) -> TurboBuilt:
    """Make TurboOCI layers over those of image, which is in store.

    progress: bytes of the image's blobs. Raises UsageError when it is one of
    overlaybd's already, Unsupported for a layer that cannot be read from
    within, BadTar, BadBlock, BadChecksum, DigestMismatch for damaged ones,
    LimitError when the disk is too small, and what store and target raise;
    the target is as it was then.
    """
    chosen = options or TurboOptions()
    try:
        _judge(store, image)
        with tempfile.TemporaryDirectory(prefix=".obd-", dir=target.folder) as folder:
            job = _Job(store, image, target, chosen, Path(folder), progress)
            for number in range(len(image.layers)):
                job.convert(number)
        target.finish(image)
    except BaseException:
        target.abandon()
        raise
    return TurboBuilt(target.name, chosen.size, target.pieces, job.notes)


def _judge(store: Store, image: ImageManifest) -> None:
    name = f"{store.name}: {image.descriptor.digest}"
    if not 0 < len(image.layers) <= MAX_LAYERS:
        raise UsageError(
            f"{name}: {len(image.layers)} layers, a stack has 1 to {MAX_LAYERS}"
        )
    for number, layer in enumerate(image.layers, 1):
        if {words.BLOB_DIGEST, words.TARGET_DIGEST} & set(layer.annotations):
            raise UsageError(
                f"{name}: layer {number}: the image is one of overlaybd's already"
            )
        if words.unpacked_layer(layer.media_type) is None:
            raise Unsupported(
                f"{name}: layer {number}",
                "not a layer of files",
                found=layer.media_type,
            )


class _Job:
    """One conversion under way."""

    def __init__(
        self,
        store: Store,
        image: ImageManifest,
        target: TurboTarget,
        options: TurboOptions,
        folder: Path,
        progress: Progress | None,
    ) -> None:
        self.notes: list[str] = []
        self._store = store
        self._image = image
        self._target = target
        self._options = options
        self._folder = folder
        self._progress = progress
        self._chain_ids = chain_ids(image.diff_ids)
        self._lowers: list[LayerFile] = []

    def convert(self, number: int) -> None:
        """Make layer number, counted from 0 at the bottom, or find it made."""
        descriptor, known = self._image.layers[number], self._options.known
        original = self._target.original(number + 1, self._store, descriptor)
        place, key = self._folder / str(number), self._key(number)
        found = known and turbo_known.find(known, key, place, self._target.store)
        files = found or self._make(number, original, place)
        facts = turbo_known.described(files)  # while they are here
        self._lowers.append(
            self._target.add(
                number + 1, descriptor, original, files, reused=bool(found)
            )
        )
        if known:
            piece = self._target.pieces[-1]
            blob = (piece.digest, piece.size) if self._target.store else None
            turbo_known.note(known, key, facts, blob, self._target.kept)
        self._show(number, descriptor.size)

    def _make(self, number: int, original: Path, place: Path) -> TurboFiles:
        place.mkdir()
        data, index = place / "data", place / INDEX_NAME
        found, applied = self._apply(number, data)
        if found is not None:
            index.write_bytes(found)
        uuids = [uuid_of(chain) for chain in self._chain_ids]
        layer = TurboLayer(
            upper=data,
            below=list(self._lowers),
            mapped=applied.mapped,
            target=original,
            index=index if found is not None else None,
        )
        options = LayerOptions(
            uuid=uuids[number], parent_uuid=uuids[number - 1] if number else None
        )
        write_turbo(layer, place / META_NAME, self._options.size, options)
        data.unlink()
        return TurboFiles(place / META_NAME, layer.index)

    def _key(self, number: int) -> str:
        return key_of(
            {
                "edition": _EDITION,
                "turbo": self._image.layers[number].digest,
                "chain": self._chain_ids[number],
                "size": self._options.size,
                "make": {k: repr(v) for k, v in asdict(self._options.make).items()},
            }
        )

    def _show(self, number: int, done: int) -> None:
        """Report done bytes of layer number as progress."""
        if self._progress:
            sizes = [layer.size for layer in self._image.layers]
            self._progress(sum(sizes[:number]) + done, sum(sizes))

    def _apply(self, number: int, data: Path) -> tuple[bytes | None, ext4.Applied]:
        """Apply a layer to an upper over those below, and seal that to data."""
        log = data.with_suffix(".log")
        create_upper(data, log, virtual_size=self._options.size)
        with ExitStack() as opened:
            layers = open_layers(self._lowers, opened)
            upper = open_upper(data, log)
            opened.callback(upper.close)
            name = f"{self._target.name}: layer {number + 1}"
            device = Device(layers, name, upper)
            opened.callback(device.close)
            if number == 0:
                ext4.make_file_system(device, self._options.make)
            found = self._feed(number, device)
            device.flush()
            upper.seal()
        log.unlink()
        return found

    def _feed(self, number: int, device: Device) -> tuple[bytes | None, ext4.Applied]:
        descriptor, diff_id = self._image.layers[number], self._image.diff_ids[number]
        name = f"layer {number + 1} ({descriptor.digest[:19]})"
        with self._store.blob(descriptor) as blob:
            tar = _Hashed(Indexing(blob.read, name), diff_id)
            applied = ext4.apply_layer(
                device,
                tar,
                name=name,
                options=ext4.ApplyOptions(map_data=True),
                progress=lambda _: self._show(number, tar.stream.position),
            )
            tar.finish(name)
        notes = [*tar.stream.notes, *(f"{name}: {note}" for note in applied.notes)]
        self.notes += notes
        return tar.stream.index(), applied


class _Hashed:
    """A tar that is hashed while it is read."""

    def __init__(self, stream: Indexing, diff_id: str) -> None:
        self.stream = stream
        self._diff_id = diff_id
        self._hasher = hasher_of(diff_id)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end."""
        data = self.stream.read(size)
        self._hasher.update(data)
        return data

    def finish(self, name: str) -> None:
        """Read what is left; raises DigestMismatch when it is another tar."""
        while self.read(_CHUNK):
            pass
        judge_tar(self._hasher, self._diff_id, name)
