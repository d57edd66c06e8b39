# SPDX-License-Identifier: Apache-2.0
"""
resolve - what a person calls an image, as layers: files, URLs, or a container image.

    config.v1.json | LAYER...      files of this machine
    http(s)://SERVER/LAYER         a layer on any server; may be mixed with files
    docker://HOST/NAME[:TAG]       a registry's, whose layers stay where they are
    oci:DIR[:TAG]                  a layout's

Of an image that is elsewhere only its documents are read, and they are kept:
an image that is named by its digest is known the next time without asking.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from obdengine import config, oci
from obdengine.config import Image, LayerFile, Plans
from obdengine.errors import SourceMissing, Unsupported, UsageError
from obdengine.oci import words
from obdengine.oci.layout import LayoutStore
from obdengine.oci.manifest import Descriptor
from obdengine.oci.registry import RegistryStore
from obdengine.ops.turbo_blob import unpacked
from obdengine.service import Service, usual_service
from obdengine.source.hosts import judge_url

__all__ = [
    "absolute",
    "acceleration_layer",
    "block_layers",
    "configuration_of",
    "is_remote",
    "is_turbo",
    "is_url",
    "layers_of",
    "open_image_store",
    "resolve",
]

_Name = str | os.PathLike[str]

_Found = oci.ImageManifest | oci.FoundManifest

_YES = "yes"
_ATTEMPTS = 5


def is_url(word: _Name) -> bool:
    """Tell whether word is the URL of a layer."""
    text = os.fspath(word)
    return text.startswith(("http://", "https://"))


def is_remote(word: _Name) -> bool:
    """Tell whether word is something else than a file's name."""
    text = os.fspath(word)
    return is_url(text) or oci.looks_like_reference(text)


def resolve(
    image: Sequence[_Name],
    *,
    service: Service | None = None,
    platform: oci.Platform | None = None,
) -> Image:
    """Return what the words for an image mean.

    service: how registries are spoken to, where documents are kept; None: what
    is usual on this host. platform: which image of an index
    is meant, None for this machine's. Raises UsageError when the words mean
    nothing, Unsupported for a container image without layers of overlaybd's,
    what config.resolve() raises, and what a store does.
    """
    if not any(is_remote(word) for word in image):
        return config.resolve(image)
    references = [word for word in image if oci.looks_like_reference(os.fspath(word))]
    if not references:
        return Image([_file_or_url(word) for word in image])
    if len(image) > 1:
        raise UsageError(f"{references[0]}: a container image is an image of its own")
    reference = oci.parse(os.fspath(references[0]))
    served = service or usual_service()
    with closing(open_image_store(reference, served)) as store:
        found = oci.find_manifest(store, reference.which, platform=platform)
        layers = layers_of(store, found, served.cache.folder)
        base = f"{store.base}/blobs" if isinstance(store, RegistryStore) else ""
        top = acceleration_layer(found)
        plans = Plans(
            acceleration=_layer(store, top, store.name, served.cache.folder)
            if top
            else None
        )
        return Image(layers, repo_blob_url=base, plans=plans)


def configuration_of(image: Sequence[_Name]) -> Path | None:
    """Return the configuration that is an image, or None where there is none."""
    if len(image) != 1 or is_remote(image[0]):
        return None
    return Path(image[0]) if config.resolve(image).is_config else None


def open_image_store(reference: oci.Reference, service: Service) -> oci.Store:
    """Open the repository of an image that is to be read as a disk."""
    if reference.transport != oci.REGISTRY:
        return oci.open_store(reference)
    # A disk waits for its registry until the deadline, a question does not.
    http = service.registry.http
    http = dataclasses.replace(http, attempts=http.attempts or _ATTEMPTS)
    return oci.KeepingStore(
        reference,
        oci.Client(dataclasses.replace(service.registry, http=http)),
        service.cache.folder / "manifests",
        offline=service.offline,
    )


def absolute(word: _Name) -> str:
    """Return a word that means the same in every working folder."""
    text = os.fspath(word)
    if not is_remote(text):
        return str(Path(text).absolute())
    if is_url(text):
        return text
    reference = oci.parse(text)
    if reference.path:
        path = str(Path(reference.path).absolute())
        return str(dataclasses.replace(reference, path=path))
    return text


def layers_of(store: oci.Store, image: _Found, folder: Path) -> list[LayerFile]:
    """Return where the layers of overlaybd's image are that is in store.

    folder: where small layers are unpacked that are needed here.
    """
    name = f"{store.name}: {image.descriptor.digest}"
    return [
        _layer(store, layer, f"{name}: layers[{number}]", folder)
        for number, layer in enumerate(block_layers(store.name, image))
    ]


def block_layers(store: str, image: _Found) -> list[Descriptor]:
    """Return the layers of a block device's image, bottom first.

    Raises Unsupported when the image, of the store called so, is another one.
    """
    name = f"{store}: {image.descriptor.digest}"
    found = [layer for layer in image.manifest.layers if not _accelerates(layer)]
    for number, layer in enumerate(found):
        if words.BLOB_DIGEST not in layer.annotations and not is_turbo(layer):
            raise Unsupported(
                name,
                f"layers[{number}] is an ordinary one, not of a block device",
                hint="convert the image with `obd convert`",
            )
    if not found:
        raise Unsupported(name, "an image without layers")
    return found


def acceleration_layer(
    image: _Found,
) -> Descriptor | None:
    """Return the layer that says what is read first, None when there is none."""
    layers = image.manifest.layers
    return next((layer for layer in layers if _accelerates(layer)), None)


def _accelerates(layer: Descriptor) -> bool:
    return layer.annotations.get(words.ACCELERATION_LAYER) == _YES


def is_turbo(layer: Descriptor) -> bool:
    """Tell whether a layer is an index over an original one."""
    return words.TARGET_DIGEST in layer.annotations


def _file_or_url(word: _Name) -> LayerFile:
    text = os.fspath(word)
    if is_url(text):
        parts = urlsplit(judge_url(text))
        where = parts._replace(query="", fragment="").geturl()
        return LayerFile(url=text, where=where)
    return LayerFile(Path(text), where=text)


def _layer(store: oci.Store, layer: Descriptor, where: str, folder: Path) -> LayerFile:
    if is_turbo(layer):
        return _turbo(store, layer, where, folder / "turbo")
    path, url = _place(store, layer.digest, where)
    return LayerFile(path, layer.digest, layer.size, url, where=where)


def _turbo(store: oci.Store, layer: Descriptor, where: str, folder: Path) -> LayerFile:
    """Fetch the layer itself, which is small; the target stays where it is."""
    files = unpacked(store, layer, folder / layer.digest.replace(":", "-"))
    digest = layer.annotations[words.TARGET_DIGEST]
    target, url = _place(store, digest, where)
    return LayerFile(
        files.meta,
        target=target,
        target_digest=digest,
        target_url=url,
        gzip_index=files.gzip_index,
        where=where,
    )


def _place(store: oci.Store, digest: str, where: str) -> tuple[Path | None, str]:
    """Return the file or the URL of a blob."""
    if isinstance(store, RegistryStore):
        return None, f"{store.base}/blobs/{digest}"
    if not isinstance(store, LayoutStore):
        raise UsageError(
            f"{where}: a layer inside an archive cannot be read as a disk",
            hint="copy the image to a layout first: obd copy",
        )
    path = store.path_of(Descriptor("", digest, 0))
    if path is None or not path.exists():
        raise SourceMissing(f"{where}: {digest} is not in the layout")
    return path, ""
