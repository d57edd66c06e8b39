# SPDX-License-Identifier: Apache-2.0
"""
server - listens, and gives each client a thread.

It opens no image and removes no socket file; that is its caller's.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from pathlib import Path
from typing import Any

from obdengine.errors import ObdError
from obdengine.nbd.connection import Connection
from obdengine.nbd.exports import Exports

__all__ = ["Server", "listen_at_port", "listen_at_socket"]

_BACKLOG = 128

# After an accept that failed, as for want of descriptors.
_PAUSE = 0.1


def listen_at_socket(path: Path) -> socket.socket:
    """Return a unix socket that listens at path; raises ObdError."""
    listener = socket.socket(socket.AF_UNIX)
    return _listening(listener, str(path), str(path))


def listen_at_port(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at a port, for every address that host has."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ObdError(f"{host}: {error.strerror}") from error
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, address in found:
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listeners.append(_listening(listener, address, f"{host} port {port}"))
    return listeners


def _listening(listener: socket.socket, address: Any, name: str) -> socket.socket:
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ObdError(f"{name}: {error.strerror}", errno=error.errno) from error
    listener.setblocking(False)
    return listener


class Server:
    """Serves exports at sockets that listen, which it takes over."""

    def __init__(self, listeners: list[socket.socket], exports: Exports) -> None:
        """Nobody is served before start()."""
        self._listeners = listeners
        self._exports = exports
        self._lock = threading.Lock()
        self._clients: dict[Connection, threading.Thread] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="nbd", daemon=True)

    def start(self) -> None:
        """Take connections, in threads that do not keep the process alive."""
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Take no more, and end those there are: their requests have that long."""
        self._wake.close()
        if self._thread.is_alive():
            self._thread.join()
        for listener in self._listeners:
            listener.close()
        with self._lock:
            clients = dict(self._clients)
        deadline = time.monotonic() + seconds
        for client in clients:
            client.stop()
        for thread in clients.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector, self._woken:
            for place in (self._woken, *self._listeners):
                selector.register(place, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    return
                for listener in ready:
                    assert isinstance(listener, socket.socket)
                    self._take(listener)

    def _take(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            time.sleep(_PAUSE)
            return
        connection = Connection(client, self._exports)
        thread = threading.Thread(
            target=self._serve, args=[connection], name="nbd", daemon=True
        )
        with self._lock:
            self._clients[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            client.close()
            self._forget(connection)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._clients.pop(connection, None)
