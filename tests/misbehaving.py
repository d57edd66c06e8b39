# SPDX-License-Identifier: Apache-2.0
"""
misbehaving - a server, or a proxy before one, that does wrong on purpose.

    with Misbehaving(files={"/layer": data}) as server:
        server.faults = ["cut", "", "503"]      # for the next requests, "" is none
        server.always = "stall"                 # for all after those

FAULTS says what each does. Only requests for blobs and files fail; those for
manifests and tokens do where `everything` is set. What was asked is noted.
"""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["FAULTS", "Misbehaving"]

# Longer than any deadline of a test.
_FOR_EVER = 60.0


class _Good(NamedTuple):
    """What a server that behaves answers."""

    status: int
    headers: dict[str, str]
    body: bytes


class Misbehaving:
    """The server.

    Attributes:
        url: http://127.0.0.1:PORT
        host: without the scheme.
        files: what it has itself, by path.
        faults: one for each of the next requests.
        always: the fault of those that come then.
        everything: whether requests for other things than blobs fail too.
        requests: (method, path, Range or "", Authorization or "").
        delay: seconds that "slow" waits.
        redirect: headers of a 307 that answers every GET; {}: none does.
    """

    def __init__(
        self, upstream: str = "", files: dict[str, bytes] | None = None
    ) -> None:
        """Be a proxy before upstream, or a server of files."""
        self.files = files or {}
        self.faults: list[str] = []
        self.always = ""
        self.everything = False
        self.delay = 0.3
        self.redirect: dict[str, str] = {}
        self.requests: list[tuple[str, str, str, str]] = []
        self.upstream = upstream
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(
            target=self._server.serve_forever, args=[0.02], daemon=True
        ).start()

    def fault_for(self, path: str) -> str:
        """Return what to do wrong with a request."""
        is_blob = path in self.files or "/blobs/sha" in path
        if not is_blob and not self.everything:
            return ""
        with self._lock:
            return self.faults.pop(0) if self.faults else self.always

    def stop(self) -> None:
        """End it, and every request that it holds up."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Misbehaving:
        """Return itself; it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients go away here all the time."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Misbehaving
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(size)
        asked = [self.headers.get(name, "") for name in ("Range", "Authorization")]
        self.owner.requests.append((self.command, self.path, asked[0], asked[1]))
        if self.owner.redirect and self.command == "GET":
            return self.say(307, self.owner.redirect, b"")
        fault = self.owner.fault_for(urlsplit(self.path).path)
        refuses = fault.startswith(("4", "5")) or fault in ("reset", "silent", "login")
        good = _Good(0, {}, b"") if refuses else self._good(sent)
        return FAULTS[fault](self, good)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _good(self, sent: bytes) -> _Good:
        path = urlsplit(self.path).path
        if path in self.owner.files:
            return self._file(self.owner.files[path])
        if not self.owner.upstream:
            return _Good(404, {}, b"")
        connection = http.client.HTTPConnection(urlsplit(self.owner.upstream).netloc)
        connection.request(self.command, self.path, sent, dict(self.headers.items()))
        answer = connection.getresponse()
        found = _Good(answer.status, dict(answer.headers.items()), answer.read())
        connection.close()
        return found

    def _file(self, data: bytes) -> _Good:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted:
            return _Good(200, {"Content-Length": str(len(data))}, data)
        start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        if start >= end:
            return _Good(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        said = f"bytes {start}-{end - 1}/{len(data)}"
        body = data[start:end]
        fields = {"Content-Range": said, "Content-Length": str(len(body))}
        return _Good(206, fields, body)

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer."""
        self.send_response(status)
        known = {name.lower() for name in headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in known and "transfer-encoding" not in known:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self, *, hard: bool = False) -> None:
        """Close the connection; hard: as if the machine had lost it."""
        self.wfile.flush()
        if hard:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, or until the server ends."""
        self.owner.stopping.wait(seconds)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


_Fault = Callable[[_Handler, _Good], None]
FAULTS: dict[str, _Fault] = {"": lambda handler, good: handler.say(*good)}


def _fault(name: str) -> Callable[[_Fault], _Fault]:
    def note(function: _Fault) -> _Fault:
        FAULTS[name] = function
        return function

    return note


@_fault("cut")
def _cut(handler: _Handler, good: _Good) -> None:
    """Promise all, send half, close."""
    handler.say(good.status, good.headers, good.body[: len(good.body) // 2])
    handler.hang_up()


@_fault("reset")
def _reset(handler: _Handler, good: _Good) -> None:
    """Answer nothing at all and drop the connection."""
    del good
    handler.hang_up(hard=True)


# As "reset", but what was asked for has been done.
FAULTS["lost"] = _reset


@_fault("stall")
def _stall(handler: _Handler, good: _Good) -> None:
    """Send half and then nothing any more."""
    handler.say(good.status, good.headers, good.body[: len(good.body) // 2])
    handler.wfile.flush()
    handler.wait(_FOR_EVER)
    handler.hang_up()


@_fault("silent")
def _silent(handler: _Handler, good: _Good) -> None:
    """Never answer."""
    del good
    handler.wait(_FOR_EVER)
    handler.hang_up()


@_fault("drip")
def _drip(handler: _Handler, good: _Good) -> None:
    """Send a byte now and then, so that no wait is long."""
    handler.say(good.status, good.headers, b"")
    for byte in good.body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.owner.stopping.wait(0.05):
            break
    handler.hang_up()


@_fault("header-drip")
def _header_drip(handler: _Handler, good: _Good) -> None:
    """Send the header a byte now and then."""
    del good
    for byte in b"HTTP/1.1 206 Partial Content\r\nX-Long: " + b"x" * 4000:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.owner.stopping.wait(0.05):
            break
    handler.hang_up()


@_fault("slow")
def _slow(handler: _Handler, good: _Good) -> None:
    """Start late."""
    handler.wait(handler.owner.delay)
    handler.say(*good)


@_fault("short")
def _short(handler: _Handler, good: _Good) -> None:
    """Say that the range is whole, with a body that is not."""
    body = good.body[:-7]
    handler.say(good.status, {**good.headers, "Content-Length": str(len(body))}, body)


@_fault("long")
def _long(handler: _Handler, good: _Good) -> None:
    """Send more than the range has."""
    body = good.body + b"and more"
    handler.say(good.status, {**good.headers, "Content-Length": str(len(body))}, body)


@_fault("long-chunked")
def _long_chunked(handler: _Handler, good: _Good) -> None:
    """Send more than the range has, and do not say how much that is."""
    fields = {k: v for k, v in good.headers.items() if k != "Content-Length"}
    body = good.body + b"and more"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    handler.say(good.status, {**fields, "Transfer-Encoding": "chunked"}, chunks)


@_fault("chunked")
def _chunked(handler: _Handler, good: _Good) -> None:
    """Do nothing wrong: only leave out the length."""
    fields = {k: v for k, v in good.headers.items() if k != "Content-Length"}
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(good.body), good.body)
    chunks = chunks if good.body else b"0\r\n\r\n"
    handler.say(good.status, {**fields, "Transfer-Encoding": "chunked"}, chunks)


@_fault("wrong-range")
def _wrong_range(handler: _Handler, good: _Good) -> None:
    """Send another range, and say so."""
    start, end, total = _range(good)
    said = f"bytes {start + 512}-{end + 512}/{total}"
    handler.say(good.status, {**good.headers, "Content-Range": said}, good.body)


@_fault("wrong-total")
def _wrong_total(handler: _Handler, good: _Good) -> None:
    """Say that the file has another size."""
    start, end, total = _range(good)
    said = f"bytes {start}-{end}/{total + 1}"
    handler.say(good.status, {**good.headers, "Content-Range": said}, good.body)


@_fault("no-range")
def _no_range(handler: _Handler, good: _Good) -> None:
    """Send a part and do not say which."""
    fields = {k: v for k, v in good.headers.items() if k != "Content-Range"}
    handler.say(good.status, fields, good.body)


@_fault("whole")
def _whole(handler: _Handler, good: _Good) -> None:
    """Answer 200 with all of the file."""
    del good
    data = handler.owner.files.get(urlsplit(handler.path).path, b"")
    handler.say(200, {}, data)


@_fault("login")
def _login(handler: _Handler, good: _Good) -> None:
    """Answer 200 with a page that wants a login."""
    del good
    page = b"<html><body>Welcome to the hotel's network</body></html>"
    handler.say(200, {"Content-Type": "text/html; charset=utf-8"}, page)


@_fault("garbage")
def _garbage(handler: _Handler, good: _Good) -> None:
    """Answer as asked, with other bytes."""
    handler.say(good.status, good.headers, bytes(byte ^ 0x5A for byte in good.body))


@_fault("encoded")
def _encoded(handler: _Handler, good: _Good) -> None:
    """Answer with bytes that something was done to."""
    handler.say(good.status, {**good.headers, "Content-Encoding": "gzip"}, good.body)


@_fault("changed")
def _changed(handler: _Handler, good: _Good) -> None:
    """Answer with a file that is another one, as its ETag says."""
    handler.say(good.status, {**good.headers, "ETag": f'"{time.time()}"'}, good.body)


@_fault("no-http")
def _no_http(handler: _Handler, good: _Good) -> None:
    """Answer in no known language."""
    del good
    handler.wfile.write(b"220 mail.example ESMTP\r\n")
    handler.hang_up()


def _range(good: _Good) -> tuple[int, int, int]:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", good.headers["Content-Range"])
    assert found
    return int(found[1]), int(found[2]), int(found[3])


def _status(status: int, **headers: str) -> _Fault:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, good: handler.say(status, fields, b"")


for _code in (400, 401, 403, 404, 408, 416, 500, 502, 503, 504):
    FAULTS[str(_code)] = _status(_code)
FAULTS["429"] = _status(429, Retry_After="1")
FAULTS["429-long"] = _status(429, Retry_After="3600")
