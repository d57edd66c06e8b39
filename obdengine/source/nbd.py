# SPDX-License-Identifier: Apache-2.0
"""
nbd - the client's side of NBD, as much as a copy of a disk to or from qemu needs.

    fixed newstyle: [STRUCTURED_REPLY, SET_META_CONTEXT] GO, then requests

One connection: threads that read take turns, one writes. Reads are cut into
pieces that are under way together; writes are answered later, by the time
flush() returns, and are done as if one came after the other. There is no TLS
and no reconnecting: the server is ours, on a socket of ours.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from obdengine.errors import SourceError
from obdengine.source.contract import check_range
from obdengine.source.nbd_wire import LARGEST_ANSWER, READ_ONLY, Wire, agree
from obdengine.units import KIB, MIB

__all__ = ["ALLOCATION", "DEPTH", "HOLE", "ZERO", "NbdClient", "Status"]

# Contexts of block status. Flags of the first: HOLE | ZERO; of the second: how
# many files down a chain the data is, 0 when it is in none.
ALLOCATION = "base:allocation"
DEPTH = "qemu:allocation-depth"

HOLE, ZERO = 1, 2

_REQUEST, _SIMPLE, _STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF

_READ, _WRITE, _DISCONNECT, _FLUSH, _WRITE_ZEROES, _BLOCK_STATUS = 0, 1, 2, 3, 6, 7
_FLAG_DONE = 1
_NONE, _OFFSET_DATA, _OFFSET_HOLE, _STATUS_OF = 0, 1, 2, 5
_CHUNK_ERROR, _CHUNK_ERROR_OFFSET = 0x8001, 0x8002

_PIECE = 256 * KIB  # bytes that one read asks for
_UNDER_WAY = 16  # requests without an answer at the most
_LONGEST = (1 << 32) - 2 * MIB  # bytes that one question can be about: 32 bits


class Status(NamedTuple):
    """What a run of bytes is, by each context in the order asked for."""

    offset: int
    end: int
    flags: tuple[int, ...]


class _Reply(NamedTuple):
    """One answer, or a part of one."""

    handle: int
    done: bool
    kind: int
    size: int
    error: int = 0


class NbdClient:
    """A disk behind an NBD server.

    Attributes:
        name: of the disk, for errors.
        size: bytes.
        read_only: whether the server takes no writes.
        contexts: those of the contexts asked for that the server has.
    """

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        *,
        contexts: Sequence[str] = (),
        patience: float = 120.0,
    ) -> None:
        """Agree with the server; the connection is the client's to close.

        patience: seconds without a byte until it is TimedOut. Raises
        SourceError when the server goes away, BadAnswer when it is none.
        """
        self.name = name
        self._wire = Wire(connection, name)
        # Of requests without an answer yet, by handle.
        self._pending: dict[int, range] = {}
        self._handle = 0
        self._alone = threading.Lock()
        self._error: BaseException | None = None
        connection.settimeout(patience)
        agreed = agree(self._wire, contexts=contexts)
        self.size = agreed.size
        self.read_only = bool(agreed.flags & READ_ONLY)
        self.contexts = tuple(name for name in contexts if name in agreed.contexts)
        self._ids = [agreed.contexts[name] for name in self.contexts]

    # -- What can be asked

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset.

        Raises OutOfRange, and SourceError when the server cannot read them.
        """
        check_range(self, offset, len(buf))
        with self._turn():
            pieces: dict[int, int] = {}
            at = 0
            while at < len(buf) or pieces:
                while at < len(buf) and len(pieces) < _UNDER_WAY:
                    size = min(_PIECE, len(buf) - at)
                    pieces[self._ask(_READ, offset + at, size)] = at
                    at += size
                reply = self._next(pieces)
                self._take_data(reply, offset, buf, pieces)
                if reply.done:
                    del pieces[reply.handle]

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset; raises as pread_into does."""
        data = bytearray(size)
        self.pread_into(offset, memoryview(data))
        return bytes(data)

    def status(self, offset: int, end: int) -> Iterator[Status]:
        """Yield what the bytes from offset to end are, in order, without gaps.

        Raises BadAnswer when the server has none of the contexts.
        """
        check_range(self, offset, end - offset)
        while offset < end:
            with self._turn():
                found = self._ask_status(offset, min(end - offset, _LONGEST))
            for run in _joined(offset, found):
                offset = min(run.end, end)
                yield run._replace(end=offset)

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data at offset; data may be used again at once.

        Raises SourceError when this write, or one before it, has failed.
        """
        check_range(self, offset, len(data))
        for at in range(0, len(data), MIB):
            piece = memoryview(data)[at : at + MIB]
            self._change(_WRITE, offset + at, len(piece), piece)

    def write_zeroes(self, offset: int, size: int) -> None:
        """Make size bytes at offset read as zeros; raises as pwrite does."""
        check_range(self, offset, size)
        for at in range(offset, offset + size, _LONGEST):
            self._change(_WRITE_ZEROES, at, min(_LONGEST, offset + size - at))

    def flush(self) -> None:
        """Return when everything written is on the server's disk."""
        self._wait_for(0)
        self._change(_FLUSH, 0, 0)
        self._wait_for(0)

    def fileno(self) -> int | None:
        """Return None: no file holds the same bytes."""
        return None

    def close(self) -> None:
        """Say goodbye; never raises OSError."""
        with suppress(OSError, SourceError):
            self._ask(_DISCONNECT, 0, 0)
        self._wire.socket.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one thread ask at a time, and none once an answer was lost."""
        with self._alone:
            if self._error:
                raise self._error
            try:
                self._wait_for(0)
                yield
            except BaseException as error:
                self._error = error
                raise

    # -- Requests and answers

    def _ask(
        self, kind: int, offset: int, size: int, data: memoryview | None = None
    ) -> int:
        """Send a request, and return the handle that its answer will have."""
        self._handle += 1
        head = (_REQUEST, 0, kind, self._handle, offset, size)
        self._wire.send(struct.pack("!IHHQQI", *head))
        if data is not None:
            self._wire.send(data)
        return self._handle

    def _change(
        self, kind: int, offset: int, size: int, data: memoryview | None = None
    ) -> None:
        """Send a request that is answered later.

        A server may do what is under way in any order, and nbdkit does: what
        overlaps a change before waits for it.
        """
        end = offset + size
        if any(one.start < end and offset < one.stop for one in self._pending.values()):
            self._wait_for(0)
        handle = self._ask(kind, offset, size, data)
        self._pending[handle] = range(offset, end)
        self._wait_for(_UNDER_WAY - 1)

    def _next(self, expected: Container[int]) -> _Reply:
        """Return the head of the next answer; raises when it is an error."""
        (magic,) = struct.unpack("!I", self._wire.receive(4))
        if magic == _SIMPLE:
            error, handle = struct.unpack("!IQ", self._wire.receive(12))
            reply = _Reply(handle, True, _SIMPLE, 0, error)
        elif magic == _STRUCTURED:
            flags, kind, handle, size = struct.unpack("!HHQI", self._wire.receive(16))
            reply = _Reply(handle, bool(flags & _FLAG_DONE), kind, size)
        else:
            raise self._wire.bad(f"an answer begins with {magic:#010x}")
        if reply.handle not in expected:
            raise self._wire.bad(
                f"it answers request {reply.handle}, which was not asked"
            )
        if reply.kind in (_CHUNK_ERROR, _CHUNK_ERROR_OFFSET):
            raw = self._small(reply)
            error, length = self._wire.words("!IH", raw)
            raise self._failed(error, raw[6 : 6 + length].decode(errors="replace"))
        if reply.error:
            raise self._failed(reply.error, "")
        return reply

    def _wait_for(self, most: int) -> None:
        """Take answers to writes until at most so many are outstanding."""
        while len(self._pending) > most:
            reply = self._next(self._pending)
            self._small(reply)
            if reply.done:
                del self._pending[reply.handle]

    def _take_data(
        self, reply: _Reply, offset: int, buf: memoryview, pieces: dict[int, int]
    ) -> None:
        """Put what an answer to a read brings where it belongs in buf."""
        start = pieces[reply.handle]
        end = min(start + _PIECE, len(buf))
        if reply.kind == _SIMPLE:
            self._wire.receive_into(buf[start:end])
            return
        if reply.kind == _NONE:
            return
        if reply.kind not in (_OFFSET_DATA, _OFFSET_HOLE) or reply.size < 8:
            raise self._wire.bad(f"a read is answered with a part of kind {reply.kind}")
        at = struct.unpack("!Q", self._wire.receive(8))[0] - offset
        size = reply.size - 8
        if reply.kind == _OFFSET_HOLE:
            (size,) = struct.unpack("!I", self._wire.receive(4))
        if not start <= at <= at + size <= end:
            raise self._wire.bad("it answers a read with bytes from somewhere else")
        if reply.kind == _OFFSET_DATA:
            self._wire.receive_into(buf[at : at + size])
        else:
            buf[at : at + size] = bytes(size)

    def _ask_status(self, offset: int, size: int) -> list[list[tuple[int, int]]]:
        """Return (length, flags) of the runs from offset on, by context."""
        asked = {self._ask(_BLOCK_STATUS, offset, size)}
        found: dict[int, list[tuple[int, int]]] = {}
        while True:
            reply = self._next(asked)
            raw = self._small(reply)
            if reply.kind == _STATUS_OF and len(raw) % 8 == 4:
                words = struct.unpack(f"!{len(raw) // 4}I", raw)
                found[words[0]] = list(zip(words[1::2], words[2::2], strict=True))
            if reply.done:
                break
        runs = [found.get(number, []) for number in self._ids]
        if (
            not runs
            or not all(runs)
            or any(not size for one in runs for size, _ in one)
        ):
            raise self._wire.bad(f"it does not say what is at offset {offset}")
        return runs

    def _small(self, reply: _Reply) -> bytes:
        if reply.size > LARGEST_ANSWER:
            raise self._wire.bad(f"an answer has {reply.size} bytes")
        return self._wire.receive(reply.size)

    def _failed(self, number: int, text: str) -> SourceError:
        detail = f": {text}" if text else ""
        return SourceError(f"{self.name}: {os.strerror(number)}{detail}", errno=number)


def _joined(offset: int, runs: list[list[tuple[int, int]]]) -> Iterator[Status]:
    """Yield what several contexts say of the same bytes, as far as all do."""
    left = [iter(one) for one in runs]
    heads = [next(one, None) for one in left]
    while all(heads):
        known = [head for head in heads if head]
        length = min(size for size, _ in known)
        yield Status(offset, offset + length, tuple(flags for _, flags in known))
        offset += length
        for number, (size, flags) in enumerate(known):
            rest = (size - length, flags)
            heads[number] = rest if rest[0] else next(left[number], None)
