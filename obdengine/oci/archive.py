# SPDX-License-Identifier: Apache-2.0
"""
archive - images in one tar: an OCI layout, or what `docker save` writes.

    docker-archive:  manifest.json   names configuration and layers by path
                     HEX.json        the configuration
                     HEX/layer.tar   a layer, or a link to another one's

An archive that is compressed is unpacked into a file without a name first.
Everything is read in place; nothing is written.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from obdengine.errors import (
    BadManifest,
    FormatError,
    ReadOnly,
    SourceError,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.digest import DigestReader, hasher_of
from obdengine.oci.layout import LayoutStore
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Configuration,
    Descriptor,
    Manifest,
    describe,
    parse,
)
from obdengine.oci.reference import DEFAULT_TAG
from obdengine.oci.store import OpenStream, Progress
from obdengine.source import FileSource, MemorySource, Source
from obdengine.source.part import PartSource
from obdengine.source.stream import SourceStream

__all__ = ["DockerArchiveStore", "open_docker_archive", "open_oci_archive"]

_LIST = "manifest.json"
_COPY = 1 << 20
_MAX_LINKS = 8
_MAX_MEMBERS = 1 << 17

# The first bytes of a compressed file, and what reads it.
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UNPACKERS: dict[bytes, Callable[[Any], Any]] = {
    _GZIP: lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}

# Media type of a layer by its first bytes; anything else is a plain tar.
_PACKED = {_GZIP: words.DOCKER_LAYER_GZIP, _ZSTD: words.DOCKER_LAYER_ZSTD}


class _Member(NamedTuple):
    offset: int
    size: int


class _Archive:
    """The regular files of a tar, by name: the Files of a layout."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = str(path)
        self._file = _unpacked(FileSource(path))
        try:
            self._members, self._links = _members_of(self._file, self.name)
        except BaseException:
            self.close()
            raise

    def source(self, path: str) -> Source:
        member = self._find(path)
        if member is None:
            raise SourceMissing(f"{self.name}: {path} is not in it")
        return PartSource(_again(self._file), *member, f"{self.name}: {path}")

    def stream(self, path: str) -> SourceStream:
        return SourceStream(self.source(path))

    def size(self, path: str) -> int | None:
        member = self._find(path)
        return member.size if member else None

    def close(self) -> None:
        self._file.close()

    def _find(self, path: str) -> _Member | None:
        for _ in range(_MAX_LINKS):
            path = _cleaned(path)
            if path in self._members:
                return self._members[path]
            if path not in self._links:
                return None
            path = self._links[path]
        raise BadManifest(self.name, f"{path}: links in a circle")


