# SPDX-License-Identifier: Apache-2.0
"""
sockets - connections that keep to a deadline, whatever the other side does.

A timeout of a socket is for one call: a server that sends a byte now and then
can hold a request for ever. Here every wait of a socket is cut to what is left
of the limit that the thread has set. Nothing here knows what is asked for.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "connect",
    "connect_unix",
    "is_loopback",
    "speaks_tls",
    "time_limit",
    "tls_context",
]


class _Limit(threading.local):
    """Until when (time.monotonic()) this thread waits, and how long for one byte."""

    end = float("inf")
    silence = 60.0


_limit = _Limit()


@contextmanager
def time_limit(end: float, silence: float) -> Iterator[None]:
    """Let this thread's sockets wait until end, and silence seconds for a byte."""
    before = _limit.end, _limit.silence
    _limit.end, _limit.silence = end, silence
    try:
        yield
    finally:
        _limit.end, _limit.silence = before


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def tls_context() -> ssl.SSLContext:
    """Return a verifying TLS context whose sockets keep to the limit."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TlsSocket
    return context


# What OpenSSL says of a server that answers in another language than TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def speaks_tls(host: str, port: int, seconds: float) -> bool | None:
    """Tell whether what listens there speaks TLS; None: nothing can be heard.

    Nothing is verified, and nothing is said that would be secret.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            time_limit(time.monotonic() + seconds, seconds),
            connect(host, port, seconds) as sock,
            context.wrap_socket(sock),
        ):
            return True
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError as error:
        return error.reason not in _NO_TLS
    except ConnectionResetError:
        return False
    except OSError:
        return None


def _left(longest: float) -> float:
    """Return the seconds to wait now; raises TimeoutError when none are left."""
    left = _limit.end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return min(left, longest)


_PIECE = 64 << 10


class _Timed:
    """What both kinds of socket do before they wait."""

    # http.client reads through recv_into, and writes through sendall.
    def recv_into(self, *args: Any, **more: Any) -> int:
        self.settimeout(_left(_limit.silence))  # type: ignore[attr-defined]
        return super().recv_into(*args, **more)  # type: ignore[misc, no-any-return]

    def recv(self, *args: Any) -> bytes:
        self.settimeout(_left(_limit.silence))  # type: ignore[attr-defined]
        return super().recv(*args)  # type: ignore[misc, no-any-return]

    def send(self, *args: Any) -> int:
        self.settimeout(_left(_limit.silence))  # type: ignore[attr-defined]
        return super().send(*args)  # type: ignore[misc, no-any-return]

    # The timeout of sendall() is for all of it: a slow line needs one for each
    # piece that gets through.
    def sendall(self, data: Any, *args: Any) -> None:
        view = memoryview(data).cast("B")
        for offset in range(0, len(view), _PIECE):
            self.settimeout(_left(_limit.silence))  # type: ignore[attr-defined]
            super().sendall(view[offset : offset + _PIECE], *args)  # type: ignore[misc]


class _PlainSocket(_Timed, socket.socket):
    pass


class _TlsSocket(_Timed, ssl.SSLSocket):
    pass


def connect(host: str, port: int, longest: float) -> socket.socket:
    """Return a socket to the first address of host that answers."""
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in _addresses(host, port):
        sock = _PlainSocket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.settimeout(_left(longest))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


_Addresses = list[tuple[Any, Any, int, str, Any]]


def _addresses(host: str, port: int) -> _Addresses:
    """Return where host is. getaddrinfo() knows no timeout: a thread waits for it."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return _looked_up(host, port)
    return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)


def _looked_up(host: str, port: int) -> _Addresses:
    answer: queue.SimpleQueue[_Addresses | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=ask, name="obd-resolve", daemon=True).start()
    try:
        found = answer.get(timeout=min(_left(_limit.silence), threading.TIMEOUT_MAX))
    except queue.Empty:
        raise TimeoutError(f"{host}: no answer from the name servers") from None
    if isinstance(found, OSError):
        raise found
    return found


def connect_unix(path: str) -> socket.socket:
    """Return a socket to what listens at path."""
    sock = _PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(_limit.silence))
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
