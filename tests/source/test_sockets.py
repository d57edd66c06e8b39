# SPDX-License-Identifier: Apache-2.0
"""test_sockets - no wait is longer than the limit, and progress resets the silence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from obdengine.source.sockets import connect, speaks_tls, time_limit

PIECE = 64 << 10

# Seconds that a loaded machine may take for what takes no time.
GRACE = 30.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@contextmanager
def reading(listener: socket.socket, pauses: Iterable[object]) -> Iterator[None]:
    """Read a piece of what the first client sends, after each of the pauses."""

    def work() -> None:
        client, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        with client:
            for _ in pauses:
                client.recv(PIECE, socket.MSG_WAITALL)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def test_slow_reader_is_waited_for(listener: socket.socket) -> None:
    silence = 2.0
    with reading(listener, (time.sleep(silence / 60) for _ in range(80))):
        began = time.monotonic()
        with (
            time_limit(began + GRACE, silence),
            connect(*listener.getsockname(), GRACE) as sock,
        ):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
            sock.sendall(bytes(80 * PIECE))
        assert time.monotonic() - began > silence


@pytest.mark.parametrize(("end", "silence"), [(GRACE, 0.3), (0.3, GRACE)])
def test_reader_that_stops_is_not(
    listener: socket.socket, end: float, silence: float
) -> None:
    over = threading.Event()
    with (
        reading(listener, (over.wait(GRACE) for _ in range(1))),
        connect(*listener.getsockname(), GRACE) as sock,
    ):
        began = time.monotonic()
        with time_limit(began + end, silence), pytest.raises(TimeoutError):
            sock.sendall(bytes(256 * PIECE))
        assert time.monotonic() - began < GRACE
        over.set()


def test_limit_that_has_passed(listener: socket.socket) -> None:
    with time_limit(time.monotonic() - 1, 30), pytest.raises(TimeoutError):
        connect(*listener.getsockname(), 1.0)


def test_silent_server_may_speak_tls(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    began = time.monotonic()
    assert speaks_tls(host, port, 0.3) is None
    assert time.monotonic() - began < GRACE
    listener.close()
    assert speaks_tls(host, port, 0.3) is None