class DockerArchiveStore:
    """Images as `docker save` writes them, as a Store for reading.

    Their manifests are made here: canonical JSON in docker's second schema.

    Attributes:
        name: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the list of images in the archive at path.

        Raises SourceMissing, BadManifest, SourceError.
        """
        self.name = str(path)
        self._archive = _Archive(path)
        self._blobs: dict[str, str | bytes] = {}
        self._manifests: dict[str, bytes] = {}
        self._tags: dict[str, str] = {}
        try:
            self._digests = [self._add(row) for row in self._rows()]
        except BaseException:
            self.close()
            raise

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return the manifest made for an image (see Store)."""
        found = self._called(which)
        there = f"there are {', '.join(self.tags()) or 'no names'}"
        if not found:
            raise SourceMissing(f"{self.name}: no image is called {which}", hint=there)
        if len(found) > 1:
            raise UsageError(
                f"{self.name}: there are {len(found)} images, which?", hint=there
            )
        digest = found.pop()
        raw = self._manifests[digest]
        return describe(raw, words.DOCKER_MANIFEST), raw

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[DigestReader]:
        """Return a reader of a blob (see Store)."""
        with SourceStream(self.source(descriptor)) as stream:
            name = f"{self.name}: {descriptor.digest}"
            yield DigestReader(stream, name, descriptor.digest, descriptor.size)

    def source(self, descriptor: Descriptor) -> Source:
        """Return a blob for reading anywhere in it (see Store)."""
        try:
            found = self._blobs[descriptor.digest]
        except KeyError:
            raise SourceMissing(f"{self.name}: no blob {descriptor.digest}") from None
        if isinstance(found, bytes):
            return MemorySource(found, f"{self.name}: {descriptor.digest}")
        return self._archive.source(found)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there (see Store)."""
        return descriptor.digest in self._blobs

    def put_blob(
        self,
        descriptor: Descriptor,
        open_stream: OpenStream,
        progress: Progress | None = None,
    ) -> None:
        """Raise ReadOnly."""
        raise ReadOnly(f"{self.name}: nothing is added to an archive")

    def mount_blob(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Return False: an archive knows no repositories."""
        del descriptor, from_repository
        return False

    def put_manifest(self, raw: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Raise ReadOnly."""
        raise ReadOnly(f"{self.name}: nothing is added to an archive")

    def tags(self) -> list[str]:
        """Return the names of what is there, sorted."""
        return sorted(self._tags)

    def close(self) -> None:
        """Close the file; twice does nothing."""
        self._archive.close()

    # -- Below

    def _called(self, which: str | None) -> set[str]:
        """Return the digests of what which may mean."""
        if which is None or which in self._manifests:
            return {which} if which else set(self._digests)
        for name in (which, f"{which}:{DEFAULT_TAG}"):
            if name in self._tags:
                return {self._tags[name]}
            # docker leaves the host of its own registry out, skopeo does not.
            found = {self._tags[tag] for tag in self._tags if tag.endswith(f"/{name}")}
            if found:
                return found
        return set()

    def _rows(self) -> list[Any]:
        where = f"{self.name}: {_LIST}"
        # A list is what docker writes; parse() reads objects only.
        found = parse(b'{"rows":' + self._small(_LIST) + b"}", where).get("rows")
        if not isinstance(found, list) or not found:
            raise BadManifest(where, "not a list of images")
        return found

    def _small(self, path: str) -> bytes:
        with closing(self._archive.source(path)) as found:
            if found.size > MAX_DOCUMENT:
                raise BadManifest(f"{self.name}: {path}", f"{found.size} bytes long")
            return found.pread(0, found.size)

    def _add(self, row: Any) -> str:
        """Make the manifest of an image of the list; return its digest."""
        where = f"{self.name}: {_LIST}"
        row = row if isinstance(row, dict) else {}
        path, paths, tags = row.get("Config"), row.get("Layers"), row.get("RepoTags")
        if not isinstance(path, str) or not _are_texts(paths):
            raise BadManifest(where, "an image without Config or Layers")
        if not _are_texts(tags or []):
            raise BadManifest(where, "RepoTags are not texts")
        raw = self._small(path)
        config = Configuration.parse(raw, f"{self.name}: {path}")
        if len(config.diff_ids) != len(paths):
            raise BadManifest(
                where, "Layers", expected=len(config.diff_ids), found=len(paths)
            )
        described = describe(raw, words.DOCKER_CONFIG)
        self._blobs[described.digest] = raw
        pairs = zip(paths, config.diff_ids, strict=True)
        layers = [self._layer(name, diff_id) for name, diff_id in pairs]
        manifest = Manifest(words.DOCKER_MANIFEST, described, layers).raw()
        digest = describe(manifest, words.DOCKER_MANIFEST).digest
        self._manifests[digest] = manifest
        self._tags.update(dict.fromkeys(tags or [], digest))
        return digest

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        with closing(self._archive.source(path)) as found:
            start, size = found.pread(0, min(4, found.size)), found.size
            kind = next(
                (kind for magic, kind in _PACKED.items() if start.startswith(magic)),
                words.DOCKER_LAYER,
            )
            # A plain layer has its digest in the configuration.
            plain = kind == words.DOCKER_LAYER
            digest = diff_id if plain else _hashed(found)
        self._blobs[digest] = path
        return Descriptor(kind, digest, size)


def open_oci_archive(path: str | os.PathLike[str]) -> LayoutStore:
    """Open an OCI layout in a tar; raises as LayoutStore, and FormatError."""
    archive = _Archive(path)
    try:
        return LayoutStore(archive)
    except BaseException:
        archive.close()
        raise


def open_docker_archive(path: str | os.PathLike[str]) -> DockerArchiveStore:
    """Open what `docker save` wrote; raises as DockerArchiveStore, and FormatError."""
    return DockerArchiveStore(path)


def _members_of(
    file: FileSource, name: str
) -> tuple[dict[str, _Member], dict[str, str]]:
    """Return where each regular file is, and what links stand for."""
    members: dict[str, _Member] = {}
    links: dict[str, str] = {}
    try:
        with (
            io.BufferedReader(SourceStream(_again(file)), _COPY) as raw,
            tarfile.open(fileobj=raw, mode="r:") as tar,
        ):
            for number, member in enumerate(tar):
                if number >= _MAX_MEMBERS:
                    raise BadManifest(name, f"more than {_MAX_MEMBERS} members")
                path = _cleaned(member.name)
                if member.isreg() and not member.issparse():
                    members[path] = _Member(member.offset_data, member.size)
                elif member.issym():
                    links[path] = posixpath.join(
                        posixpath.dirname(path), member.linkname
                    )
                elif member.islnk():
                    links[path] = member.linkname
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise FormatError(name, f"not a tar archive: {error}") from error
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}", errno=error.errno) from error
    for path, (offset, size) in members.items():
        if offset + size > file.size:
            raise FormatError(name, f"{path}: cut off", offset=offset)
    return members, links


def _unpacked(file: FileSource) -> FileSource:
    """Return file, or what it holds when it is compressed."""
    start = file.pread(0, min(6, file.size))
    if start.startswith(_ZSTD):
        file.close()
        raise Unsupported(file.name, "compressed with zstd", hint="unpack it first")
    for magic, open_packed in _UNPACKERS.items():
        if start.startswith(magic):
            with closing(file):
                return _unpack(file, open_packed)
    return file


def _unpack(file: FileSource, open_packed: Callable[[Any], Any]) -> FileSource:
    raw = SourceStream(_again(file))
    with raw, tempfile.TemporaryFile(prefix="obd-") as spool:
        try:
            with open_packed(raw) as packed:
                shutil.copyfileobj(packed, spool, _COPY)
            spool.flush()
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise FormatError(file.name, f"does not unpack: {error}") from error
        except OSError as error:
            raise SourceError(f"{file.name}: {error}", errno=error.errno) from error
        unpacked = FileSource(f"/proc/self/fd/{spool.fileno()}")
    unpacked.name = file.name
    return unpacked


def _again(file: FileSource) -> FileSource:
    """Return the same file, opened once more: it may have no name."""
    again = FileSource(f"/proc/self/fd/{file.fileno()}")
    again.name = file.name
    return again


def _hashed(source: Source) -> str:
    hasher = hasher_of("sha256:")
    for offset in range(0, source.size, _COPY):
        hasher.update(source.pread(offset, min(_COPY, source.size - offset)))
    return f"sha256:{hasher.hexdigest()}"


def _cleaned(path: str) -> str:
    """Return a path of a member without what makes the same one look different."""
    return posixpath.normpath(f"/{path}").lstrip("/")


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)
