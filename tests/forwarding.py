# SPDX-License-Identifier: Apache-2.0
"""forwarding - a proxy for HTTP: what it is asked for, and by whom, is noted."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import select
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["Proxy"]


class Proxy:
    """A running proxy.

    Attributes:
        url: http://127.0.0.1:PORT
        asked: (method, target, Proxy-Authorization or "") of each request.
    """

    def __init__(self, names: dict[str, str] | None = None) -> None:
        """Start it; names: the host:port that is meant by another one."""
        self.names = names or {}
        self.asked: list[tuple[str, str, str]] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=[0.02], daemon=True).start()

    def __enter__(self) -> Proxy:
        """Return itself; it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Fetch what a client without TLS asks for."""
        self._note()
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(self._meant(parts.netloc))
        connection.request("GET", parts.path, headers=dict(self.headers.items()))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def do_CONNECT(self) -> None:
        """Let a client with TLS speak with a server."""
        self._note()
        host, _, port = self._meant(self.path).partition(":")
        with socket.create_connection((host, int(port))) as server:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            with contextlib.suppress(OSError):
                _carry(self.connection, server)
        self.close_connection = True

    def _note(self) -> None:
        who = self.headers.get("Proxy-Authorization", "")
        self.owner.asked.append((self.command, self.path, who))

    def _meant(self, name: str) -> str:
        return self.owner.names.get(name, name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            data = ready.recv(1 << 16)
            if not data:
                return
            (other if ready is one else one).sendall(data)
