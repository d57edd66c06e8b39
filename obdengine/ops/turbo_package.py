# SPDX-License-Identifier: Apache-2.0
"""
turbo_package - a TurboOCI layer as a registry has it: a gzip'd tar of its files.

    ext4.fs.meta   .turbo.ociv1 (empty, says what it is)   gzip.meta (if needed)

The same files give the same bytes. What takes it apart is turbo_blob.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.oci import words
from obdengine.oci.manifest import Descriptor
from obdengine.source.output import Output

__all__ = ["INDEX_NAME", "META_NAME", "Packaged", "described", "package"]

META_NAME = "ext4.fs.meta"
INDEX_NAME = "gzip.meta"
_MARK_NAME = ".turbo.ociv1"


class Packaged(NamedTuple):
    """A blob: digest and size of it, and the digest of the tar in it."""

    digest: str
    size: int
    diff_id: str


class _Hashing:
    """Writes to a file and hashes what it writes."""

    def __init__(self, write: Any) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._write = write

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        self._write(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing to do."""


def package(dst: Path, meta: Path, index: Path | None) -> Packaged:
    """Write the blob of a layer to dst."""
    with Output(dst) as out:
        blob = _Hashing(out.append)
        # No name and no time: nothing that differs from run to run.
        packed = gzip.GzipFile("", "wb", 6, fileobj=blob, mtime=0)
        tar = _Hashing(packed.write)
        with tarfile.open(
            mode="w|", fileobj=tar, format=tarfile.USTAR_FORMAT
        ) as archive:  # type: ignore[call-overload]
            files = [(META_NAME, meta), (_MARK_NAME, None), (INDEX_NAME, index)]
            for name, path in files:
                if path or name == _MARK_NAME:
                    _add(archive, name, path)
        packed.close()
        out.commit()
    digest, diff_id = (f"sha256:{h.sha256.hexdigest()}" for h in (blob, tar))
    return Packaged(digest, blob.size, diff_id)


def described(packed: Packaged, layer: Descriptor) -> Descriptor:
    """Return the descriptor of a blob that is an index over layer."""
    annotations = {
        words.VERSION: words.VERSION_TURBO,
        words.BLOB_DIGEST: packed.digest,
        words.BLOB_SIZE: str(packed.size),
        words.BLOB_FS_TYPE: META_NAME.partition(".")[0],
        words.TARGET_DIGEST: layer.digest,
        words.TARGET_MEDIA_TYPE: layer.media_type,
    }
    return Descriptor(words.OCI_LAYER_GZIP, packed.digest, packed.size, annotations)


def _add(archive: tarfile.TarFile, name: str, path: Path | None) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    if path is None:
        archive.addfile(member)
        return
    member.size = path.stat().st_size
    with path.open("rb") as content:
        archive.addfile(member, content)
