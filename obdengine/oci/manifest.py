# SPDX-License-Identifier: Apache-2.0
"""
manifest - the JSON documents of a container image, read and judged, and written.

A document counts if and only if:
  (1) it has at most MAX_DOCUMENT bytes and is one JSON object in UTF-8, in
      which no key stands twice;
  (2) its schemaVersion is 2, and its mediaType, where it has one, is what it
      was served as;
  (3) an index has no layers, a manifest has no manifests: who takes a document
      for the other kind sees another image;
  (4) each descriptor has a media type, a digest that can be verified, and a
      size of at least 0.

Keys that are not known here are kept, so that a document that is changed keeps
the rest. Nothing here reads a file or asks a registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from obdengine.errors import BadManifest, Unsupported
from obdengine.oci import words
from obdengine.oci.digest import digest_of, is_digest

__all__ = [
    "Configuration",
    "Descriptor",
    "Index",
    "MAX_DOCUMENT",
    "MAX_LAYERS",
    "Manifest",
    "canonical",
    "describe",
    "media_type_of",
    "parse",
    "list_tag",
    "referring",
]

# Registries refuse more than 4 MiB; an image configuration with 127 layers of
# history has some 100 KiB.
MAX_DOCUMENT = 4 << 20

# More than any engine mounts; a manifest of 4 MiB could name 20 000.
MAX_LAYERS = 4096
_MAX_INDEX = 4096
_MAX_SIZE = 2**63 - 1

_DESCRIPTOR_KEYS = {
    "mediaType",
    "digest",
    "size",
    "annotations",
    "urls",
    "platform",
    "artifactType",
}


@dataclass(frozen=True)
class Descriptor:
    """What a document says of a blob.

    Attributes:
        media_type: what it is said to be.
        digest: "sha256:...", by which it is found and verified.
        size: bytes.
        annotations: texts by key.
        urls: where else it can be had.
        platform: of an entry of an index: os, architecture, variant...
        artifact_type: of an entry of an index.
        extra: keys that are not known here.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: Sequence[str] = ()
    platform: Mapping[str, Any] = field(default_factory=dict)
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, found: Any, name: str, where: str) -> Descriptor:
        """Judge found, that stands at where in the document name.

        Raises BadManifest, and Unsupported for a digest of another kind.
        """
        if not isinstance(found, dict):
            raise _bad(name, where, "an object", found)
        media_type = _text(found, "mediaType", name, where, needed=True)
        digest = _text(found, "digest", name, where, needed=True)
        if not is_digest(digest):
            raise Unsupported(
                name,
                f"{where}.digest",
                expected="sha256: or sha512: and hexadecimal digits",
                found=repr(digest[:200]),
            )
        return cls(
            media_type,
            digest,
            _size(found.get("size"), name, f"{where}.size"),
            _texts(found, "annotations", name, where),
            tuple(_list_of_texts(found, "urls", name, where)),
            _object(found, "platform", name, where),
            _text(found, "artifactType", name, where),
            {key: found[key] for key in found if key not in _DESCRIPTOR_KEYS},
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in a document."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        optional = {
            "annotations": dict(self.annotations),
            "urls": list(self.urls),
            "platform": dict(self.platform),
            "artifactType": self.artifact_type,
        }
        found |= {key: value for key, value in optional.items() if value}
        return found | dict(self.extra)


