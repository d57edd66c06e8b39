# SPDX-License-Identifier: Apache-2.0
"""
turbo_package - a TurboOCI layer as a registry has it: a gzip'd tar of its files.

    ext4.fs.meta   .turbo.ociv1 (empty, says what it is)   gzip.meta (if needed)

The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from obdengine.blob.unpack import Unpacked
from obdengine.errors import BadHeader, FormatError, Unsupported
from obdengine.source.output import Output
from obdengine.units import GIB, MIB

__all__ = ["INDEX_NAME", "META_NAME", "Packaged", "package", "unpackage"]

META_NAME = "ext4.fs.meta"
INDEX_NAME = "gzip.meta"
_MARK_NAME = ".turbo.ociv1"
_META_END = ".fs.meta"

# Metadata of the largest images is some hundred MiB.
_MOST = 4 * GIB
_COPY = MIB


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


def _add(archive: tarfile.TarFile, name: str, path: Path | None) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    if path is None:
        archive.addfile(member)
        return
    member.size = path.stat().st_size
    with path.open("rb") as content:
        archive.addfile(member, content)


def unpackage(
    stream: IO[bytes], name: str, meta: Path, index: Path
) -> tuple[Path, Path | None]:
    """Take a blob apart into the files meta and index.

    name is the blob's, for errors. Return meta, and index when there is one.
    Raises FormatError when the blob is no TurboOCI layer.
    """
    found: dict[str, Path] = {}
    try:
        with tarfile.open(fileobj=Unpacked(stream, name), mode="r|") as archive:
            for member in archive:
                place = _place(member.name, meta, index)
                if place is None:
                    continue
                if not member.isreg() or member.size > _MOST or place[0] in found:
                    raise BadHeader(
                        name, f"member {member.name!r}", expected="one file of its kind"
                    )
                _extract(archive, member, place[1], name)
                found[place[0]] = place[1]
    except (tarfile.TarError, EOFError) as error:
        raise FormatError(name, f"not a tar: {error}") from error
    if META_NAME not in found:
        raise Unsupported(name, f"no member {META_NAME}: not a TurboOCI layer")
    return meta, found.get(INDEX_NAME)


def _place(member: str, meta: Path, index: Path) -> tuple[str, Path] | None:
    """Return which of our files a member is, and where it goes."""
    word = member.removeprefix("./")
    if word == INDEX_NAME:
        return INDEX_NAME, index
    if word.endswith(_META_END) and "/" not in word:
        return META_NAME, meta
    return None


def _extract(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, name: str
) -> None:
    content = archive.extractfile(member)
    assert content is not None
    with Output(path) as out:
        for data in _pieces(content):
            out.append(data)
        if out.position != member.size:
            raise FormatError(name, f"member {member.name!r} is cut off")
        out.commit()


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while data := content.read(_COPY):
        yield data
