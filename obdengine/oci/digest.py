# SPDX-License-Identifier: Apache-2.0
"""
digest - "sha256:..." of bytes, and a reader that finds out whether they are right.

A stream is judged when its last byte was read, so who reads less has bytes
that nobody has vouched for.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any, Protocol

from obdengine.errors import DigestMismatch, SourceError

__all__ = ["DigestReader", "Stream", "digest_of", "hasher_of", "is_digest"]

_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
_STEP = 1 << 20


def is_digest(text: str) -> bool:
    """Tell whether text is a digest that can be verified here."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Return the digest of data, by SHA-256."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hasher_of(digest: str) -> Any:
    """Return a hashlib object that makes digests of the same kind."""
    return hashlib.new(digest.partition(":")[0])


class Stream(Protocol):
    """Bytes from a beginning to an end: a file, an answer, another reader."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end; -1: all that are left."""

    def close(self) -> None:
        """Give back what it holds."""


class DigestReader(io.RawIOBase):
    """Reads a stream on, and judges size and digest at its end.

    Attributes:
        name: for errors.
        position: bytes read so far.
    """

    def __init__(self, stream: Stream, name: str, digest: str, size: int) -> None:
        """Read from stream, which stays the caller's to close."""
        super().__init__()
        self.name = name
        self.position = 0
        self._stream = stream
        self._digest = digest
        self._size = size
        self._hasher = hasher_of(digest)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end; -1: all of them.

        Raises DigestMismatch as soon as it is certain, SourceError when the
        stream cannot be read.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_STEP), b""))
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise SourceError(
                f"{self.name}: offset {self.position}: {error.strerror or error}",
                errno=error.errno,
            ) from error
        self._take(data, bool(size))
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill the front of buffer, return how many bytes; raises as read()."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Read what is left, so that all is judged; raises as read()."""
        while self.read(_STEP):
            pass

    def _take(self, data: bytes, wanted: bool) -> None:
        before = self.position
        self.position += len(data)
        self._hasher.update(data)
        at_end = wanted and not data
        if self.position > self._size or (at_end and self.position < self._size):
            raise DigestMismatch(
                self.name,
                "size of the blob",
                expected=self._size,
                found=f"{'more than ' if data else ''}{self.position - len(data)}",
            )
        if self.position == self._size and (data or before == 0):
            found = f"{self._digest.partition(':')[0]}:{self._hasher.hexdigest()}"
            if found != self._digest:
                raise DigestMismatch(
                    self.name,
                    "digest of the blob",
                    expected=self._digest,
                    found=found,
                )
