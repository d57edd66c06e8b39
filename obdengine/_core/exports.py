# SPDX-License-Identifier: Apache-2.0
"""exports - one NBD connection after its negotiation: what C does of it."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from obdengine._core.binding import ffi, lib, made, source
from obdengine._core.ports import Port

__all__ = ["REQUEST_MAX", "Call", "Command", "Event", "Session", "SessionOptions"]

REQUEST_MAX: int = lib.OBD_REQUEST_MAX


class Command(enum.IntEnum):
    """What an NBD client may ask for."""

    READ = lib.NBD_CMD_READ
    WRITE = lib.NBD_CMD_WRITE
    FLUSH = lib.NBD_CMD_FLUSH
    TRIM = lib.NBD_CMD_TRIM
    CACHE = lib.NBD_CMD_CACHE
    WRITE_ZEROES = lib.NBD_CMD_WRITE_ZEROES
    BLOCK_STATUS = lib.NBD_CMD_BLOCK_STATUS


class Event(enum.IntEnum):
    """Why serve() has returned."""

    OVER = lib.OBD_EXPORT_OVER
    CALL = lib.OBD_EXPORT_CALL
    THREAD = lib.OBD_EXPORT_THREAD


class SessionOptions(NamedTuple):
    """What was agreed on.

    Attributes:
        size: of the disk, bytes.
        writable: whether changes are taken.
        structured: whether replies are structured.
        allocation_id: of the context base:allocation, None when not chosen.
        layer_id: of obd:layer, likewise.
    """

    size: int
    writable: bool
    structured: bool
    allocation_id: int | None
    layer_id: int | None


class Call:
    """A request that C has handed out; good until it is answered."""

    def __init__(self, pointer: Any) -> None:
        """Wrap the struct obd_call of a thread."""
        self._c = pointer

    @property
    def command(self) -> Command:
        """What is asked for."""
        return Command(self._c.type)

    @property
    def offset(self) -> int:
        """Where, in bytes."""
        return int(self._c.offset)

    @property
    def size(self) -> int:
        """How much, in bytes."""
        return int(self._c.size)

    @property
    def fua(self) -> bool:
        """Whether it must be durable before it is answered."""
        return bool(self._c.flags & lib.NBD_CMD_FLAG_FUA)

    @property
    def is_changed(self) -> bool:
        """Whether only making it durable is left of it."""
        return bool(self._c.is_written)

    @property
    def data(self) -> memoryview:
        """What a write brings."""
        return memoryview(ffi.buffer(self._c.data, self._c.size))


class Session:
    """A connection in transmission. Borrows the socket: keep it open, blocking."""

    def __init__(self, fd: int, port: Port, options: SessionOptions) -> None:
        """Serve what is behind port on fd, from where negotiation has ended."""
        setup = ffi.new("struct obd_export_setup *")
        setup.fd, setup.port = fd, port._c
        setup.size, setup.writable = options.size, options.writable
        setup.structured = options.structured
        setup.has_allocation = options.allocation_id is not None
        setup.allocation_id = options.allocation_id or 0
        setup.has_layer = options.layer_id is not None
        setup.layer_id = options.layer_id or 0
        pointer = made(lib.obd_export_new(setup), "a connection")
        self._c = ffi.gc(pointer, lib.obd_export_free)
        self._port = port

    @contextmanager
    def thread(self) -> Iterator[Call]:
        """Give the calling thread what its requests are kept in."""
        call = ffi.new("struct obd_call *")
        try:
            yield Call(call)
        finally:
            lib.obd_call_clear(call)

    def serve(self, call: Call, *, may_grow: bool) -> Event:
        """Serve with this thread until there is something that C cannot do.

        CALL: call is to be answered. THREAD: another thread is wanted, whether
        or not it comes; then serve on. OVER: the connection has ended.
        """
        return Event(lib.obd_export_serve(self._c, call._c, may_grow))

    def answer(self, call: Call, data: bytearray | None = None) -> None:
        """Say that it is done; data is what a read found."""
        raw = ffi.NULL if data is None else source(data)
        lib.obd_export_answer(self._c, call._c, 0, raw, ffi.NULL)

    def fail(self, call: Call, error: int, message: str) -> None:
        """Say that it failed: an errno of NBD's, and why."""
        said = ffi.new("char[]", message.encode(errors="replace").replace(b"\0", b"?"))
        lib.obd_export_answer(self._c, call._c, error, ffi.NULL, said)
