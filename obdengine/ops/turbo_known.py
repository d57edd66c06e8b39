# SPDX-License-Identifier: Apache-2.0
"""
turbo_known - TurboOCI layers that were made before, found again.

A layer is two small files, an index over the files of the original and one
over its bytes; a folder has both, a layout or a registry one blob with both.
What is noted says the same of either, so that one is made from the other.
Nothing is believed without its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.oci import words
from obdengine.oci.digest import DigestReader
from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import Store
from obdengine.ops.known import KnownLayers
from obdengine.ops.targets import copy_file
from obdengine.ops.turbo_blob import TurboFiles, unpack
from obdengine.ops.turbo_package import INDEX_NAME, META_NAME
from obdengine.source import FileSource
from obdengine.source.stream import SourceStream, sha256_of

__all__ = ["described", "find", "note"]


class _File(NamedTuple):
    """A file or a blob."""

    digest: str
    size: int


def described(files: TurboFiles) -> dict[str, Any]:
    """Return what is to be noted of a layer."""
    meta = _described(files.meta)
    index = _described(files.gzip_index) if files.gzip_index else None
    return {"digest": meta.digest, "meta": meta, "index": index}


def note(
    known: KnownLayers,
    key: str,
    facts: Mapping[str, Any],
    blob: tuple[str, int] | None,
    places: Mapping[str, Path],
) -> None:
    """Remember a layer that was made, as described() had it.

    blob: digest and size of that which has both files, if there is one.
    places: of what stays on this machine, by digest.
    """
    before = known.facts(key) or {}
    known.note(key, {**facts, "blob": blob or before.get("blob")}, places)


def find(
    known: KnownLayers, key: str, folder: Path, store: Store | None
) -> TurboFiles | None:
    """Return a layer's files, put into folder; None: it was not made, or is gone.

    store: where a blob may be, too. Raises what reading that raises.
    """
    facts = known.facts(key) or {}
    with suppress(KeyError, TypeError, ValueError):
        meta = _File(*facts["meta"])
        index = _File(*facts["index"]) if facts["index"] else None
        blob = _File(*facts["blob"]) if facts["blob"] else None
        return _from_files(known, meta, index, folder) or (
            _from_blob(known, blob, folder, store) if blob else None
        )
    return None


def _from_files(
    known: KnownLayers, meta: _File, index: _File | None, folder: Path
) -> TurboFiles | None:
    places = [known.file(*file) for file in (meta, index) if file]
    if None in places:
        return None
    folder.mkdir(exist_ok=True)
    found = TurboFiles(folder / META_NAME, folder / INDEX_NAME if index else None)
    for place, path, file in zip(places, found, (meta, index), strict=False):
        if place and path and file:
            copy_file(place, path, *file)
    return found


def _from_blob(
    known: KnownLayers, blob: _File, folder: Path, store: Store | None
) -> TurboFiles | None:
    place = known.file(*blob)
    if place:
        with SourceStream(FileSource(place)) as stream:
            reader = DigestReader(stream, str(place), *blob)
            return unpack(reader, blob.size, folder)
    descriptor = Descriptor(words.OCI_LAYER_GZIP, *blob)
    if store and store.has_blob(descriptor):
        with store.blob(descriptor) as reader:
            return unpack(reader, blob.size, folder)
    return None


def _described(path: Path) -> _File:
    with closing(FileSource(path)) as source:
        return _File(f"sha256:{sha256_of(source)}", source.size)
