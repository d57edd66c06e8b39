# SPDX-License-Identifier: Apache-2.0
"""
indexing - read a compressed layer once as a stream, and index it on the way.

gzip files of any number of members, and zstd files of any number of frames:
every byte comes out, and every checksum is compared. What gzip itself would
leave out without an error is said in a note, and nothing else is left out.
A file in which reading can start at too few places is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from obdengine import _core
from obdengine.blob import target_format as format
from obdengine.blob.target_index import IndexWriter
from obdengine.blob.unpack import PLAIN, compression_of
from obdengine.errors import BadBlock, BadTargetIndex, Unsupported
from obdengine.units import human_size

__all__ = ["Indexing"]

_STEP = 1 << 20  # bytes read at once, and inflated

_HEAD = 6  # bytes that say what follows

_KINDS = {"gzip": _core.GZIP, "zstd": _core.ZSTD}


class Indexing(io.RawIOBase):
    """Reads a layer and gives the tar in it.

    Attributes:
        codec: "gzip", "zstd", or "none" for a tar as it is.
        position: bytes of the layer that were read.
        size: bytes of the tar that were given out.
        members: gzip members or zstd frames that were begun.
        notes: sentences about what is odd and was read all the same.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        name: str,
        span: int = format.SPAN,
    ) -> None:
        """Begin with what read(size) gives, b"" at its end."""
        super().__init__()
        self.position = self.size = self.members = 0
        self.notes: list[str] = []
        self._read = read
        self._name = name
        self._input = b""
        self._output = memoryview(b"")
        self._buffer = bytearray(_STEP)
        self._writer = IndexWriter()
        self._points = 0
        self._crc = 0
        self._done = False
        self.codec = self._begin(span)

    def _begin(self, span: int) -> str:
        """Begin with the first member or frame, and return what it is."""
        self._need(_HEAD)
        codec = compression_of(self._input[:_HEAD])
        if codec not in (PLAIN, *_KINDS):
            raise Unsupported(
                self._name,
                "compression of the layer",
                expected="gzip or zstd",
                found=codec,
            )
        if codec != PLAIN:
            self._indexer = _core.Indexer(_KINDS[codec], span, self._name)
            self.members = 1
        if codec == "zstd":
            self._note_point(self._indexer.next())
        return codec

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes of the tar, none at the end; -1: all.

        Raises BadBlock and BadChecksum for a damaged layer, Unsupported when
        it cannot be indexed, and what reading it raises.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_STEP), b""))
        if self.codec == PLAIN:
            data, self._input = self._input[:size], self._input[size:]
            data = data or self._more(size)
            self.size += len(data)
            return data
        while not self._output and not self._done and size:
            self._advance()
        data = bytes(self._output[:size])
        self._output = self._output[size:]
        self.size += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill the front of buffer, return how many bytes; raises as read()."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def index(self) -> bytes | None:
        """Return the index once all was read; None for a tar as it is."""
        assert self.codec == PLAIN or self._done
        if self.codec == PLAIN:
            return None
        return self._writer.finish(
            codec=self.codec,
            members=self.codec == "zstd" or self.members > 1,
            target_size=self.position,
            stream_size=self.size,
        )

    # -- Below

    def _more(self, size: int) -> bytes:
        data = self._read(size)
        self.position += len(data)
        return data

    def _need(self, size: int) -> None:
        """Have so many bytes of input, or all there are."""
        while len(self._input) < size and (data := self._more(_STEP)):
            self._input += data

    def _advance(self) -> None:
        """Inflate some more, and see to what the core says of it."""
        self._need(1)
        try:
            step = self._indexer.step(self._input, self._buffer)
        except BadTargetIndex as error:
            raise self._cannot_index() from error
        if not (step.used or step.made or step.ended or step.bits is not None):
            found = "the end of the file"
            raise BadBlock(
                self._name, "compressed data", offset=self.position, found=found
            )
        self._input = self._input[step.used :]
        # Nothing is left of what was in the buffer before.
        self._output = memoryview(bytes(memoryview(self._buffer)[: step.made]))
        self._crc = _core.crc32c(self._output, self._crc)
        self._note_point(step)
        if step.ended:
            self._follow()

    def _note_point(self, step: _core.IndexStep) -> None:
        if step.bits is None:
            return
        self._end_span()
        member = step.bits == _core.POINT_MEMBER
        window = None if member else self._indexer.window()
        self._writer.point(step.out, step.at, step.bits, window)
        self._points += 1

    def _end_span(self) -> None:
        if self._points:
            self._writer.sum(self._crc)
        self._crc = 0

    def _follow(self) -> None:
        """See what comes after a member or frame."""
        self._need(_HEAD)
        if compression_of(self._input[:_HEAD]) == self.codec:
            self.members += 1
            self._note_point(self._indexer.next())
            return
        if self._input:
            self._judge_tail()
        self._end_span()
        self._done = True

    def _judge_tail(self) -> None:
        """Read what is behind the last member; zeros and garbage, as gzip does."""
        at, zeros = self.position - len(self._input), 0
        if self.codec == "zstd":
            raise BadBlock(
                self._name, "behind the last frame", offset=at, found="something else"
            )
        while self._input and not (rest := self._input.lstrip(b"\0")):
            zeros += len(self._input)
            self._input = b""
            self._need(_STEP)
        if not self._input:
            return
        zeros += len(self._input) - len(rest)
        self._input = rest
        self._need(_HEAD)
        if compression_of(self._input[:_HEAD]) == "gzip":
            raise Unsupported(
                self._name,
                "another gzip member behind zeros, where gzip does not look",
                offset=at + zeros,
                found="its head",
            )
        while self._more(_STEP):
            pass
        self.notes.append(
            f"{self._name}: offset {at}: what lies behind the gzip members is no part "
            "of the layer, and was left out as gzip leaves it out"
        )

    def _cannot_index(self) -> Unsupported:
        most = human_size(_core.SPAN_MAX)
        what = "frame of zstd" if self.codec == "zstd" else "block of gzip"
        return Unsupported(
            self._name,
            f"reading cannot start within a {what}",
            offset=self.position,
            expected=f"at most {most} in each",
            found="more",
            hint="convert the layer, or compress it anew in smaller frames",
        )
