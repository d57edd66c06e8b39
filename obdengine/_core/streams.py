# SPDX-License-Identifier: Apache-2.0
"""streams - whole files that are inflated piece by piece, in C."""

from __future__ import annotations

import errno

from obdengine._core.binding import Buffer, ffi, lib, made, source, target
from obdengine.errors import CoreError

__all__ = ["Unzstd"]


class Unzstd:
    """One zstd frame; the verbs are those of bz2.BZ2Decompressor.

    Attributes:
        eof: whether the frame is complete.
        needs_input: whether there is nothing to be had without more data.
        unused_data: what was given and lies behind the end of the frame.
    """

    def __init__(self) -> None:
        """Begin with a frame; raises CoreError when there is no memory."""
        stream = made(lib.obd_unzstd_new(), "inflating zstd")
        self._stream = ffi.gc(stream, lib.obd_unzstd_free)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._rest: Buffer = b""

    def decompress(self, data: Buffer, max_length: int) -> bytes:
        """Take data, return up to max_length bytes of what is in the frame.

        Raises ValueError when the bytes are no zstd or need a window of more
        than 128 MiB, CoreError for lack of memory.
        """
        src = bytes(self._rest) + bytes(data) if self._rest else data
        used, done, ended = (ffi.new(kind) for kind in ("size_t *", "size_t *", "int*"))
        out = bytearray(max_length)
        status = lib.obd_unzstd_run(
            self._stream,
            source(src),
            len(src),
            used,
            target(out),
            max_length,
            done,
            ended,
        )
        if status == lib.OBD_NOMEM:
            raise CoreError("no memory for inflating zstd", errno=errno.ENOMEM)
        if status == lib.OBD_TOO_MANY:
            raise ValueError("it needs a window of more than 128 MiB")
        if status != lib.OBD_OK:
            raise ValueError("these bytes are not what zstd writes")
        self.eof = bool(ended[0])
        rest = memoryview(src)[used[0] :]
        self._rest, self.unused_data = (b"", bytes(rest)) if self.eof else (rest, b"")
        # A full buffer may mean that there is more of the same.
        self.needs_input = not self.eof and done[0] < max_length
        return bytes(memoryview(out)[: done[0]])
