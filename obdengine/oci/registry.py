# SPDX-License-Identifier: Apache-2.0
"""
registry - a repository of a registry as a Store: `docker://HOST/NAME`.

The protocol is OCI's distribution specification, and docker's second API that
it comes from. Every document and every blob is verified by its digest, on the
way in and on the way out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlencode, urljoin, urlsplit

from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    DigestMismatch,
    SourceMissing,
    UsageError,
)
from obdengine.oci import words
from obdengine.oci.auth import RegistryAuth
from obdengine.oci.client import PULL, PUSH, Client
from obdengine.oci.digest import DigestReader, hasher_of, is_digest
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Descriptor,
    Index,
    describe,
    list_tag,
    media_type_of,
    parse,
    referring,
)
from obdengine.oci.reference import REGISTRY, Reference
from obdengine.oci.settings import RegistrySettings
from obdengine.oci.store import OpenStream, Progress
from obdengine.oci.upload import Forgotten, Upload
from obdengine.source.hosts import decimal, origin_of, shown
from obdengine.source.http import HttpSource, HttpStream
from obdengine.source.transport import Reply

__all__ = ["RegistryStore", "open_registry"]

_ACCEPT = ", ".join(
    [
        words.OCI_INDEX,
        words.OCI_MANIFEST,
        words.DOCKER_INDEX,
        words.DOCKER_MANIFEST,
    ]
)

# Names of tags that one answer may have, and answers that are asked for.
_TAGS_AT_ONCE = 1000
_MAX_PAGES = 1000

# How often an upload is begun that its registry then forgets.
_UPLOADS = 3

_NEXT = re.compile(r"<([^>]*)>\s*;.*\brel=\"?next\b")


class RegistryStore:
    """A repository (see Store); writing asks for the right to write.

    Attributes:
        name: docker://HOST/NAME.
        host: HOST.
        repository: NAME.
        client: what speaks with the registry.
    """

    def __init__(self, host: str, repository: str, client: Client, owned: bool) -> None:
        """Ask for nothing yet; owned: close() closes client too."""
        self.name = f"docker://{host}/{repository}"
        self.host = host
        self.repository = repository
        self.client = client
        self._owned = owned
        self._may_write = False

    @property
    def base(self) -> str:
        """The address of the repository: blobs are at base/blobs/DIGEST."""
        return f"{self.client.address(self.host)}/v2/{self.repository}"

    # -- Reading

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return a manifest or index and its bytes (see Store)."""
        wanted = which or "latest"
        reply = self._ask("GET", f"/manifests/{wanted}", {"Accept": _ACCEPT})
        name = f"{self.name}: {wanted}"
        said = reply.headers.get("Docker-Content-Digest", "")
        digest = wanted if is_digest(wanted) else said
        if is_digest(digest):
            hasher = hasher_of(digest)
            hasher.update(reply.body)
            found = f"{hasher.name}:{hasher.hexdigest()}"
            if found != digest:
                raise DigestMismatch(name, "digest", expected=digest, found=found)
        kind = _kind(reply)
        kind = media_type_of(parse(reply.body, name), name, kind)
        described = describe(reply.body, kind)
        if is_digest(wanted):
            described = Descriptor(kind, wanted, len(reply.body))
        return described, reply.body

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[DigestReader]:
        """Return a reader of a blob (see Store)."""
        source = self.source(descriptor)
        with HttpStream(source) as stream:
            yield DigestReader(
                _Bytes(stream), source.name, descriptor.digest, descriptor.size
            )

    def source(self, descriptor: Descriptor) -> HttpSource:
        """Return a blob for reading anywhere in it (see Store)."""
        return HttpSource(
            f"{self.base}/blobs/{descriptor.digest}",
            self.client.transport,
            size=descriptor.size,
            auth=self.auth(),
            name=f"{self.name}: {descriptor.digest}",
            fixed=True,
        )

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there (see Store)."""
        size = self.size_of(descriptor.digest)
        return size is not None and size in (descriptor.size, -1)

    def size_of(self, digest: str) -> int | None:
        """Return the bytes of a blob, None when it is not there, -1: not said."""
        try:
            reply = self._ask("HEAD", f"/blobs/{digest}")
        except SourceMissing:
            return None
        size = decimal(reply.headers.get("Content-Length", ""))
        return -1 if size is None else size

    def tags(self) -> list[str]:
        """Return the names of what is there, sorted."""
        found: set[str] = set()
        try:
            for reply in self._pages(f"/tags/list?n={_TAGS_AT_ONCE}"):
                listed = _json(reply).get("tags") or []
                if not isinstance(listed, list):
                    raise BadAnswer(f"{self.name}: tags: not a list")
                found |= {tag for tag in listed if isinstance(tag, str)}
        except SourceMissing:
            pass
        return sorted(found)

    def _pages(self, path: str) -> Iterator[Reply]:
        """Yield the answers that make a list, as long as one says where it goes on."""
        begin = path.partition("?")[0]
        for _ in range(_MAX_PAGES):
            reply = self._ask("GET", path)
            yield reply
            link = _NEXT.search(reply.headers.get("Link", ""))
            if link is None:
                return
            target = urljoin(reply.url, link[1])
            if origin_of(target) != origin_of(reply.url):
                raise BadAnswer(f"{self.name}: a list goes on elsewhere")
            path = f"{begin}?{urlsplit(target).query}"

    # -- Writing

    def put_blob(
        self,
        descriptor: Descriptor,
        open_stream: OpenStream,
        progress: Progress | None = None,
    ) -> None:
        """Store a blob, verified, unless it is there (see Store)."""
        self._may_write = True
        for left in reversed(range(_UPLOADS)):
            if self.has_blob(descriptor):
                break
            start = self._ask("POST", "/blobs/uploads/", expect=(202,))
            try:
                Upload(self, descriptor, start).send(open_stream, progress)
                return
            except Forgotten:
                if not left:
                    raise
        if progress:
            progress(descriptor.size, descriptor.size)

    def mount_blob(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Take a blob from another repository (see Store)."""
        self._may_write = True
        self.auth().want(f"repository:{from_repository}:{PULL}")
        query = urlencode({"mount": descriptor.digest, "from": from_repository})
        try:
            reply = self._ask("POST", f"/blobs/uploads/?{query}", expect=(201, 202))
        except (AccessDenied, SourceMissing):
            return False  # of the other repository
        if reply.status == 202:
            Upload(self, descriptor, reply).cancel()
        return reply.status == 201

    def put_manifest(self, raw: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Store a manifest or index; tag names it from now on (see Store).

        What refers to another manifest is entered in the list of those that
        do, where the registry does not keep one.
        """
        self._may_write = True
        found = describe(raw, media_type)
        reply = self._ask(
            "PUT",
            f"/manifests/{tag or found.digest}",
            {"Content-Type": media_type},
            raw,
            expect=(200, 201, 202),
        )
        said = reply.headers.get("Docker-Content-Digest", found.digest)
        if said != found.digest:
            raise BadAnswer(f"{self.name}: stored {said} in place of {found.digest}")
        if "OCI-Subject" not in reply.headers:
            entry = referring(raw, found, self.name)
            if entry:
                self._enter(*entry)
        return found

    def referrers(self, digest: str) -> Index:
        """Return an index of what refers to the manifest with this digest."""
        found: list[Descriptor] = []
        try:
            for reply in self._pages(f"/referrers/{digest}"):
                kind = _kind(reply)
                if kind != words.OCI_INDEX:
                    raise SourceMissing(f"{self.name}: no list of referrers")
                name = f"{self.name}: referrers"
                found += Index.parse(reply.body, name, kind).manifests
        except SourceMissing:
            return self._entered(digest)
        return Index(manifests=found)

    # Without an API for it, an index with the tag "sha256-..." has the list.
    def _entered(self, digest: str) -> Index:
        try:
            found, raw = self.manifest(list_tag(digest))
        except SourceMissing:
            return Index()
        return Index.parse(raw, f"{self.name}: referrers", found.media_type)

    def _enter(self, subject: str, entry: Descriptor) -> None:
        index = self._entered(subject)
        if any(one.digest == entry.digest for one in index.manifests):
            return
        values = {**vars(index), "manifests": (*index.manifests, entry)}
        self.put_manifest(Index(**values).raw(), words.OCI_INDEX, list_tag(subject))

    def close(self) -> None:
        """Close the connections, if they are ours; twice does nothing."""
        if self._owned:
            self.client.close()

    # -- Below

    def auth(self) -> RegistryAuth:
        """Return what lets us in."""
        actions = PUSH if self._may_write else PULL
        return self.client.auth(self.base, self.repository, actions)

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: tuple[int, ...] = (200,),
    ) -> Reply:
        return self.client.transport.request(
            method,
            self.base + path,
            headers=headers,
            body=body,
            auth=self.auth(),
            expect=expect,
            limit=MAX_DOCUMENT,
            # What is written is not in a mirror yet.
            mirrors=not self._may_write,
        )


class _Bytes:
    """A stream as DigestReader wants it."""

    def __init__(self, stream: HttpStream) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(size) or b""

    def close(self) -> None:
        self._stream.close()


def open_registry(
    reference: Reference,
    settings: RegistrySettings | None = None,
    client: Client | None = None,
) -> RegistryStore:
    """Return the repository of a reference; client, if given, stays the caller's."""
    if reference.transport != REGISTRY:
        raise UsageError(f"{reference}: not in a registry")
    owned = client is None
    return RegistryStore(
        reference.host, reference.repository, client or Client(settings), owned
    )


def _kind(reply: Reply) -> str:
    return reply.headers.get("Content-Type", "").partition(";")[0].strip()


def _json(reply: Reply) -> dict[str, object]:
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadAnswer(f"{shown(reply.url)}: the answer is not JSON")
    return found
