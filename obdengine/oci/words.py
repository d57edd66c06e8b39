# SPDX-License-Identifier: Apache-2.0
"""
words - media types and annotations that container images are marked with.

Only words, and which of them mean the same: what follows from one is decided
elsewhere. A media type is what somebody says of a blob; what the blob is, its
content says.
"""

from __future__ import annotations

__all__ = [
    "ACCELERATION_LAYER",
    "BLOB_DIGEST",
    "BLOB_FS_TYPE",
    "BLOB_SIZE",
    "CONFIGS",
    "CREATED",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_LAYER_ZSTD",
    "DOCKER_MANIFEST",
    "DOCKER_MANIFEST_V1",
    "EMPTY",
    "FULL_NAME",
    "INDEXES",
    "LAYERS",
    "MANIFESTS",
    "NATIVE_ARTIFACT",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "REF_NAME",
    "TARGET_DIGEST",
    "TARGET_MEDIA_TYPE",
    "TURBO_ARTIFACT",
    "VERSION",
    "VERSION_NATIVE",
    "VERSION_TURBO",
    "unpacked_layer",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"
DOCKER_LAYER_ZSTD = f"{DOCKER_LAYER}.zstd"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# A layer's media type -> that of the same layer without compression.
_UNPACKED = {
    **{f"{OCI_LAYER}{end}": OCI_LAYER for end in ("", "+gzip", "+zstd")},
    **{f"{_OCI_FOREIGN}{end}": _OCI_FOREIGN for end in ("", "+gzip", "+zstd")},
    **{f"{DOCKER_LAYER}{end}": DOCKER_LAYER for end in ("", ".gzip", ".zstd")},
    **{f"{_DOCKER_FOREIGN}{end}": _DOCKER_FOREIGN for end in ("", ".gzip")},
}
LAYERS = frozenset(_UNPACKED)

# What an index of a layout calls an image; containerd adds the whole name.
REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
CREATED = "org.opencontainers.image.created"

# overlaybd's annotations of a layer's descriptor.
_PREFIX = "containerd.io/snapshot/overlaybd/"
BLOB_DIGEST = f"{_PREFIX}blob-digest"
BLOB_SIZE = f"{_PREFIX}blob-size"
BLOB_FS_TYPE = f"{_PREFIX}blob-fs-type"
VERSION = f"{_PREFIX}version"
ACCELERATION_LAYER = f"{_PREFIX}acceleration-layer"
TARGET_DIGEST = f"{_PREFIX}turbo-oci/target-digest"
TARGET_MEDIA_TYPE = f"{_PREFIX}turbo-oci/target-media-type"
VERSION_NATIVE = "0.1.0"
VERSION_TURBO = "0.1.0-turbo.ociv1"

# artifactType of an image that refers to the one it was made from.
NATIVE_ARTIFACT = "application/vnd.containerd.overlaybd.native.v1+json"
TURBO_ARTIFACT = "application/vnd.containerd.overlaybd.turbo.v1+json"


def unpacked_layer(media_type: str) -> str | None:
    """Return the media type of that layer without compression; None: no layer."""
    return _UNPACKED.get(media_type)
