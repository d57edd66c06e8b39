# SPDX-License-Identifier: Apache-2.0
"""
upload - one blob on its way to a registry, in pieces, resumed where it broke.

A small blob goes in one request; a large one in pieces, each of which is held
until the registry has it. After a failure the registry is asked how far it
got. What it ends up with is verified by it, and by us while it is read.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Collection
from contextlib import closing
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from obdengine.errors import BadAnswer, ObdError, SourceError, SourceMissing
from obdengine.oci.auth import RegistryAuth
from obdengine.oci.client import Client
from obdengine.oci.digest import DigestReader
from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import OpenStream, Progress
from obdengine.source.hosts import Place, decimal, judge_answer
from obdengine.source.patience import Passing, Patience
from obdengine.source.transport import Answer, Reply

__all__ = ["Forgotten", "Repository", "Upload"]

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")

# Pieces are no larger, whatever a registry wants.
_MAX_PIECE = 1 << 30


class Forgotten(SourceError):
    """The registry knows nothing of the upload any more: it must begin anew."""


class Repository(Protocol):
    """Where the blob goes."""

    name: str
    client: Client

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there."""

    def auth(self) -> RegistryAuth:
        """Return what lets us in."""


class Upload:
    """An upload that the registry has begun."""

    def __init__(
        self, repository: Repository, descriptor: Descriptor, start: Reply
    ) -> None:
        """Take the answer to the request that began it."""
        self._repository = repository
        self._descriptor = descriptor
        self._name = f"{repository.name}: {descriptor.digest}"
        self._location = ""
        self._piece = _piece_size(repository.client.settings.chunk, start)
        self._moved(start.url, start.headers.get("Location", ""))

    def send(self, open_stream: OpenStream, progress: Progress | None = None) -> None:
        """Send the blob.

        Raises DigestMismatch when the stream is not that blob, BadAnswer when
        the registry loses or refuses it, and what Transport.request() raises.
        """
        size = self._descriptor.size
        try:
            with closing(open_stream()) as stream:
                reader = DigestReader(stream, self._name, self._descriptor.digest, size)
                while size - reader.position > self._piece:
                    data = _read(reader, self._piece)
                    self._send_piece(data, reader.position - len(data))
                    if progress:
                        progress(reader.position, size)
                rest = _read(reader, self._piece)
                reader.finish()
                self._finish(rest, size - len(rest))
        except BaseException:
            with contextlib.suppress(ObdError, Passing):
                self.cancel()
            raise
        if progress:
            progress(size, size)

    def cancel(self) -> None:
        """Let the registry forget it."""
        self._ask("DELETE", self._location, {}, b"", (200, 202, 204)).close()

    def _send_piece(self, data: bytes, offset: int) -> None:
        patience, done = self._patience(), 0
        while done < len(data):
            try:
                end = offset + len(data) - 1
                fields = {"Content-Range": f"{offset + done}-{end}"}
                reply = self._ask(
                    "PATCH", self._location, fields, data[done:], (202, 201, 204, 416)
                )
                with reply:
                    if reply.status == 416:
                        raise Passing(BadAnswer(f"{self._name}: another offset"))
                    self._moved(reply.url, reply.headers.get("Location", ""))
                    done = self._got(reply, len(data), offset)
            except Passing as failure:
                patience.pause(failure)
                done = self._ask_offset(offset, len(data))

    def _got(self, reply: Answer, size: int, offset: int) -> int:
        """Return how much of a piece is there, which an answer may say."""
        end = _end(reply.headers.get("Range", ""))
        if end is None:
            return size
        if not offset < end <= offset + size:
            raise BadAnswer(f"{self._name}: the registry has {end} bytes of it")
        return end - offset

    def _finish(self, rest: bytes, offset: int) -> None:
        patience, done = self._patience(), 0
        while True:
            glue = "&" if "?" in self._location else "?"
            digest = quote(self._descriptor.digest, safe=":")
            target = f"{self._location}{glue}digest={digest}"
            fields = {"Content-Type": "application/octet-stream"}
            if rest[done:] and offset + done:
                fields["Content-Range"] = f"{offset + done}-{offset + len(rest) - 1}"
            try:
                self._ask("PUT", target, fields, rest[done:], (201, 202, 204)).close()
                return
            except Passing as failure:
                patience.pause(failure)
                # The answer was lost, but perhaps not the request.
                if self._repository.has_blob(self._descriptor):
                    return
                done = self._ask_offset(offset, len(rest))

    def _ask_offset(self, offset: int, size: int) -> int:
        """Ask how much of the piece at offset is there."""
        try:
            reply = self._repository.client.transport.request(
                "GET",
                self._location,
                auth=self._repository.auth(),
                expect=(204, 202, 200),
                mirrors=False,
            )
        except SourceMissing as error:
            raise Forgotten(
                f"{self._name}: the registry has forgotten the upload"
            ) from error
        self._moved(reply.url, reply.headers.get("Location", ""))
        # "0-0" is what registries say when there is nothing yet.
        end = _end(reply.headers.get("Range", ""))
        there = 0 if end is None or end == 1 else end
        if not offset <= there <= offset + size:
            raise SourceError(
                f"{self._name}: the registry has {there} bytes, {offset} were sent"
            )
        return there - offset

    def _ask(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes,
        expect: Collection[int],
    ) -> Answer:
        client = self._repository.client
        kind = {"Content-Type": "application/octet-stream"} if body else {}
        # Sent with nothing, a PUT or PATCH needs to say so.
        fields = {"Content-Length": str(len(body)), **kind, **headers}
        # More time for more bytes: a deadline is for what answers at once.
        seconds = client.settings.http.deadline + len(body) / _SLOWEST
        return client.transport.exchange(
            method,
            Place(url, url),
            end=time.monotonic() + seconds,
            headers=fields,
            body=body,
            auth=self._repository.auth(),
            expect=expect,
        )

    def _patience(self) -> Patience:
        http = self._repository.client.settings.http
        return Patience(time.monotonic() + http.deadline, http.attempts or _TRIES)

    def _moved(self, url: str, location: str) -> None:
        if location:
            target = _upgraded(url, urljoin(url, location))
            self._location = judge_answer(url, target)
        elif not self._location:
            raise BadAnswer(f"{self._name}: the registry does not say where to send it")


# Bytes a second: who sends more slowly is given up.
_SLOWEST = 64 << 10
_TRIES = 8


def _upgraded(url: str, location: str) -> str:
    """Return location with the TLS of url.

    A registry behind something that ends TLS may not know that there is any.
    """
    asked, found = urlsplit(url), urlsplit(location)
    if asked.scheme == "https" and found.hostname == asked.hostname:
        return found._replace(scheme="https", netloc=asked.netloc).geturl()
    return location


def _piece_size(wanted: int, start: Reply) -> int:
    least = decimal(start.headers.get("OCI-Chunk-Min-Length", "")) or 0
    return max(wanted, min(least, _MAX_PIECE))


def _read(reader: DigestReader, size: int) -> bytes:
    """Return size bytes, less only at the end."""
    pieces = []
    while size and (piece := reader.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _end(text: str) -> int | None:
    """Return the end of "0-N", as a registry says how much it has."""
    found = _RANGE.fullmatch(text.strip())
    return int(found[1]) + 1 if found else None
