# SPDX-License-Identifier: Apache-2.0
"""
control - what a running server can be told to do with its images: HTTP on a socket.

    POST /snapshot?dev_id=EXPORT&config=PATH    seal the upper, go on in a new one
    POST /compact?dev_id=EXPORT                 write the index of the upper anew
    POST /resize?dev_id=EXPORT&size=BYTES       another size; +BYTES are added
    POST /merge?dev_id=EXPORT&to=PATH&first=I&end=J     layers I up to J as one
    POST /trace/start?dev_id=EXPORT&to=PATH     record what is read
    POST /trace/stop?dev_id=EXPORT              end that, and write it
    GET  /stats?dev_id=EXPORT                   what the image holds now

The first is overlaybd's. Both of its words may be left out: a server of one
image needs no name, and without a PATH the image's own configuration goes on.
A reply is a JSON object: `success` and `message`, or the facts.

The socket is for its owner alone. What a request means is up to other rooms.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from obdengine.device import Device
from obdengine.errors import (
    Busy,
    Closed,
    ObdError,
    ReadOnly,
    SourceError,
    SourceMissing,
    UsageError,
)
from obdengine.layer import Upper
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.merge_live import merge_live
from obdengine.ops.resize import resize_live
from obdengine.ops.snapshot import snapshot
from obdengine.ops.traces import Recording
from obdengine.source import Remote
from obdengine.units import SECTOR

__all__ = ["Control", "Served", "ask", "facts"]

# Nobody has so much to say, nor takes so long.
_MAX_BODY = 64 << 10
_PATIENCE = 30.0

# Of a client, which waits for a snapshot of a large index, or for layers that
# are merged.
_CLIENT_PATIENCE = 600.0
_CLIENT_PATIENCE_FOR_DATA = 86400.0


@dataclass
class Served:
    """An image that is open in a server.

    Attributes:
        device: the disk.
        config: the configuration that describes it; None for layers alone, and
            for images of a registry.
    """

    device: Device
    config: Path | None
    recording: Recording | None = None


class Control:
    """The socket of one server, and the thread that answers on it."""

    def __init__(self, path: Path, find: Callable[[str], Served]) -> None:
        """Listen at path, in place of a socket that nobody listens on.

        find returns the image that a dev_id means, "" when none was named, or
        raises ObdError. Raises Busy when something else is at path,
        SourceError when it cannot be made. Nothing answers before start().
        """
        self.path = path
        self._server = _Server(_listen(path), find)
        self._made = path.lstat()

    def start(self) -> None:
        """Answer, in a thread that does not keep the process alive."""
        threading.Thread(
            target=self._server.serve_forever, name="control", daemon=True
        ).start()
        self._server.started = True

    def close(self) -> None:
        """Stop answering, once requests that change something have ended.

        The socket is removed, unless it is somebody else's by now.
        """
        self._server.stop()
        with suppress(OSError):  # it is gone, or we have no right to it any more
            if os.path.samestat(self.path.lstat(), self._made):
                self.path.unlink()


def ask(path: Path, method: str, action: str, **words: str | Path) -> dict[str, Any]:
    """Send a request to the server that listens at path, and return its reply.

    As in ask(path, "POST", "snapshot", config="/new.json"). Raises SourceError
    when nobody answers there, UsageError or ObdError with what it answered.
    """
    query = urlencode({key: str(word) for key, word in words.items()})
    connection = _Connection(path, action)
    try:
        connection.request(method, f"/{action}?{query}")
        response = connection.getresponse()
        reply = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise SourceError(f"{path}: nobody answers: {why or error}") from error
    finally:
        connection.close()
    if response.status >= 500:
        raise ObdError(str(reply.get("message")))
    if response.status >= 400:
        raise UsageError(str(reply.get("message")))
    return dict(reply)


def facts(served: Served) -> dict[str, Any]:
    """Return what an image holds now; sizes are in bytes."""
    device = served.device
    return {
        "name": device.name,
        "config": str(served.config) if served.config else None,
        "virtual-size": device.size,
        "read-only": device.readonly,
        "layers": [layer.name for layer in device.layers],
        "entries": device.entries,
        "memory": device.memory,
        "remote": _remote_facts(device),
        "upper": _facts_of(device.upper) if device.upper else None,
    }


def _remote_facts(device: Device) -> dict[str, int]:
    """Return what was fetched for an image, of how much, in how many requests."""
    found = [layer.blob.resident for layer in device.layers]
    remotes = [one for one in found if isinstance(one, Remote)]
    return {
        "size": sum(remote.size for remote in remotes),
        "fetched": sum(remote.fetcher.fetched for remote in remotes),
        "requests": sum(remote.fetcher.requests for remote in remotes),
    }


def _facts_of(upper: Upper) -> dict[str, Any]:
    found, sizes = upper.facts()._asdict(), ("stored", "data_end", "unused")
    counts = {
        name.replace("_", "-"): value * SECTOR if name in sizes else value
        for name, value in found.items()
    }
    return {
        "data": upper.data.name,
        "index": upper.index.name if upper.index else None,
        "form": upper.form,
        "uuid": upper.uuid,
        "parent-uuid": upper.parent_uuid,
        "torn": upper.torn,
        "guessed": upper.guessed,
        **counts,
    }


# -- The socket


def _listen(path: Path) -> socket.socket:
    """Return a socket that listens at path."""
    if path.is_socket() and not _is_alive(path):
        path.unlink(missing_ok=True)
    if path.exists() or path.is_symlink():
        raise Busy(f"{path}: is there, and somebody listens on it or it is no socket")
    made = socket.socket(socket.AF_UNIX)
    try:
        # The file gets the mode that the socket has when it is bound: at no
        # time can others open it, and no thread's umask matters.
        os.fchmod(made.fileno(), 0o600)
        made.bind(str(path))
        made.listen()
    except OSError as error:
        made.close()
        why = error.strerror or error  # "path too long" has no number
        raise SourceError(f"{path}: {why}", errno=error.errno) from error
    return made


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, action: str) -> None:
        long = action in ("merge", "resize")
        patience = _CLIENT_PATIENCE_FOR_DATA if long else _CLIENT_PATIENCE
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Gives each connection a thread; changes are made one at a time."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, find: Callable[[str], Served]) -> None:
        super().__init__(listening.getsockname(), _Handler)
        self.socket = listening
        self.find = find
        self.changing = threading.Lock()
        self.started = False

    def stop(self) -> None:
        if self.started:
            self.shutdown()
        self.socket.close()
        # Held for good: what comes now comes too late.
        self.changing.acquire()

    # -- What BaseServer wants of a kind of socket

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, str]:
        return self.socket.accept()[0], ""

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):  # the client has gone already
            request.shutdown(socket.SHUT_WR)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client has gone; what fails below is answered


# -- The requests

_Words = Mapping[str, str]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "obdengine", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        self._reply_to("GET")

    def do_POST(self) -> None:
        self._reply_to("POST")

    def _reply_to(self, method: str) -> None:
        self._skip_body()
        address = urlsplit(self.path)
        words = {
            key: values[-1]
            for key, values in parse_qs(address.query, keep_blank_values=True).items()
        }
        wanted, action = _ACTIONS.get(address.path, (method, _unknown))
        if wanted != method:
            text = f"{address.path} is asked for with {wanted}"
            self._send(405, _message(False, text), {"Allow": wanted})
            return
        try:
            self._send(200, action(self.server, words))
        except (ObdError, OSError) as error:
            self._send(_status_of(error), _message(False, str(error)))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._send(500, _message(False, text))

    def _skip_body(self) -> None:
        """Read what came with the request, else closing would cut the reply."""
        length = self.headers.get("Content-Length") or "0"
        if length.isdecimal():
            self.rfile.read(min(int(length), _MAX_BODY))

    def _send(
        self, status: int, reply: object, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(reply, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Say what is wrong with a request that is no HTTP, or of other methods."""
        status = 405 if code == 501 else code
        self._send(status, _message(False, message or f"HTTP error {status}"))
        self.close_connection = True

    def address_string(self) -> str:
        return "control"

    def log_message(self, format: str, *args: object) -> None:
        pass  # the reply says it


