# SPDX-License-Identifier: Apache-2.0
"""test_sockets - no wait is longer than the limit, and progress resets the silence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from obdengine.source.sockets import connect, speaks_tls, time_limit

PIECE = 64 << 10


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def reading(listener: socket.socket, pause: float, pieces: int) -> threading.Thread:
    """Read so many pieces of what the first client sends, with a pause before each."""

    def work() -> None:
        client, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        with client:
            for _ in range(pieces):
                time.sleep(pause)
                client.recv(PIECE, socket.MSG_WAITALL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_slow_reader_is_waited_for(listener: socket.socket) -> None:
    thread = reading(listener, 0.02, 80)
    began = time.monotonic()
    with (
        time_limit(began + 30, 0.5),
        connect(*listener.getsockname(), 1.0) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        sock.sendall(bytes(80 * PIECE))
    assert time.monotonic() - began > 0.5
    thread.join()


@pytest.mark.parametrize(("end", "silence"), [(30.0, 0.3), (0.3, 30.0)])
def test_reader_that_stops_is_not(
    listener: socket.socket, end: float, silence: float
) -> None:
    thread = reading(listener, 1.0, 1)
    with (
        time_limit(time.monotonic() + end, silence),
        connect(*listener.getsockname(), 1.0) as sock,
    ):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(256 * PIECE))
        assert time.monotonic() - began < 0.9
    thread.join()


def test_limit_that_has_passed(listener: socket.socket) -> None:
    with time_limit(time.monotonic() - 1, 30), pytest.raises(TimeoutError):
        connect(*listener.getsockname(), 1.0)


def test_silent_server_may_speak_tls(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    began = time.monotonic()
    assert speaks_tls(host, port, 0.3) is None
    assert time.monotonic() - began < 1.0
    listener.close()
    assert speaks_tls(host, port, 0.3) is None
