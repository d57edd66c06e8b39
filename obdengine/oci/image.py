# SPDX-License-Identifier: Apache-2.0
"""
image - one image of a store: which manifest is meant, its configuration, its layers.

An index is walked to the image of one platform. Nothing is read of a layer.
"""

from __future__ import annotations

import os
import platform as host
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from obdengine.errors import (
    BadManifest,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Configuration,
    Descriptor,
    Index,
    Manifest,
    media_type_of,
    parse,
)
from obdengine.oci.store import Store

__all__ = [
    "FoundManifest",
    "ImageManifest",
    "Platform",
    "find_manifest",
    "host_platform",
    "read_blob",
    "resolve_image",
]

# Indexes in indexes: one is usual, in a layout two.
_MAX_DEPTH = 5

# As uname has it -> (architecture, variant) as Go has it.
_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64" if sys.byteorder == "big" else "mips64le", ""),
}

# The variant that is meant where none is said.
_USUAL_VARIANT = {"arm64": "v8", "arm": "v7"}

_PLATFORM = re.compile(r"[a-z0-9_]+/[a-z0-9_]+(/[a-z0-9_.]+)?")


class Platform(NamedTuple):
    """What an image runs on, in the words of Go."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return what "linux/arm64" or "linux/arm/v7" means; raises UsageError."""
        if not _PLATFORM.fullmatch(text):
            raise UsageError(
                f"{text!r} is not a platform", hint="os/architecture[/variant]"
            )
        return cls(*text.split("/"))

    def is_met_by(self, other: Platform) -> bool:
        """Tell whether an image for other is one for this platform."""
        usual = _USUAL_VARIANT.get(self.architecture, "")
        return self[:2] == other[:2] and (self.variant or usual) == (
            other.variant or usual
        )

    def __str__(self) -> str:
        """Return it as it is written."""
        return "/".join(word for word in self if word)


@dataclass(frozen=True)
class ImageManifest:
    """One image.

    Attributes:
        descriptor: of its manifest.
        raw: the bytes of the manifest.
        manifest: the same, read.
        config_raw: the bytes of its configuration.
        config: the same, read.
        layers: descriptors, bottom first.
        diff_ids: digest of each layer without compression.
    """

    descriptor: Descriptor
    raw: bytes
    manifest: Manifest
    config_raw: bytes
    config: Configuration

    @property
    def layers(self) -> Sequence[Descriptor]:
        """Descriptors of the layers, bottom first."""
        return self.manifest.layers

    @property
    def diff_ids(self) -> Sequence[str]:
        """Digest of each layer without compression, bottom first."""
        return self.config.diff_ids

    @property
    def platform(self) -> Platform:
        """What the image runs on, as its configuration has it."""
        return Platform(self.config.os, self.config.architecture, self.config.variant)


def host_platform() -> Platform:
    """Return the platform of this machine."""
    machine = host.machine().lower()
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(os.uname().sysname.lower(), architecture, variant)


def resolve_image(
    store: Store, which: str | None, *, platform: Platform | None = None
) -> ImageManifest:
    """Return the image that which, a tag or digest, is in store.

    platform: chooses from an index, None for this machine's. An index of one
    image needs no choice. Raises UsageError when there is none for the
    platform, BadManifest, Unsupported, and what the store raises.
    """
    found = find_manifest(store, which, platform=platform)
    config_raw = read_blob(store, found.manifest.config)
    name = f"{store.name}: {found.manifest.config.digest}"
    config = Configuration.parse(config_raw, name)
    if len(config.diff_ids) != len(found.manifest.layers):
        raise BadManifest(
            f"{store.name}: {found.descriptor.digest}",
            "number of layers",
            expected=f"{len(config.diff_ids)}, as diff_ids in the configuration",
            found=len(found.manifest.layers),
        )
    return ImageManifest(*found, config_raw, config)


class FoundManifest(NamedTuple):
    """The manifest of an image, its descriptor and its bytes."""

    descriptor: Descriptor
    raw: bytes
    manifest: Manifest


def find_manifest(
    store: Store, which: str | None, *, platform: Platform | None = None
) -> FoundManifest:
    """Return the manifest of the image that which is in store.

    As resolve_image(), for who needs no configuration: it saves a question.
    """
    descriptor, raw = store.manifest(which)
    for _ in range(_MAX_DEPTH):
        name = f"{store.name}: {descriptor.digest}"
        if media_type_of(parse(raw, name), name, descriptor.media_type) not in (
            words.INDEXES
        ):
            manifest = Manifest.parse(raw, name, descriptor.media_type)
            _judge_kind(name, manifest)
            return FoundManifest(descriptor, raw, manifest)
        index = Index.parse(raw, name, descriptor.media_type)
        chosen = _choose(name, index, platform)
        descriptor, raw = store.manifest(chosen.digest)
    raise BadManifest(
        f"{store.name}: {which or 'the image'}",
        f"more than {_MAX_DEPTH} nested indexes",
    )


def read_blob(store: Store, descriptor: Descriptor, most: int = MAX_DOCUMENT) -> bytes:
    """Return a small blob, verified; raises BadManifest when it is larger than most."""
    if descriptor.size > most:
        raise BadManifest(
            f"{store.name}: {descriptor.digest}",
            "size of the blob",
            expected=f"at most {most}",
            found=descriptor.size,
        )
    with store.blob(descriptor) as reader:
        return reader.read()


def _choose(name: str, index: Index, platform: Platform | None) -> Descriptor:
    # Attestations and the like hide in an index as images of no platform.
    images = [
        entry
        for entry in index.manifests
        if entry.platform.get("os") != "unknown"
        and (entry.media_type in words.MANIFESTS | words.INDEXES)
    ]
    if not images:
        raise SourceMissing(f"{name}: the index names no image")
    if platform is None and len(images) == 1:
        return images[0]
    wanted = platform or host_platform()
    for entry in images:
        if wanted.is_met_by(_platform_of(entry)):
            return entry
    if len(images) == 1 and not images[0].platform:
        return images[0]
    there = sorted({str(_platform_of(entry)) or "any" for entry in images})
    raise UsageError(
        f"{name}: no image for {wanted}", hint=f"there are {', '.join(there)}"
    )


def _platform_of(entry: Descriptor) -> Platform:
    values = (entry.platform.get(key) for key in ("os", "architecture", "variant"))
    return Platform(*(value if isinstance(value, str) else "" for value in values))


def _judge_kind(name: str, manifest: Manifest) -> None:
    if manifest.config.media_type not in words.CONFIGS:
        raise Unsupported(
            name,
            "not an image that runs",
            expected="the configuration of an image",
            found=manifest.artifact_type or manifest.config.media_type,
        )
