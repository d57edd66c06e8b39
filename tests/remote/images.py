# SPDX-License-Identifier: Apache-2.0
"""
images - images whose layers are only on a server that may misbehave.

The server answers as a registry does for blobs, and needs no manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obdengine.service import Service
from tests.misbehaving import Misbehaving

PREFIX = "/v2/images/blobs"


def digest_of(blob: bytes) -> str:
    """Return the digest of a blob."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


@contextmanager
def serving(blobs: Sequence[bytes]) -> Iterator[Misbehaving]:
    """Serve blobs by their digests."""
    files = {f"{PREFIX}/{digest_of(blob)}": blob for blob in blobs}
    with Misbehaving(files=files) as server:
        yield server


def configure(folder: Path, url: str, blobs: Sequence[bytes], **more: Any) -> Path:
    """Write a configuration of layers that are at url only."""
    rows = [{"digest": digest_of(blob), "size": len(blob)} for blob in blobs]
    path = folder / "config.v1.json"
    content = {"repoBlobUrl": url + PREFIX, "lowers": rows, **more}
    path.write_text(json.dumps(content))
    return path


def service_in(
    folder: Path, cache: dict[str, Any] | None = None, **registry: Any
) -> Service:
    """Return a service with a cache in folder."""
    settings = {"connections": 32, **registry}
    return Service.from_json(
        {
            "cacheConfig": {"cacheDir": str(folder / "cache"), **(cache or {})},
            "obdengine": {"registry": settings},
        }
    )


def blob_gets(server: Misbehaving) -> list[str]:
    """Return the ranges of blobs that were asked for."""
    return [one[2] for one in server.requests if one[0] == "GET"]
