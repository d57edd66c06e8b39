# SPDX-License-Identifier: Apache-2.0
"""
link - a slow line to a server: so many bytes a second, so long for each way.

All connections share the line, as they would share a cable. A connection
takes one round trip to be made, as TCP's does. What passes is counted.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType

__all__ = ["Link"]

_PIECE = 16 * 1024


class _Direction:
    """One half of the line: pieces go one after the other, and arrive later."""

    def __init__(self, rate: float, delay: float) -> None:
        self._rate, self._delay = rate, delay
        self._lock = threading.Lock()
        self._free = 0.0
        self.passed = 0

    def due(self, size: int) -> float:
        """Return when the last byte of a piece that is sent now arrives."""
        with self._lock:
            self.passed += size
            self._free = max(self._free, time.monotonic()) + size / self._rate
            return self._free + self._delay


class Link:
    """A port of loopback that leads to another one by a slow line.

    Attributes:
        port: where it listens.
    """

    def __init__(self, upstream: int, megabits: float, milliseconds: float) -> None:
        """Lead to the port upstream; milliseconds is for each way."""
        self._upstream = upstream
        rate, delay = megabits * 1e6 / 8, milliseconds / 1000
        self._delay = delay
        self._there, self._back = _Direction(rate, delay), _Direction(rate, delay)
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def fetched(self) -> int:
        """Bytes that came back so far."""
        return self._back.passed

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def __enter__(self) -> Link:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                threading.Thread(target=self._join, args=[near], daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        time.sleep(2 * self._delay)
        far = socket.create_connection(("127.0.0.1", self._upstream))
        for a, b, way in ((near, far, self._there), (far, near, self._back)):
            a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(256)
            threading.Thread(target=_read, args=[a, way, pieces], daemon=True).start()
            threading.Thread(target=_write, args=[b, pieces], daemon=True).start()


def _read(
    end: socket.socket, way: _Direction, pieces: queue.Queue[tuple[float, bytes]]
) -> None:
    data = b"?"
    while data:
        try:
            data = end.recv(_PIECE)
        except OSError:
            data = b""
        pieces.put((way.due(len(data)), data))


def _write(end: socket.socket, pieces: queue.Queue[tuple[float, bytes]]) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = pieces.get()
            time.sleep(max(due - time.monotonic(), 0.0))
            if not data:
                end.shutdown(socket.SHUT_WR)
                return
            end.sendall(data)
