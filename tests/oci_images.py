# SPDX-License-Identifier: Apache-2.0
"""
oci_images - container images for tests, made from tars in memory.

They are written by a second hand: json and hashlib only, nothing of the
project's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zstandard

__all__ = ["IMAGE", "PACKERS", "add_image", "digest_of", "make_layout", "small_tar"]

IMAGE = "application/vnd.oci.image"

# How a layer is packed -> what it is called, and how it is done.
PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": (f"{IMAGE}.layer.v1.tar", bytes),
    "gzip": (f"{IMAGE}.layer.v1.tar+gzip", lambda tar: gzip.compress(tar, mtime=0)),
    "zstd": (f"{IMAGE}.layer.v1.tar+zstd", zstandard.compress),
}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def small_tar(**files: str | bytes) -> bytes:
    """Return a tar with these files, owned by root and of the year 1970."""
    spool = io.BytesIO()
    with tarfile.open(fileobj=spool, mode="w") as tar:
        for name, text in files.items():
            data = text if isinstance(text, bytes) else text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return spool.getvalue()


def put(folder: Path, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Store a blob and return its descriptor."""
    digest = digest_of(data)
    path = folder / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data), **more}


def configuration(tars: Sequence[bytes], **more: Any) -> dict[str, Any]:
    """Return the configuration of an image, with a step that made no layer."""
    history: list[dict[str, Any]] = [{"created_by": f"layer {n}"} for n in range(9)]
    history[len(tars) :] = [{"created_by": "words", "empty_layer": True}]
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Unknown": {"kept": 1}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": history,
        **more,
    }


def add_image(
    folder: Path,
    tars: Sequence[bytes],
    tag: str | None = "latest",
    *,
    packed: Sequence[str] | str = "gzip",
    platform: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Add an image of these tars to a layout; return the manifest's descriptor."""
    kinds = [packed] * len(tars) if isinstance(packed, str) else packed
    layers = []
    for tar, kind in zip(tars, kinds, strict=True):
        media_type, pack = PACKERS[kind]
        layers.append(put(folder, pack(tar), media_type))
    found = configuration(tars) | (config or {})
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{IMAGE}.manifest.v1+json",
        "config": put(folder, json.dumps(found).encode(), f"{IMAGE}.config.v1+json"),
        "layers": layers,
        "annotations": {"org.example.kept": "yes"},
    }
    raw = json.dumps(manifest).encode()
    entry = put(folder, raw, str(manifest["mediaType"]))
    if platform:
        entry["platform"] = platform
    name(folder, entry, tag)
    return entry


def name(folder: Path, entry: dict[str, Any], tag: str | None) -> None:
    """Add an entry to the index of a layout."""
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    path = folder / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if path.exists():
        index = json.loads(path.read_bytes())
    key = "org.opencontainers.image.ref.name"
    more = {"annotations": {key: tag}} if tag else {}
    index["manifests"].append({**entry, **more})
    path.write_text(json.dumps(index))


def make_layout(folder: Path, tars: Sequence[bytes], **more: Any) -> Path:
    """Make a layout with one image of these tars; return folder."""
    folder.mkdir(parents=True, exist_ok=True)
    add_image(folder, tars, **more)
    return folder
