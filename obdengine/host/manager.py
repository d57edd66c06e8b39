# SPDX-License-Identifier: Apache-2.0
"""
manager - a process that keeps this machine's devices up, and can be gone itself.

It makes what shall be there after a reboot, starts servers again that have
died, and answers on a socket:

    GET  /devices                    what is attached
    POST /attach   {"image": ...}    as `obd attach`, the words of a Record
    POST /detach?name=NAME           as `obd detach`

All that it knows is in the records: when it ends the devices stay, and the
next one finds them. systemd may give it its socket, and start it on demand.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from obdengine.errors import Busy, HostError, ObdError, UsageError
from obdengine.host import devices
from obdengine.host.records import Places, Record

__all__ = ["SOCKET", "Manager", "activated_socket", "listen"]

SOCKET = "manager.sock"

# systemd gives sockets from this descriptor on.
_FIRST_GIVEN = 3

_MAX_BODY = 1 << 20

# A device that does not come up is tried again so often, and not faster.
_STEP_SECONDS = 2.0


class Manager:
    """Keeps devices up until it is told to stop."""

    def __init__(
        self,
        places: Places,
        listening: socket.socket,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Answer on a socket that listens; tell() gets a line for each event."""
        self.places = places
        self._tell = tell
        self._server = _Server(listening, places)
        self._wake, self._alarm = socket.socketpair()
        self._failed: dict[str, str] = {}

    def run(self) -> None:
        """Work until stop(); what goes wrong with one device is told."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        while True:
            self._mend()
            if self._wait():
                break
        self._server.shutdown()
        self._server.socket.close()

    def stop(self) -> None:
        """Let run() return; signal handlers may call this."""
        self._alarm.send(b"x")

    def _mend(self) -> None:
        for name, error in devices.restore(self.places):
            if error is None:
                self._failed.pop(name, None)
                self._tell(f"{name}: up")
            elif self._failed.get(name) != str(error):
                self._failed[name] = str(error)
                self._tell(f"{name}: {error}")

    def _wait(self) -> bool:
        """Wait until a process ends or some time is over; tell whether to stop."""
        with selectors.DefaultSelector() as chosen:
            chosen.register(self._wake, selectors.EVENT_READ)
            fds = [fd for fd in map(_watch, self._processes()) if fd is not None]
            for fd in fds:
                chosen.register(fd, selectors.EVENT_READ)
            seen = [key.fileobj for key, _ in chosen.select(_STEP_SECONDS)]
            for fd in fds:
                os.close(fd)
        return self._wake in seen

    def _processes(self) -> list[int]:
        """Return the pids of what must not end, and runs."""
        up = [r for r in devices.attached(self.places) if devices.health(r) == "up"]
        found = [process for r in up for process in (r.server, *(r.bridge or ()))]
        return [process.pid for process in found if process]


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at path, for its owner; Busy when one does."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    made = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise Busy(f"{path}: another manager listens there")
            path.unlink()
        os.fchmod(made.fileno(), 0o600)
        made.bind(str(path))
        made.listen()
    except OSError as error:
        made.close()
        raise HostError(f"{path}: {error.strerror or error}") from error
    except Busy:
        made.close()
        raise
    return made


def activated_socket() -> socket.socket | None:
    """Return the socket that systemd started us for, None when it did not."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if int(os.environ.get("LISTEN_FDS", "0")) < 1:
        return None
    for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(key, None)  # they are not for the servers
    os.set_inheritable(_FIRST_GIVEN, False)
    return socket.socket(fileno=_FIRST_GIVEN)


def _watch(pid: int) -> int | None:
    with suppress(OSError):
        return os.pidfd_open(pid)
    return None


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, places: Places) -> None:
        super().__init__(listening.getsockname(), _Handler)
        self.socket = listening
        self.places = places

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, str]:
        return self.socket.accept()[0], ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client has gone

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        request.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "obdengine", ""
    timeout = 30.0

    def do_GET(self) -> None:
        self._answer({"/devices": self._devices})

    def do_POST(self) -> None:
        self._answer({"/attach": self._attach, "/detach": self._detach})

    def _answer(self, actions: dict[str, Callable[[], Any]]) -> None:
        action = actions.get(urlsplit(self.path).path)
        if action is None:
            self._send(404, {"error": f"nothing is there: {self.path}"})
            return
        try:
            self._send(200, action())
        except UsageError as error:
            self._send(409 if isinstance(error, Busy) else 400, {"error": str(error)})
        except (ObdError, OSError) as error:
            self._send(500, {"error": str(error)})

    def _devices(self) -> list[dict[str, Any]]:
        found = devices.attached(self.server.places)
        return [{**asdict(record), "state": devices.health(record)} for record in found]

    def _attach(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length") or "0"
        body = (
            self.rfile.read(min(int(length), _MAX_BODY)) if length.isdecimal() else b""
        )
        wanted, way = _wanted(body)
        record, _ = devices.attach(self.server.places, wanted, way=way)
        return {**asdict(record), "state": "up"}

    def _detach(self) -> dict[str, Any]:
        words = parse_qs(urlsplit(self.path).query).get("name", [""])
        return {"name": devices.detach(self.server.places, words[-1])}

    def _send(self, status: int, reply: object) -> None:
        body = json.dumps(reply, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "manager"

    def log_message(self, format: str, *args: object) -> None:
        pass  # the reply says it


# What a client may say of a device; the rest is ours to know.
_ASKED = {"name", "image", "options", "patience", "connections", "timeout"}
_ASKED |= {"keep", "owner"}


def _wanted(body: bytes) -> tuple[Record, str | None]:
    try:
        found = json.loads(body)
        way = found.pop("way", None)
        known = {entry.name for entry in fields(Record)} & _ASKED
        strange = set(found) - known
        if strange or not isinstance(found["image"], list):
            raise UsageError(
                f"unknown: {sorted(strange)}; the words are {sorted(known)}"
            )
        return Record(**{"name": "", **found}), way
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"this is no device: {error}") from error