@dataclass(frozen=True)
class Manifest:
    """The document of one image.

    Attributes:
        media_type: OCI's or docker's.
        config: the descriptor of its configuration.
        layers: of its layers, bottom first.
        annotations: texts by key.
        subject: what it refers to, or None.
        artifact_type: "" for an ordinary image.
        extra: keys that are not known here.
    """

    media_type: str
    config: Descriptor
    layers: Sequence[Descriptor]
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes, name: str, media_type: str = "") -> Manifest:
        """Read raw; media_type is what it was served as, "" when nobody said.

        Raises BadManifest and Unsupported.
        """
        found = parse(raw, name)
        kind = media_type_of(found, name, media_type)
        if kind not in words.MANIFESTS:
            raise Unsupported(name, "kind of document", expected="an image", found=kind)
        rows = _list(found, "layers", name, MAX_LAYERS)
        subject = found.get("subject")
        return cls(
            kind,
            Descriptor.from_json(found.get("config"), name, "config"),
            _descriptors(rows, name, "layers"),
            _texts(found, "annotations", name, ""),
            Descriptor.from_json(subject, name, "subject") if subject else None,
            _text(found, "artifactType", name, ""),
            _rest(found, "config", "layers", "subject"),
        )

    def raw(self) -> bytes:
        """Return the bytes of the document, always the same for the same."""
        found = {
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return _raw(self, found)


@dataclass(frozen=True)
class Index:
    """The document that names images: by platform, or in a layout by tag.

    Attributes:
        media_type: OCI's or docker's.
        manifests: descriptors of images, and of further indexes.
        annotations: texts by key.
        subject: what it refers to, or None.
        artifact_type: "" for an ordinary one.
        extra: keys that are not known here.
    """

    media_type: str = words.OCI_INDEX
    manifests: Sequence[Descriptor] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes, name: str, media_type: str = "") -> Index:
        """Read raw; media_type is what it was served as, "" when nobody said.

        Raises BadManifest and Unsupported.
        """
        found = parse(raw, name)
        kind = media_type_of(found, name, media_type)
        if kind not in words.INDEXES:
            raise Unsupported(name, "kind of document", expected="an index", found=kind)
        rows = _list(found, "manifests", name, _MAX_INDEX)
        subject = found.get("subject")
        return cls(
            kind,
            _descriptors(rows, name, "manifests"),
            _texts(found, "annotations", name, ""),
            Descriptor.from_json(subject, name, "subject") if subject else None,
            _text(found, "artifactType", name, ""),
            _rest(found, "manifests", "subject"),
        )

    def raw(self) -> bytes:
        """Return the bytes of the document, always the same for the same."""
        found = {
            "manifests": [entry.to_json() for entry in self.manifests],
        }
        return _raw(self, found)


