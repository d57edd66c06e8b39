# SPDX-License-Identifier: Apache-2.0
"""
keeping - documents of images in registries, kept on this machine.

    FOLDER/sha256-HEX      a manifest, an index or a configuration
    FOLDER/tags/NAME       what a tag meant when it was last asked for
    FOLDER/hosts/NAME      whether a registry on this machine spoke TLS

What is named by a digest is read from here without asking anybody, and
verified. A tag is asked for each time; only when its registry cannot be
reached does what it meant last count. Blobs of layers are not kept here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from obdengine.errors import (
    AccessDenied,
    SourceError,
    SourceMissing,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.client import Client
from obdengine.oci.digest import DigestReader, digest_of, is_digest
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Descriptor,
    describe,
    media_type_of,
    parse,
)
from obdengine.oci.reference import Reference
from obdengine.oci.registry import RegistryStore
from obdengine.source import MemorySource
from obdengine.source.stream import SourceStream
from obdengine.source.writable import WritableFile

__all__ = ["KeepingStore"]


class KeepingStore(RegistryStore):
    """A repository of a registry whose documents are kept in a folder.

    That the folder cannot be written to matters to nobody.
    """

    def __init__(
        self,
        reference: Reference,
        client: Client,
        folder: Path,
        *,
        offline: bool = False,
    ) -> None:
        """Take over client; folder is made when something is to be kept.

        offline: ask nobody for anything.
        """
        super().__init__(reference.host, reference.repository, client, True)
        self._folder = folder
        self._offline = offline
        self._host_file = folder / "hosts" / quote(self.host, safe="")
        scheme = _read(self._host_file)
        if scheme in (b"http", b"https"):
            client.usually[self.host] = scheme.decode()

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return a manifest or index and its bytes (see Store)."""
        wanted = which or "latest"
        raw = self._kept(wanted) if is_digest(wanted) else None
        if raw is not None:
            return self._described(wanted, raw), raw
        tag = self._folder / "tags" / quote(f"{self.name}:{wanted}", safe="")
        try:
            self._judge_offline(wanted)
            found, raw = super().manifest(which)
        except (SourceMissing, AccessDenied):
            raise
        except SourceError:
            known = None if is_digest(wanted) else _read(tag)
            raw = self._kept(known.decode()) if known else None
            if raw is None or known is None:
                raise
            return self._described(known.decode(), raw), raw
        self._keep(found.digest, raw)
        if not is_digest(wanted):
            _write(tag, found.digest.encode())
        _write(self._host_file, self.base.partition(":")[0].encode())
        return found, raw

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[DigestReader]:
        """Return a reader of a blob (see Store); a configuration is kept."""
        small = descriptor.media_type in words.CONFIGS
        if not small or descriptor.size > MAX_DOCUMENT:
            with super().blob(descriptor) as reader:
                yield reader
            return
        raw = self._kept(descriptor.digest)
        if raw is None:
            self._judge_offline(descriptor.digest)
            with super().blob(descriptor) as reader:
                raw = reader.read()
            self._keep(descriptor.digest, raw)
        name = f"{self.name}: {descriptor.digest}"
        with SourceStream(MemorySource(raw, name)) as stream:
            yield DigestReader(stream, name, descriptor.digest, descriptor.size)

    def _judge_offline(self, what: str) -> None:
        if self._offline:
            raise SourceError(f"{self.name}: {what}: not known, and nobody is asked")

    def _described(self, digest: str, raw: bytes) -> Descriptor:
        name = f"{self.name}: {digest}"
        kind = media_type_of(parse(raw, name), name)
        return describe(raw, kind)

    def _kept(self, digest: str) -> bytes | None:
        """Return a document that is here and what its name says."""
        if not digest.startswith("sha256:"):
            return None
        raw = _read(self._path(digest))
        return raw if raw is not None and digest_of(raw) == digest else None

    def _keep(self, digest: str, raw: bytes) -> None:
        if digest.startswith("sha256:"):
            _write(self._path(digest), raw)

    def _path(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_DOCUMENT + 1)
    except OSError:
        return None
    return raw if len(raw) <= MAX_DOCUMENT else None


def _write(path: Path, raw: bytes) -> None:
    if _read(path) == raw:
        return
    with suppress(OSError, SourceError, UsageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        WritableFile.create(path, raw)
