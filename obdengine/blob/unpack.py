# SPDX-License-Identifier: Apache-2.0
"""
unpack - a stream without its compression: gzip, zstd, bzip2, xz or none.

Which it is, the first bytes say, whatever somebody calls it. A file may be
several compressed ones end to end (pigz, bgzip and eStargz write gzip so):
all of them are read. What lies behind the last one, zeros aside, is refused.
Memory does not grow with what a few bytes inflate to.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from obdengine import _core
from obdengine.errors import FormatError

__all__ = ["PLAIN", "Unpacked", "compression_of"]

PLAIN = "none"

_STEP = 1 << 20  # bytes given to an inflater at once, and taken from it

_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f, a frame of zstd
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
_HEAD = 6  # bytes that tell them apart


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end."""


class _Inflater(Protocol):
    """One member, as bz2.BZ2Decompressor has it."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing comes without more data."""

    @property
    def unused_data(self) -> bytes:
        """What lies behind the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to max_length bytes."""


class _Gunzip:
    """zlib's inflater with the verbs of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # A full buffer may mean that there is more of the same.
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


_INFLATERS: dict[str, Callable[[], _Inflater]] = {
    "gzip": _Gunzip,
    "zstd": _core.Unzstd,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
_ERRORS = (zlib.error, lzma.LZMAError, ValueError, OSError, EOFError)


def compression_of(head: bytes) -> str:
    """Return what a file that begins with head is packed with, or PLAIN."""
    if head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    found = (name for magic, name in _MAGIC.items() if head.startswith(magic))
    return next(found, PLAIN)


class Unpacked(io.RawIOBase):
    """Reads a stream and gives what is packed in it.

    Attributes:
        compression: "gzip", "zstd", "bzip2", "xz" or PLAIN; known after the
            first read().
        position: bytes of the packed stream that were read.
    """

    def __init__(self, stream: _Readable, name: str) -> None:
        """Read from stream, which stays the caller's to close."""
        super().__init__()
        self.compression = ""
        self.position = 0
        self._stream = stream
        self._name = name
        self._input = b""
        self._member: _Inflater | None = None

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to size bytes, none at the end; -1: all that are left.

        Raises FormatError when it does not inflate, or ends too early, and
        what the stream raises.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_STEP), b""))
        if not self.compression:
            self._begin()
        if self.compression == PLAIN:
            data, self._input = self._input[:size], self._input[size:]
            return data or self._more(size)
        return self._inflate(size) if size else b""

    def readinto(self, buffer: Any, /) -> int:
        """Fill the front of buffer, return how many bytes; raises as read()."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _begin(self) -> None:
        while len(self._input) < _HEAD and (data := self._more(_STEP)):
            self._input += data
        self.compression = compression_of(self._input[:_HEAD])

    def _more(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data

    def _inflate(self, size: int) -> bytes:
        while True:
            if self._member is None and not self._next_member():
                return b""
            assert self._member is not None
            if self._member.needs_input and not self._input:
                self._input = self._more(_STEP)
                if not self._input:
                    raise self._wrong("it is cut off")
            data, self._input = self._input, b""
            try:
                out = self._member.decompress(data, size)
            except _ERRORS as error:
                raise self._wrong(str(error)) from error
            if self._member.eof:
                self._input, self._member = self._member.unused_data, None
            if out:
                return out

    def _next_member(self) -> bool:
        """Begin with the next member; tell whether there is one."""
        self._input = self._input.lstrip(b"\0")
        while len(self._input) < _HEAD and (data := self._more(_STEP)):
            self._input = (self._input + data).lstrip(b"\0")
        if not self._input:
            return False
        found = compression_of(self._input[:_HEAD])
        if found != self.compression:
            raise self._wrong("something else follows it")
        self._member = _INFLATERS[self.compression]()
        return True

    def _wrong(self, why: str) -> FormatError:
        return FormatError(self._name, f"does not unpack as {self.compression}: {why}")
