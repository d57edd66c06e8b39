# SPDX-License-Identifier: Apache-2.0
"""
connection - one client: negotiation, then threads that stay in C.

What C cannot do by itself is done here, on the Device: bytes that must be
fetched, and whatever fails, which gets its sentence here.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Callable

from obdengine import _core
from obdengine._core import Call, Command, Event
from obdengine.device import Device
from obdengine.errors import ObdError
from obdengine.nbd.exports import Exports
from obdengine.nbd.negotiation import Agreement, ClientGone, negotiate
from obdengine.nbd.words import ALLOCATION, LAYER

__all__ = ["MOST_THREADS", "Connection"]

# A client that says nothing is not waited for; one that is served may be idle.
_NEGOTIATION_SECONDS = 30.0

# Requests of one connection that wait at a time, for a disk or the network.
# Each has a thread; more wait unread. nbdkit has 16.
MOST_THREADS = 64

# What a unix socket may hold, as far as the system allows: four large replies.
# Copies of whole disks are 10 to 40 % faster than with Linux's 208 KiB (nbdcopy,
# fio; 2026-11-22). TCP finds its own.
_SEND_BUFFER = 1 << 20

# NBD has few of its own; other errnos are none of a client's business.
_KNOWN = {errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC}
_TOLD_AS = {
    errno.EROFS: errno.EPERM,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
}


class Connection:
    """A client that was accepted; run() serves it until it ends."""

    def __init__(self, client: socket.socket, exports: Exports) -> None:
        """Take over the socket."""
        self._client = client
        self._exports = exports
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Serve; whatever the client does, this returns when it has gone."""
        try:
            if agreement := self._negotiate():
                self._transmit(agreement)
        finally:
            self._client.close()

    def stop(self) -> None:
        """End it, from another thread; run() returns soon."""
        # It may have ended by itself.
        try:
            self._client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _negotiate(self) -> Agreement | None:
        client = self._client
        try:
            client.settimeout(_NEGOTIATION_SECONDS)
            if client.family == socket.AF_UNIX:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            else:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            agreement = negotiate(client, self._exports)
            client.settimeout(None)
        except (ClientGone, OSError):
            return None
        return agreement

    def _transmit(self, agreement: Agreement) -> None:
        device, contexts = agreement.export.device, agreement.contexts
        options = _core.SessionOptions(
            size=device.size,
            writable=not device.readonly,
            structured=agreement.structured,
            allocation_id=contexts.get(ALLOCATION),
            layer_id=contexts.get(LAYER),
        )
        session = _core.Session(self._client.fileno(), device.port, options)
        self._work(session, device)
        # Started by threads that have ended, so that the list grows no more.
        for thread in self._threads:
            thread.join()

    def _work(self, session: _core.Session, device: Device) -> None:
        with session.thread() as call:
            may_grow = True
            while True:
                event = session.serve(call, may_grow=may_grow)
                if event is Event.OVER:
                    return
                if event is Event.THREAD:
                    may_grow = self._grow(lambda: self._work(session, device))
                else:
                    _answer(session, device, call)

    def _grow(self, work: Callable[[], None]) -> bool:
        """Start one more thread: False when there are enough."""
        with self._lock:
            if len(self._threads) + 1 >= MOST_THREADS:
                return False
            thread = threading.Thread(target=work, name="nbd", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more of them
                return False
            self._threads.append(thread)
            return True


def _answer(session: _core.Session, device: Device, call: Call) -> None:
    try:
        data = _do(device, call)
    except (ObdError, OSError) as error:
        print(f"obd: {error}", file=sys.stderr, flush=True)
        session.fail(call, _told(error.errno), str(error))
    except BaseException:
        session.fail(call, errno.EIO, "internal error")
        raise
    else:
        session.answer(call, data)


def _do(device: Device, call: Call) -> bytearray | None:
    """Do what a request says, and return what a read found."""
    if call.command is Command.READ:
        data = bytearray(call.size)
        device.pread_into(call.offset, data)
        return data
    if not call.is_changed:
        _change(device, call)
    if call.command is Command.FLUSH or call.fua:
        device.flush()
    return None


def _change(device: Device, call: Call) -> None:
    offset, size = call.offset, call.size
    if call.command is Command.WRITE:
        device.pwrite(offset, call.data)
    elif call.command is Command.TRIM:
        device.discard(offset, size)
    elif call.command is Command.WRITE_ZEROES:
        device.write_zeroes(offset, size)
    elif call.command is Command.CACHE:
        device.cache(offset, size)
    elif call.command is Command.BLOCK_STATUS:
        raise ObdError("the extents of the disk cannot be told")


def _told(number: int | None) -> int:
    """Return the errno that a client is told for one of this system's."""
    number = number or errno.EIO
    number = _TOLD_AS.get(number, number)
    return number if number in _KNOWN else errno.EIO
