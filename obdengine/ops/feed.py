# SPDX-License-Identifier: Apache-2.0
"""
feed - the tar of one layer, unpacked and hashed on a thread of its own.

    blob -> verified -> unpacked -> hashed -> a few chunks ahead -> who applies it

Both digests are judged before the last read returns: that of the blob, and
that of the tar, which the image's configuration has. What the tar holds is
none of its business.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from obdengine.blob.unpack import Unpacked
from obdengine.errors import DigestMismatch
from obdengine.oci.digest import hasher_of

__all__ = ["LayerFeed", "OpenBlob", "judge_tar"]

_CHUNK = 1 << 20
_AHEAD = 8  # chunks that may wait to be taken

# Opens the blob of a layer, from its beginning.
OpenBlob = Callable[[], AbstractContextManager["_Readable"]]


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end."""


class LayerFeed:
    """A layer's tar as a stream; use it as a context.

    Attributes:
        name: for errors.
        size: bytes of the tar that were read so far.
    """

    def __init__(
        self,
        open_blob: OpenBlob,
        diff_id: str | None,
        name: str,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Begin to read.

        diff_id: digest that the tar must have, None: any. progress: called
        with the bytes of the blob that were taken, by the thread that reads.
        """
        self.name = name
        self.size = 0
        self._diff_id = diff_id
        self._open_blob = open_blob
        self._progress = progress
        self._current = memoryview(b"")
        self._pipe = _Pipe()
        self._thread = threading.Thread(target=self._run, name="obd-feed", daemon=True)
        self._thread.start()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end; -1: all that are left.

        Raises FormatError when the blob does not unpack, DigestMismatch when
        it is not the right one, and what the store raises.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if not self._current:
            data, taken = self._pipe.take()
            self._current = memoryview(data)
            if self._progress and data:
                self._progress(taken)
        piece, self._current = self._current[:size], self._current[size:]
        self.size += len(piece)
        return bytes(piece)

    def finish(self) -> None:
        """Read what is left, so that all is judged; raises as read()."""
        while self.read(_CHUNK):
            pass

    def close(self) -> None:
        """Stop reading; twice does nothing."""
        self._pipe.close()
        self._thread.join()

    def __enter__(self) -> LayerFeed:
        """Return the feed itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading."""
        self.close()

    def _run(self) -> None:
        try:
            self._pump()
        except _Closed:
            pass
        except BaseException as error:  # whatever it is, the reader gets it
            self._pipe.fail(error)

    def _pump(self) -> None:
        hasher = hasher_of(self._diff_id or "sha256:")
        with self._open_blob() as blob:
            unpacked = Unpacked(blob, self.name)
            while data := unpacked.read(_CHUNK):
                if self._diff_id:
                    hasher.update(data)
                self._pipe.put(data, unpacked.position)
            # It has read to the end of the blob, which is judged so.
        if self._diff_id:
            judge_tar(hasher, self._diff_id, self.name)
        self._pipe.put(b"", 0)


def judge_tar(hasher: hashlib._Hash, diff_id: str, name: str) -> None:
    """Raise DigestMismatch when what was hashed is not the tar of a layer."""
    found = f"{hasher.name}:{hasher.hexdigest()}"
    if found != diff_id:
        raise DigestMismatch(
            name,
            "digest of the unpacked layer",
            expected=f"{diff_id}, as in the configuration",
            found=found,
        )


class _Closed(Exception):
    """Nobody takes what is put any more."""


class _Pipe:
    """A few chunks between two threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._error: BaseException | None = None
        self._closed = False

    def put(self, data: bytes, position: int) -> None:
        """Add a chunk, when there is room; none is the end. Raises _Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._chunks) < _AHEAD)
            if self._closed:
                raise _Closed
            self._chunks.append((data, position))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let take() raise error when it has returned what is here."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self) -> tuple[bytes, int]:
        """Return the next chunk; the end is returned again and again."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._error)
            if not self._chunks:
                assert self._error is not None
                raise self._error
            if not self._chunks[0][0]:
                return self._chunks[0]
            self._changed.notify_all()
            return self._chunks.popleft()

    def close(self) -> None:
        """Make put() raise from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