def _snapshot(server: _Server, words: _Words) -> object:
    new = _absolute("config", words["config"]) if words.get("config") else None
    with server.changing:
        served = server.find(words.get("dev_id", ""))
        if served.config is None:
            raise ReadOnly(f"{served.device.name}: the image has no writable layer")
        made = snapshot(served.device, served.config, new)
    text = f"{made.layer} is the topmost of {made.layers} layers below {made.upper}"
    return _message(True, text)


def _compact(server: _Server, words: _Words) -> object:
    with server.changing:
        device = server.find(words.get("dev_id", "")).device
        device.compact_index()
        left = device.upper.facts().records if device.upper else 0
    return _message(True, f"the index has {left} records")


def _resize(server: _Server, words: _Words) -> object:
    text = words.get("size", "")
    wanted = _number("size", text.removeprefix("+"))
    with server.changing:
        device = server.find(words.get("dev_id", "")).device
        done = resize_live(device, wanted + text.startswith("+") * device.size)
    text = f"the disk had {done.before} bytes, and has {done.after} for new clients"
    return _message(True, text)


def _merge(server: _Server, words: _Words) -> object:
    path = _absolute("to", words.get("to", ""))
    served = server.find(words.get("dev_id", ""))
    if served.config is None:
        raise UsageError(f"{served.device.name}: the image has no configuration here")
    end = words.get("end")
    written = merge_live(
        served.device,
        served.config,
        path,
        first=_number("first", words.get("first") or "0"),
        end=_number("end", end) if end else None,
        options=_layer_options(words),
        alone=server.changing,
    )
    left = len(served.device.layers)
    text = f"{written.path}, of {written.size} bytes, is in their place"
    return _message(True, f"{text}; there {'is' if left == 1 else 'are'} {left} now")


