# SPDX-License-Identifier: Apache-2.0
"""
oci - container images: where they are, what their documents say, their blobs.

Registries, layouts and archives are stores with the same verbs. A blob is
bytes here: what is in a layer is none of this room's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obdengine.errors import ReadOnly, UsageError
from obdengine.oci.archive import open_docker_archive, open_oci_archive
from obdengine.oci.client import Client
from obdengine.oci.credentials import (
    Credential,
    Credentials,
    DockerConfig,
    Given,
    repository_of,
)
from obdengine.oci.image import (
    FoundManifest,
    ImageManifest,
    Platform,
    find_manifest,
    host_platform,
    read_blob,
    resolve_image,
)
from obdengine.oci.keeping import KeepingStore
from obdengine.oci.layout import LayoutStore, open_layout
from obdengine.oci.manifest import Configuration, Descriptor, Index, Manifest
from obdengine.oci.reference import (
    ARCHIVE,
    DOCKER_ARCHIVE,
    LAYOUT,
    REGISTRY,
    Reference,
    looks_like_reference,
    parse,
)
from obdengine.oci.registry import RegistryStore, open_registry
from obdengine.oci.settings import RegistrySettings
from obdengine.oci.store import Store
from obdengine.source.hosts import HttpSettings

__all__ = [
    "open_store",
    "resolve_image",
    "find_manifest",
    "FoundManifest",
    "parse",
    "Reference",
    "Store",
    "ImageManifest",
    "Descriptor",
    "Manifest",
    "Index",
    "Configuration",
    "Platform",
    "host_platform",
    "looks_like_reference",
    "read_blob",
    "LayoutStore",
    "RegistryStore",
    "KeepingStore",
    "REGISTRY",
    "RegistrySettings",
    "HttpSettings",
    "Client",
    "Credentials",
    "Credential",
    "DockerConfig",
    "Given",
    "repository_of",
]


def open_store(
    reference: Reference,
    *,
    settings: RegistrySettings | None = None,
    create: bool = False,
) -> Store:
    """Open the repository that reference is in; the caller closes it.

    settings: how to speak with a registry; the others need none. create: make
    an empty layout where there is none. Raises SourceMissing, SourceError,
    FormatError, UsageError.
    """
    try:
        opener = _openers[reference.transport]
    except KeyError:
        raise UsageError(
            f"{reference}: this version does not read from {reference.transport}:"
        ) from None
    return opener(reference, settings, create)


def _open_layout(reference: Reference, _settings: Any, create: bool) -> Store:
    return open_layout(reference.path, create=create)


def _open_archive(reference: Reference, _settings: Any, create: bool) -> Store:
    if create:
        raise ReadOnly(f"{reference}: archives are read here, not written")
    if reference.transport == ARCHIVE:
        return open_oci_archive(reference.path)
    return open_docker_archive(reference.path)


def _open_registry(
    reference: Reference, settings: RegistrySettings | None, _create: bool
) -> Store:
    return open_registry(reference, settings)


_openers: dict[str, Callable[[Reference, Any, bool], Store]] = {
    REGISTRY: _open_registry,
    LAYOUT: _open_layout,
    ARCHIVE: _open_archive,
    DOCKER_ARCHIVE: _open_archive,
}
