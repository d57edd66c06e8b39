# SPDX-License-Identifier: Apache-2.0
"""
build - a container image into layers of a block device, without root.

    blob -> unpacked, hashed -> applied to a file system -> sealed -> layer file
    '------ LayerFeed ------'   '------ ext4 ------'        '--- Stacking ---'

One layer in, one layer out. The lowest one makes the file system too. The same
image and options give the same bytes, on any machine; what was converted
before over the same layers with the same options is found and not converted
again. The new image appears when it is whole.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from obdengine import ext4
from obdengine.blob import Progress
from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.errors import Unsupported, UsageError
from obdengine.oci import words
from obdengine.oci.image import ImageManifest
from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import Store
from obdengine.ops.chain import chain_ids, uuid_of
from obdengine.ops.feed import LayerFeed
from obdengine.ops.host_fs import HostMake, apply_on_host
from obdengine.ops.known import KnownLayers, key_of
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.ops.stacking import Stacking
from obdengine.ops.targets import Made, Target
from obdengine.segment import MAX_LAYERS
from obdengine.service import Service
from obdengine.units import GIB

__all__ = ["BuildOptions", "Built", "DEFAULT_SIZE", "build"]

# As overlaybd's own converter has it. An empty file system of that size takes
# 240 KiB with lz4 and 150 KiB with zstd (of 8 GiB 90 and 70, 2026-11-22), once
# an image, so there is no reason to be thrifty.
DEFAULT_SIZE = 64 * GIB

# Level of zstd, unless one is asked for. An image is built once and sent and read
# often. Of 103 MiB of Debian's packages, 34.5 as gzip, with blocks of 64 KiB
# (2026-11-22, 2 CPUs):
#
#   level     3     5     6     7     9
#   MiB    36.1  34.9  34.3  34.2  34.0
#   s      0.95  1.07  1.26  1.38  1.53
_ZSTD_LEVEL = 6

# Counted up when the same image and options give other bytes than before.
_EDITION = 1


@dataclass(frozen=True)
class BuildOptions:
    """How an image is built.

    Attributes:
        size: bytes of the disk.
        make: how its file system is made.
        layer: how its layers are written; their uuids follow from the image. The
            usual level of zstd is 6 here.
        known: layers that were converted before; None: convert all.
        service: how layers are read that are in a registry only.
        host: a file system that this host makes, in place of ext4.
    """

    size: int = DEFAULT_SIZE
    make: ext4.MakeOptions = field(default_factory=ext4.MakeOptions)
    layer: LayerOptions = field(default_factory=LayerOptions)
    known: KnownLayers | None = None
    service: Service | None = None
    host: HostMake | None = None


@dataclass(frozen=True)
class Built:
    """An image that was built.

    Attributes:
        name: where it is.
        size: bytes of the disk.
        layers: of the image, bottom first.
        chain_ids: what each was made from.
        notes: sentences that a person should read.
    """

    name: str
    size: int
    layers: list[Made]
    chain_ids: list[str]
    notes: list[str]


def build(
    store: Store,
    image: ImageManifest,
    target: Target,
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Built:
    """Convert image, which is in store, and put the result into target.

    progress: bytes of the image's blobs. Raises UsageError when it is one of
    overlaybd's already, Unsupported for layers that are no tars, BadTar and
    FormatError for damaged ones, DigestMismatch, LimitError when the disk is
    too small, and what store and target raise; the target is as it was then.
    """
    options = _settled(options or BuildOptions(), target)
    try:
        _judge(store, image)
        with Stacking(target.folder, options.size, options.service) as stack:
            job = _Job(store, image, target, options, stack, progress)
            job.run()
            target.finish(image, job.made)
    except BaseException:
        target.abandon()
        raise
    return Built(target.name, options.size, job.made, job.chain_ids, job.notes)


def _settled(options: BuildOptions, target: Target) -> BuildOptions:
    """Return options with what was left open in them."""
    layer = replace(options.layer, tar=options.layer.tar or target.tar)
    if layer.codec == "zstd" and layer.level is None:
        layer = replace(layer, level=_ZSTD_LEVEL)
    return replace(options, layer=layer)


class _Job:
    """One conversion under way."""

    def __init__(
        self,
        store: Store,
        image: ImageManifest,
        target: Target,
        options: BuildOptions,
        stack: Stacking,
        progress: Progress | None,
    ) -> None:
        self.chain_ids = chain_ids(image.diff_ids)
        self.made: list[Made] = []
        self.notes: list[str] = []
        self._store = store
        self._image = image
        self._target = target
        self._options = options
        self._stack = stack
        self._progress = progress
        self._done = 0
        self._total = sum(layer.size for layer in image.layers)
        # The layer that is being written and put into the target.
        self._pending: Future[Made] | None = None

    def run(self) -> None:
        for number, layer in enumerate(self._image.layers):
            if not self._find(number):
                self._convert(number)
            self._done += layer.size
            self._show(0)
        self._settle()

    def _find(self, number: int) -> bool:
        """Take layer number from those that are known, if it is there."""
        known = self._options.known
        facts = known.facts(self._key(number)) if known else None
        if not known or not facts:
            return False
        made = Made(str(facts.get("digest")), int(facts.get("size", 0)), reused=True)
        file, place = known.file(made.digest, made.size), self._target.place(made)
        if file is None and place is None:
            return False
        self._settle()
        if file and place is None:
            self._note(number, made, self._target.add(number + 1, made, file))
        lower = LayerFile(file) if file else place
        assert lower is not None
        self._stack.put(lower)
        self.made.append(made)
        return True

    def _convert(self, number: int) -> None:
        path = self._target.path(number + 1)
        path = path or self._stack.folder / f"layer-{number + 1}"
        layer = replace(self._options.layer, uuid=uuid_of(self.chain_ids[number]))
        future = self._stack.grow(
            lambda disk: self._fill(disk, number),
            path,
            layer,
            lambda written: self._take(number, path, written),
        )
        self._settle()
        self._pending = future

    def _fill(self, disk: Device, number: int) -> None:
        descriptor = self._image.layers[number]
        name = f"layer {number + 1} ({descriptor.digest[:19]})"
        options, host = self._options, self._options.host
        if number == 0 and not host:
            ext4.make_file_system(disk, options.make)
        diff_id = self._image.diff_ids[number]
        blob = lambda: self._store.blob(descriptor)  # noqa: E731
        with LayerFeed(blob, diff_id, name, self._show) as feed:
            if host:
                make = None if number else host
                place = self._stack.folder
                applied = apply_on_host(disk, feed, host.kind, place, make)
            else:
                applied = ext4.apply_layer(disk, feed, name=name)
            feed.finish()
        self.notes += [f"{name}: {note}" for note in applied.notes]

    def _take(self, number: int, path: Path, written: Written) -> Made:
        """Put a layer into the target, on the thread that has written it."""
        made = Made(written.digest, written.size)
        self._note(number, made, self._target.add(number + 1, made, path))
        if path.is_relative_to(self._stack.folder):
            path.unlink()
        return made

    def _settle(self) -> None:
        """Wait until the layer before is in the target."""
        pending, self._pending = self._pending, None
        if pending:
            self.made.append(pending.result())

    def _note(self, number: int, made: Made, place: Path | None) -> None:
        if self._options.known:
            facts = {"digest": made.digest, "size": made.size}
            places = {made.digest: place} if place else {}
            self._options.known.note(self._key(number), facts, places)

    def _show(self, done: int) -> None:
        if self._progress:
            self._progress(self._done + done, self._total)

    def _key(self, number: int) -> str:
        return key_of(
            {
                "edition": _EDITION,
                "chain": self.chain_ids[number],
                "size": self._options.size,
                "make": _words(self._options.make),
                "host": repr(self._options.host),
                "layer": _words(self._options.layer, "threads", "uuid", "parent_uuid"),
            }
        )


def _judge(store: Store, image: ImageManifest) -> None:
    """Refuse what is no container image of tars."""
    name = f"{store.name}: {image.descriptor.digest}"
    if not image.layers:
        raise UsageError(f"{name}: the image has no layers")
    if len(image.layers) > MAX_LAYERS:
        raise UsageError(
            f"{name}: {len(image.layers)} layers, a stack has at most {MAX_LAYERS}"
        )
    for number, layer in enumerate(image.layers, 1):
        _judge_layer(f"{name}: layer {number}", layer)


def _judge_layer(name: str, layer: Descriptor) -> None:
    if words.BLOB_DIGEST in layer.annotations:
        raise UsageError(
            f"{name}: the image is one of overlaybd's already",
            hint="there is nothing to convert; see `obd copy`",
        )
    if words.unpacked_layer(layer.media_type) is None:
        raise Unsupported(name, "not a layer of files", found=layer.media_type)


def _words(options: Any, *without: str) -> dict[str, str]:
    return {k: repr(v) for k, v in asdict(options).items() if k not in without}