def _layer_options(words: _Words) -> LayerOptions:
    """Return how a layer is to be written: words that `obd merge` has too."""
    found: dict[str, Any] = {
        name: _number(name, words[name])
        for name in ("level", "block_size", "threads")
        if words.get(name)
    }
    texts = ("uuid", "parent_uuid", "message")
    found |= {name: words[name] for name in texts if words.get(name)}
    codec = words.get("compress") or "lz4"
    return LayerOptions(
        codec=None if codec == "none" else codec,
        tar=words.get("tar") == "true",
        **found,
    )


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise UsageError(f"{name}: {text!r} is not a number")
    return int(text)


def _absolute(name: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise UsageError(f"{name}: {path}: must be a path from the root")
    return path


def _trace_start(server: _Server, words: _Words) -> object:
    path = _absolute("to", words.get("to", ""))
    with server.changing:
        served = server.find(words.get("dev_id", ""))
        if served.device.recorder:
            raise Busy(f"{served.device.name}: is recorded already")
        served.recording = Recording(served.device, path)
        served.device.accompany(served.recording)
    return _message(True, f"what is read is recorded to {path}")


def _trace_stop(server: _Server, words: _Words) -> object:
    with server.changing:
        served = server.find(words.get("dev_id", ""))
        recording, served.recording = served.recording, None
        if not recording:
            raise SourceMissing(f"{served.device.name}: nothing is recorded")
        recording.close()
    reads = len(recording.recorder.reads())
    return _message(True, f"{recording.path} has {reads} reads")


def _stats(server: _Server, words: _Words) -> object:
    return facts(server.find(words.get("dev_id", "")))


def _unknown(_server: _Server, _words: _Words) -> object:
    known = ", ".join(f"{method} {path}" for path, (method, _) in _ACTIONS.items())
    raise SourceMissing(f"nothing is there; what there is: {known}")


_ACTIONS: dict[str, tuple[str, Callable[[_Server, _Words], object]]] = {
    "/snapshot": ("POST", _snapshot),
    "/compact": ("POST", _compact),
    "/resize": ("POST", _resize),
    "/merge": ("POST", _merge),
    "/trace/start": ("POST", _trace_start),
    "/trace/stop": ("POST", _trace_stop),
    "/stats": ("GET", _stats),
}


def _message(success: bool, text: str) -> dict[str, object]:
    return {"success": success, "message": text}


def _status_of(error: ObdError | OSError) -> int:
    """Return what HTTP calls a failure."""
    kinds = {SourceMissing: 404, Busy: 409, ReadOnly: 409, Closed: 409, UsageError: 400}
    for kind, status in kinds.items():
        if isinstance(error, kind):
            return status
    return 507 if error.errno == ENOSPC else 500
