# SPDX-License-Identifier: Apache-2.0
"""
layout - an OCI image layout in a folder: `oci:DIR[:TAG]`.

    oci-layout         which version of the layout it is
    index.json         names manifests, each by an annotation
    blobs/sha256/...   everything, by its digest

A blob appears under its name when it is whole and verified, and index.json is
replaced in one step, so who reads meanwhile sees one state or the next.
Writers take turns by a lock on oci-layout.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from obdengine.errors import (
    BadManifest,
    DigestMismatch,
    ReadOnly,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.digest import DigestReader, hasher_of, is_digest
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Descriptor,
    Index,
    canonical,
    describe,
    list_tag,
    media_type_of,
    parse,
    referring,
)
from obdengine.oci.store import OpenStream, Progress
from obdengine.source import FileSource, Source
from obdengine.source.output import Output, make_folder
from obdengine.source.stream import SourceStream
from obdengine.source.writable import WritableFile

__all__ = ["Files", "Folder", "LayoutStore", "open_layout"]

_MARK, _INDEX = "oci-layout", "index.json"
_VERSION = canonical({"imageLayoutVersion": "1.0.0"})
_COPY = 1 << 20


class Files(Protocol):
    """Where the files of a layout are: a folder, or an archive."""

    name: str

    def source(self, path: str) -> Source:
        """Return a file for reading; raises SourceMissing, SourceError."""

    def stream(self, path: str) -> SourceStream:
        """Return a file from its beginning; raises as source()."""

    def size(self, path: str) -> int | None:
        """Return the bytes of a file, None when it is not there."""

    def close(self) -> None:
        """Give back what is open."""


class Folder:
    """Files in a folder."""

    def __init__(self, path: Path) -> None:
        """Take the folder at path."""
        self.path = path
        self.name = str(path)

    def source(self, path: str) -> Source:
        """Return a file for reading; raises SourceMissing, SourceError."""
        return FileSource(self.path / path)

    def stream(self, path: str) -> SourceStream:
        """Return a file from its beginning; raises as source()."""
        return SourceStream(self.source(path))

    def size(self, path: str) -> int | None:
        """Return the bytes of a file, None when it is not there."""
        try:
            with closing(FileSource(self.path / path)) as found:
                return found.size
        except SourceMissing:
            return None

    def close(self) -> None:
        """Do nothing: no file is kept open."""


class LayoutStore:
    """A layout as a Store; writable when it is in a folder.

    Attributes:
        name: the folder or file.
    """

    def __init__(self, files: Files) -> None:
        """Look at the layout in files.

        Raises SourceMissing when there is none, BadManifest and Unsupported
        when it is not one that is read here.
        """
        self.name = files.name
        self._files = files
        mark = parse(self._document(_MARK), f"{self.name}/{_MARK}")
        version = mark.get("imageLayoutVersion")
        if not isinstance(version, str) or version.split(".")[0] != "1":
            raise Unsupported(
                f"{self.name}/{_MARK}", "version", expected="1", found=repr(version)
            )

    # -- Reading

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return a manifest or index and its bytes (see Store)."""
        if which is not None and is_digest(which):
            size = self._files.size(_path_of(which))
            if size is None:
                raise SourceMissing(f"{self.name}: no manifest {which}")
            named = [e for e in self._index().manifests if e.digest == which]
            found = named[0] if named else Descriptor("", which, size)
        else:
            found = self._find(which)
        raw = self._verified(found)
        name = f"{self.name}: {found.digest}"
        kind = media_type_of(parse(raw, name), name, found.media_type)
        return Descriptor(kind, found.digest, len(raw)), raw

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[DigestReader]:
        """Return a reader of a blob (see Store)."""
        with self._files.stream(_path_of(descriptor.digest)) as stream:
            name = f"{self.name}: {descriptor.digest}"
            yield DigestReader(stream, name, descriptor.digest, descriptor.size)

    def source(self, descriptor: Descriptor) -> Source:
        """Return a blob for reading anywhere in it (see Store)."""
        found = self._files.source(_path_of(descriptor.digest))
        if found.size != descriptor.size:
            size = found.size
            found.close()
            raise DigestMismatch(
                f"{self.name}: {descriptor.digest}",
                "size of the blob",
                expected=descriptor.size,
                found=size,
            )
        return found

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there, by its size (see Store)."""
        return self._files.size(_path_of(descriptor.digest)) == descriptor.size

    def tags(self) -> list[str]:
        """Return the names of what is there, sorted."""
        names = (e.annotations.get(words.REF_NAME) for e in self._index().manifests)
        return sorted({name for name in names if name})

    def descriptors(self) -> Sequence[Descriptor]:
        """Return what the layout's index names, in its order."""
        return self._index().manifests

    def referrers(self, digest: str) -> Index:
        """Return an index of what refers to the manifest with this digest.

        That is what the layout's index names, and what a list names that was
        copied from a registry without an API for it.
        """
        found: dict[str, Descriptor] = {}
        listed = [e for e in self.descriptors() if list_tag(digest) in _names(e)]
        for entry in listed[:1]:
            name = f"{self.name}: {entry.digest}"
            index = Index.parse(self._verified(entry), name, entry.media_type)
            found = {one.digest: one for one in index.manifests}
        for entry in self.descriptors():
            with suppress(SourceMissing):
                described, raw = self.manifest(entry.digest)
                refers = referring(raw, described, f"{self.name}: {entry.digest}")
                if refers and refers[0] == digest:
                    found[entry.digest] = refers[1]
        return Index(manifests=tuple(found.values()))

    def path_of(self, descriptor: Descriptor) -> Path | None:
        """Return where a blob is, or would be; None in an archive."""
        if isinstance(self._files, Folder):
            return self._files.path / _path_of(descriptor.digest)
        return None

    # -- Writing

    def put_blob(
        self,
        descriptor: Descriptor,
        open_stream: OpenStream,
        progress: Progress | None = None,
    ) -> None:
        """Store a blob, verified, unless it is there (see Store)."""
        folder = self._writable()
        if self.has_blob(descriptor):
            return
        path = folder / _path_of(descriptor.digest)
        make_folder(path.parent)
        name = f"{self.name}: {descriptor.digest}"
        with closing(open_stream()) as stream, Output(path) as out:
            reader = DigestReader(stream, name, descriptor.digest, descriptor.size)
            while data := reader.read(_COPY):
                out.append(data)
                if progress:
                    progress(reader.position, descriptor.size)
            out.commit()

    def mount_blob(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Return False: a layout knows no other repositories."""
        del descriptor, from_repository
        return False

    def put_manifest(self, raw: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Store a manifest or index; tag names it from now on (see Store)."""
        folder = self._writable()
        found = describe(raw, media_type)
        path = folder / _path_of(found.digest)
        make_folder(path.parent)
        if not self.has_blob(found):
            WritableFile.create(path, raw)
        annotations = {words.REF_NAME: tag} if tag else {}
        refers = referring(raw, found, self.name)
        named = Descriptor(
            media_type,
            found.digest,
            found.size,
            annotations=annotations,
            artifact_type=refers[1].artifact_type if refers else "",
        )
        with _locked(folder):
            index = self._index()
            kept = [entry for entry in index.manifests if not _replaces(named, entry)]
            if tag or not any(entry.digest == named.digest for entry in kept):
                kept.append(named)
            WritableFile.create(folder / _INDEX, _with(index, kept).raw())
        return found

    def close(self) -> None:
        """Close the files; twice does nothing."""
        self._files.close()

    # -- Below

    def _document(self, path: str) -> bytes:
        with closing(self._files.source(path)) as found:
            if found.size > MAX_DOCUMENT:
                raise BadManifest(
                    f"{self.name}/{path}",
                    "size",
                    expected=f"at most {MAX_DOCUMENT}",
                    found=found.size,
                )
            return found.pread(0, found.size)

    def _index(self) -> Index:
        name = f"{self.name}/{_INDEX}"
        return Index.parse(self._document(_INDEX), name, words.OCI_INDEX)

    def _find(self, which: str | None) -> Descriptor:
        entries = self._index().manifests
        if which is not None:
            entries = [e for e in entries if which in _names(e)]
        else:
            # What has no name and refers to an image is not meant.
            entries = [e for e in entries if any(_names(e)) or not e.artifact_type]
        if len({entry.digest for entry in entries}) == 1:
            return entries[0]
        there = ", ".join(self.tags()) or "no names"
        if not entries:
            what = "is empty" if which is None else f"no image is called {which}"
            raise SourceMissing(f"{self.name}: {what}", hint=f"there are {there}")
        asked = "which image is meant" if which is None else f"which {which} is meant"
        raise UsageError(
            f"{self.name}: there are {len(entries)} images, {asked}?",
            hint=f"there are {there}; a digest is always clear",
        )

    def _verified(self, found: Descriptor) -> bytes:
        name = f"{self.name}: {found.digest}"
        raw = self._document(_path_of(found.digest))
        hasher = hasher_of(found.digest)
        hasher.update(raw)
        if f"{hasher.name}:{hasher.hexdigest()}" != found.digest:
            raise DigestMismatch(name, "digest", found=f"sha256:{hasher.hexdigest()}")
        if len(raw) != found.size:
            raise DigestMismatch(name, "size", expected=found.size, found=len(raw))
        return raw

    def _writable(self) -> Path:
        if not isinstance(self._files, Folder):
            raise ReadOnly(f"{self.name}: nothing is added to an archive")
        return self._files.path


def open_layout(path: str | os.PathLike[str], *, create: bool = False) -> LayoutStore:
    """Open the layout in the folder path; create: make an empty one if there is none.

    Raises SourceMissing when there is none, UsageError when something else is
    there, SourceError.
    """
    folder = Path(path)
    if create and not (folder / _MARK).exists():
        _create(folder)
    try:
        return LayoutStore(Folder(folder))
    except SourceMissing as error:
        raise SourceMissing(f"{folder}: not an OCI layout: {error}") from error


def _create(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there, and not an OCI layout")
    make_folder(folder / "blobs" / "sha256")
    WritableFile.create(folder / _INDEX, Index().raw())
    WritableFile.create(folder / _MARK, _VERSION)


def _path_of(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"blobs/{kind}/{value}"


def _names(entry: Descriptor) -> set[str | None]:
    return {entry.annotations.get(key) for key in (words.REF_NAME, words.FULL_NAME)}


def _replaces(new: Descriptor, old: Descriptor) -> bool:
    """Tell whether an entry of the index goes when new comes."""
    tag, before = (e.annotations.get(words.REF_NAME) for e in (new, old))
    if before is None:
        return tag is not None and old.digest == new.digest
    return before == tag


def _with(index: Index, entries: Sequence[Descriptor]) -> Index:
    values: dict[str, Any] = {**vars(index), "manifests": tuple(entries)}
    return Index(**values)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers away from the index for the block."""
    with closing(FileSource(folder / _MARK)) as mark:
        fcntl.flock(mark.fileno() or 0, fcntl.LOCK_EX)
        yield