def _raw(document: Manifest | Index, own: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document: what both kinds have, and its own."""
    found = {"schemaVersion": 2, "mediaType": document.media_type, **own}
    optional = {
        "annotations": dict(document.annotations),
        "subject": document.subject.to_json() if document.subject else None,
        "artifactType": document.artifact_type,
    }
    found |= {key: value for key, value in optional.items() if value}
    return canonical(found | dict(document.extra))


@dataclass(frozen=True)
class Configuration:
    """The document that says how to run an image, and what its layers hold.

    Attributes:
        diff_ids: digest of each layer without compression, bottom first.
        history: one object for each step that made the image; those with
            `empty_layer` made no layer.
        os: "linux" and the like.
        architecture: as Go names it.
        variant: of the architecture, "" where there is none.
        found: the whole object, with what is not known here.
    """

    diff_ids: Sequence[str]
    history: Sequence[Mapping[str, Any]]
    os: str
    architecture: str
    variant: str
    found: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes, name: str) -> Configuration:
        """Read raw; raises BadManifest."""
        found = parse(raw, name)
        root = _object(found, "rootfs", name, "")
        if not root or root.get("type") != "layers":
            raise _bad(name, "rootfs.type", "'layers'", root.get("type"))
        diff_ids = _list_of_texts(root, "diff_ids", name, "rootfs")
        for number, diff_id in enumerate(diff_ids):
            if not is_digest(diff_id):
                raise _bad(name, f"rootfs.diff_ids[{number}]", "a digest", diff_id)
        history = _list(found, "history", name, 1 << 16)
        for number, step in enumerate(history):
            if not isinstance(step, dict):
                raise _bad(name, f"history[{number}]", "an object", step)
        return cls(
            tuple(diff_ids),
            tuple(history),
            _text(found, "os", name, ""),
            _text(found, "architecture", name, ""),
            _text(found, "variant", name, ""),
            found,
        )

    def with_layers(self, diff_ids: Sequence[str]) -> bytes:
        """Return the document with other layers, as many, and all else kept."""
        root = {**self.found["rootfs"], "diff_ids": list(diff_ids)}
        return canonical({**self.found, "rootfs": root})


def parse(raw: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object that raw is, by rule (1); raises BadManifest."""
    if len(raw) > MAX_DOCUMENT:
        raise _bad(name, "size", f"at most {MAX_DOCUMENT} bytes", f"{len(raw)} bytes")
    try:
        found = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except json.JSONDecodeError as error:
        raise BadManifest(name, f"not JSON: {error.msg}", offset=error.pos) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadManifest(name, f"not JSON that is read here: {error}") from error
    if not isinstance(found, dict):
        raise _bad(name, "document", "an object", found)
    return found


def canonical(found: Mapping[str, Any]) -> bytes:
    """Return found as JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        found, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def describe(raw: bytes, media_type: str, **more: Any) -> Descriptor:
    """Return the descriptor of a document or blob that is here."""
    return Descriptor(media_type, digest_of(raw), len(raw), **more)


def referring(
    raw: bytes, found: Descriptor, name: str
) -> tuple[str, Descriptor] | None:
    """Return the digest of what a document refers to, and how lists name it.

    None when it refers to nothing, or is nothing that is read here.
    """
    try:
        document = parse(raw, name)
        if not document.get("subject"):
            return None
        subject = Descriptor.from_json(document["subject"], name, "subject")
        config = _object(document, "config", name, "")
        kind = _text(document, "artifactType", name, "") or _text(
            config, "mediaType", name, "config"
        )
        annotations = _texts(document, "annotations", name, "")
    except BadManifest:
        return None
    entry = Descriptor(
        found.media_type,
        found.digest,
        found.size,
        annotations=annotations,
        artifact_type=kind,
    )
    return subject.digest, entry


def list_tag(digest: str) -> str:
    """Return the tag of the list of what refers to digest, where there is no API."""
    kind, _, value = digest.partition(":")
    return f"{kind}-{value}"[:128]


def media_type_of(found: Mapping[str, Any], name: str, served_as: str = "") -> str:
    """Return what a document is, by rules (2) and (3).

    served_as counts where the document itself says nothing. Raises BadManifest
    and Unsupported.
    """
    if found.get("schemaVersion") == 1 or served_as.startswith(
        words.DOCKER_MANIFEST_V1
    ):
        raise Unsupported(
            name,
            "docker's first schema of manifests is not read",
            hint="its registry or docker itself can rewrite the image",
        )
    version = found.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise _bad(name, "schemaVersion", 2, version)
    own = _text(found, "mediaType", name, "")
    known = words.MANIFESTS | words.INDEXES
    if own and served_as in known and own != served_as:
        raise _bad(name, "mediaType", f"{served_as}, as it is called", own)
    is_image = any(found.get(key) for key in ("layers", "config"))
    if found.get("manifests") and is_image:
        raise BadManifest(name, "an index and a manifest of an image at once")
    kind = own or served_as
    if kind not in known:
        kind = words.OCI_INDEX if "manifests" in found else words.OCI_MANIFEST
    return kind


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not a number")


def _descriptors(rows: list[Any], name: str, key: str) -> tuple[Descriptor, ...]:
    return tuple(
        Descriptor.from_json(row, name, f"{key}[{number}]")
        for number, row in enumerate(rows)
    )


def _rest(found: Mapping[str, Any], *known: str) -> dict[str, Any]:
    common = {"schemaVersion", "mediaType", "annotations", "artifactType", *known}
    return {key: found[key] for key in found if key not in common}


def _size(value: Any, name: str, where: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SIZE:
        raise _bad(name, where, "a number of bytes", value)
    return value


def _text(
    found: Mapping[str, Any], key: str, name: str, where: str, *, needed: bool = False
) -> str:
    value = found.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value):
        raise _bad(name, _at(where, key), "a text", value)
    return value


def _object(
    found: Mapping[str, Any], key: str, name: str, where: str
) -> dict[str, Any]:
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(name, _at(where, key), "an object", value)
    return value


def _texts(found: Mapping[str, Any], key: str, name: str, where: str) -> dict[str, str]:
    value = _object(found, key, name, where)
    for inner in value.values():
        if not isinstance(inner, str):
            raise _bad(name, _at(where, key), "texts by key", inner)
    return value


def _list(
    found: Mapping[str, Any], key: str, name: str, most: int, where: str = ""
) -> list[Any]:
    value = found.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _bad(name, _at(where, key), "a list", value)
    if len(value) > most:
        raise _bad(name, _at(where, key), f"at most {most} entries", len(value))
    return value


def _list_of_texts(
    found: Mapping[str, Any], key: str, name: str, where: str
) -> list[str]:
    value = _list(found, key, name, MAX_LAYERS, where)
    for inner in value:
        if not isinstance(inner, str):
            raise _bad(name, _at(where, key), "a list of texts", inner)
    return value


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _bad(name: str, what: str, expected: object, found: object) -> BadManifest:
    text = "nothing" if found is None else repr(found)
    return BadManifest(name, what, expected=expected, found=text[:200])
