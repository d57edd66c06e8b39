# SPDX-License-Identifier: Apache-2.0
"""
transfer - an image from one store to another, its bytes unchanged.

Blobs that are there are not sent; those of another repository of the same
registry are mounted. Several blobs are on their way at once. The manifest goes
last: until then nobody sees half an image.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from obdengine import oci
from obdengine.errors import LimitError, SourceMissing
from obdengine.oci import words
from obdengine.oci.digest import Stream
from obdengine.oci.layout import LayoutStore
from obdengine.oci.manifest import Descriptor, Index, Manifest, media_type_of, parse
from obdengine.oci.registry import RegistryStore
from obdengine.oci.store import Progress, Store
from obdengine.ops.blobs_at_once import for_all
from obdengine.ops.local_store import LocalStore

__all__ = ["Transferred", "copy_image", "target_of"]


@dataclass
class Transferred:
    """What was copied.

    Attributes:
        descriptor: of the manifest, or index, that was named.
        counts: blobs that were "sent", "mounted" out of another repository,
            "there" already, or are to be had "elsewhere" only.
        bytes_sent: of those that were sent.
        left_out: digests of blobs that were to be had nowhere here, and of
            documents that a list of referrers names and nobody has.
        referrers: documents that refer to the image, or to one that does.
    """

    descriptor: Descriptor
    counts: Counter[str] = field(default_factory=Counter)
    bytes_sent: int = 0
    left_out: list[str] = field(default_factory=list)
    referrers: int = 0


def copy_image(
    source: Store,
    which: str | None,
    target: Store,
    tag: str | None,
    *,
    every: bool = False,
    referrers: bool = False,
    platform: oci.Platform | None = None,
    parallel: int = 4,
    progress: Progress | None = None,
) -> Transferred:
    """Copy the image that which, a tag or digest, is in source to target as tag.

    every: all images of an index, and the index itself; else only the one for
    platform, None for this machine's. referrers: what refers to these too:
    signatures, TurboOCI images, and what refers to them. parallel: blobs at
    once. progress: bytes of all blobs. Raises what the stores raise; what was
    sent stays then, and is found by the next attempt.
    """
    documents = _documents(source, which, every, platform)
    done = Transferred(documents[-1].descriptor)
    if referrers:
        more = _referring(source, documents, done.left_out)
        done.referrers = len(more)
        documents = [*more, *documents]
    blobs, unknown = _blobs(source, documents)
    copying = _Copying(source, target, done)
    for_all(blobs, copying.copy, parallel=parallel, progress=progress)
    done.left_out += unknown
    for document in documents[:-1]:
        target.put_manifest(document.raw, document.descriptor.media_type, None)
    last = documents[-1]
    target.put_manifest(last.raw, last.descriptor.media_type, tag)
    return done


@dataclass(frozen=True)
class _Document:
    """A manifest or an index."""

    descriptor: Descriptor
    raw: bytes

    @property
    def is_index(self) -> bool:
        return self.descriptor.media_type in words.INDEXES


def _documents(
    source: Store, which: str | None, every: bool, platform: oci.Platform | None
) -> list[_Document]:
    """Return what is to be copied, what is named by others before them."""
    if not every:
        image = oci.resolve_image(source, which, platform=platform)
        return [_Document(image.descriptor, image.raw)]
    return _all(source, which, 0)


def _all(source: Store, which: str | None, depth: int) -> list[_Document]:
    descriptor, raw = source.manifest(which)
    name = f"{source.name}: {descriptor.digest}"
    kind = media_type_of(parse(raw, name), name, descriptor.media_type)
    found: list[_Document] = []
    if kind in words.INDEXES and depth < _MAX_DEPTH:
        for entry in Index.parse(raw, name, kind).manifests:
            found += _all(source, entry.digest, depth + 1)
    own = Descriptor(kind, descriptor.digest, len(raw))
    return [*found, _Document(own, raw)]


_MAX_DEPTH = 5
_MAX_REFERRERS = 1000


def _referring(
    source: Store, documents: Sequence[_Document], nowhere: list[str]
) -> list[_Document]:
    """Return what refers to documents, and to that, in any depth."""
    if not isinstance(source, (RegistryStore, LayoutStore)):
        return []
    seen = {document.descriptor.digest for document in documents}
    asked, found = list(seen), list[_Document]()
    while asked:
        for entry in source.referrers(asked.pop()).manifests:
            if entry.digest in seen:
                continue
            seen.add(entry.digest)
            try:
                new = _all(source, entry.digest, 0)
            except SourceMissing:  # it was removed, and the list was not told
                nowhere.append(entry.digest)
                continue
            seen |= {document.descriptor.digest for document in new}
            asked += [document.descriptor.digest for document in new]
            found += new
            if len(found) > _MAX_REFERRERS:
                raise LimitError(
                    f"{source.name}: more than {_MAX_REFERRERS} documents refer to "
                    "the image"
                )
    return found


def _blobs(
    source: Store, documents: Sequence[_Document]
) -> tuple[list[Descriptor], list[str]]:
    """Return the blobs of manifests, each once, and targets that are nowhere."""
    found: dict[str, Descriptor] = {}
    unknown: list[str] = []
    for document in documents:
        if document.is_index:
            continue
        name = f"{source.name}: {document.descriptor.digest}"
        manifest = Manifest.parse(document.raw, name, document.descriptor.media_type)
        for blob in [manifest.config, *manifest.layers]:
            found.setdefault(blob.digest, blob)
            target = blob.annotations.get(words.TARGET_DIGEST)
            if target and target not in found:
                described = target_of(source, blob)
                if described:
                    found[target] = described
                else:
                    unknown.append(target)
    return list(found.values()), unknown


def target_of(source: Store, layer: Descriptor) -> Descriptor | None:
    """Return what a TurboOCI layer is an index over, if source has it."""
    digest = layer.annotations[words.TARGET_DIGEST]
    if isinstance(source, LocalStore):
        return source.target_of(digest)
    kind = layer.annotations.get(words.TARGET_MEDIA_TYPE, words.OCI_LAYER_GZIP)
    size: int | None = None
    if isinstance(source, RegistryStore):
        size = source.size_of(digest)
    elif isinstance(source, LayoutStore):
        path = source.path_of(Descriptor(kind, digest, 0))
        size = path.stat().st_size if path and path.exists() else None
    return None if size is None else Descriptor(kind, digest, size)


class _Copying:
    """The blobs of one image on their way."""

    def __init__(self, source: Store, target: Store, done: Transferred) -> None:
        self._source, self._target, self._done = source, target, done
        self._lock = threading.Lock()

    def copy(self, blob: Descriptor, show: Progress) -> None:
        how = self._moved(blob, show)
        with self._lock:
            self._done.counts[how] += 1
            self._done.bytes_sent += blob.size if how == "sent" else 0

    def _moved(self, blob: Descriptor, show: Progress) -> str:
        if self._target.has_blob(blob):
            return "there"
        repository = _neighbour(self._source, self._target)
        if repository and self._target.mount_blob(blob, repository):
            return "mounted"
        if blob.urls and not self._source.has_blob(blob):
            with self._lock:
                self._done.left_out.append(blob.digest)
            return "elsewhere"
        self._target.put_blob(blob, lambda: _Opened(self._source, blob), show)
        return "sent"


def _neighbour(source: Store, target: Store) -> str | None:
    """Return another repository of target's registry that may have the blobs."""
    home = ("", "")
    if isinstance(source, RegistryStore):
        home = source.host, source.repository
    elif isinstance(source, LocalStore):
        home = source.home
    if not isinstance(target, RegistryStore) or home[0] != target.host:
        return None
    return home[1] if home[1] != target.repository else None


class _Opened:
    """A blob of a store as a stream that closes what it opened."""

    def __init__(self, store: Store, blob: Descriptor) -> None:
        self._stack = ExitStack()
        self._stream: Stream = self._stack.enter_context(store.blob(blob))

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(size)

    def close(self) -> None:
        self._stack.close()
