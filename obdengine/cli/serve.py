# SPDX-License-Identifier: Apache-2.0
"""
serve - `obd serve`: an image as an NBD export, for as long as it is wanted.

It only starts nbdkit with the plugin, waits and stops it again. With a COMMAND
it is wanted until the command ends, without one until a signal comes.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import click

import obdengine
from obdengine.cli.export import Export
from obdengine.cli.images import name_of
from obdengine.cli.layers import notice
from obdengine.cli.storage_daemon import KINDS, Place, shown
from obdengine.cli.tls import Tls, tls_options
from obdengine.cli.writing import writing_options
from obdengine.errors import ObdError, UsageError
from obdengine.host import nbdkit
from obdengine.host.export import Writing, image_keys
from obdengine.ops.background import Serving
from obdengine.service import Service, usual_service

__all__ = ["SplitCommand", "run_served", "serve"]

# nbdkit waits for clients that went away in mid-request; nobody else does. But
# what was written last is made durable first, on a disk that may be slow.
_STOP_SECONDS = 5
_STOP_WRITING_SECONDS = 120

_HERE = "127.0.0.1"

# The image has been opened here, and nbdkit need not try.
_TRIED = "try=false"

# What a server of NBD says first, in bytes: taken whole, it makes no noise.
_HELLO = 18

_NO_TLS = Tls()


@dataclass(frozen=True)
class _Address:
    """Where clients find the export."""

    socket: Path | None
    host: str
    port: int
    name: str
    tls: Tls = _NO_TLS
    kind: str = "nbd"

    @property
    def uri(self) -> str:
        if self.kind != "nbd":
            return str(self.socket)
        name, scheme = quote(self.name, safe=""), "nbds" if self.tls.on else "nbd"
        words = dict(self.tls.parameters)
        if self.socket:
            scheme, place = f"{scheme}+unix", ""
            words["socket"] = quote(str(self.socket))
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            place = f"{host}:{self.port}"
        place = f"{self.tls.user}@{place}" if self.tls.user else place
        query = "&".join(f"{key}={value}" for key, value in words.items())
        return f"{scheme}://{place}/{name}{'?' if query else ''}{query}"

    @property
    def variables(self) -> dict[str, str]:
        """What a COMMAND finds in its environment, as with `nbdkit --run`."""
        return {
            "uri": self.uri,
            "unixsocket": str(self.socket or ""),
            "port": "" if self.socket else str(self.port),
            "exportname": self.name,
        }

    @property
    def options(self) -> list[str]:
        """What nbdkit is told."""
        if self.socket:
            return ["--unix", str(self.socket), *self.tls.options]
        where = ["--ipaddr", self.host, "--port", str(self.port)]
        return [*where, *self.tls.options]


# Options that are paths, and keys of the plugin.
_PATHS = ("control", "service", "trace", "record")


class SplitCommand(click.Command):
    """A command whose words after "--" are not its own."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take the words after "--" away, as the context's object."""
        own, command = args, []
        if "--" in args:
            at = args.index("--")
            own, command = args[:at], args[at + 1 :]
            if not command:
                raise click.UsageError("there is no COMMAND after --", context)
        context.obj = tuple(command)
        return super().parse_args(context, own)


@click.command(
    cls=SplitCommand,
    options_metavar="[OPTIONS]",
    epilog="See obd(1) for what COMMAND gets.",
)
@click.argument("image", nargs=-1, required=True, metavar="IMAGE... [-- COMMAND...]")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Listen on this unix socket (a temporary one).",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Listen on a TCP port.")
@click.option(
    "--bind", metavar="ADDR", help="Address to listen on with --port (127.0.0.1)."
)
@click.option("--name", default="", metavar="EXPORT", help="Name of the export.")
@click.option(
    "--engine",
    type=click.Choice(["nbdkit", "native", "qemu-storage-daemon"]),
    default="nbdkit",
    help="Serve by nbdkit (the default), by obd itself, or by QEMU's daemon on top.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(KINDS),
    default="nbd",
    help="With qemu-storage-daemon, what to be at --socket (nbd).",
)
@tls_options
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Requests of nbdkit at a time (16)."
)
@writing_options
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Take orders on this unix socket, as of `obd snapshot`.",
)
@click.option(
    "--service",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="overlaybd's overlaybd.json: cache, registries, prefetch, download.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="TRACE",
    help="Have here what this trace says before it is read.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="TRACE",
    help="Record what is read to this file.",
)
@click.pass_obj
def serve(
    command: tuple[str, ...],
    /,
    image: tuple[str, ...],
    socket: Path | None,
    port: int | None,
    bind: str | None,
    name: str,
    engine: str,
    kind: str,
    threads: int | None,
    **options: Any,
) -> int:
    """Serve an image over NBD, read-only unless an upper is asked for.

    With COMMAND, run that with $uri and $unixsocket set, and end with it.
    """
    _check(socket, port, bind, threads if engine != "nbdkit" else None)
    tls = Tls(**{key: options.pop(key) for key in Tls._fields})
    tls.check(bind or _HERE, port, engine)
    _check_kind(kind, engine, socket, tls)
    paths = {key: options.pop(key) for key in _PATHS}
    _note(paths["service"])
    writing = Writing(**options)
    writing.check()
    words = [str(name_of(word)) for word in image]
    with ExitStack() as stack:
        socket = _place(socket, port, stack)
        address = _Address(socket, bind or _HERE, port or 0, name, tls, kind)
        nbdkit_options = ["--threads", str(threads)] if threads else []
        running = _serving(engine, address, nbdkit_options, writing, words, paths)
        server = stack.enter_context(running)
        return _run(command, address) if command else _wait(server, address)


def _note(service: Path | None) -> None:
    """Say what of a service file is done otherwise than overlaybd does it."""
    for sentence in (Service.load(service) if service else usual_service()).notes:
        notice(sentence)


def _serving(
    engine: str,
    address: _Address,
    options: Sequence[str],
    writing: Writing,
    image: Sequence[str],
    paths: dict[str, Path | None],
) -> AbstractContextManager[subprocess.Popen[bytes] | None]:
    """Return what serves an image for a block, by an engine."""
    if engine == "native":
        return _natively(address, writing, image, paths)
    if engine == "nbdkit":
        keys = _keys(writing, image, {"export": address.name, **paths})
        return _running(address, options, keys, writing.wanted)
    return _on_top(address, writing, image, paths)


def _check(
    socket: Path | None, port: int | None, bind: str | None, threads: int | None
) -> None:
    """Raise UsageError for words that exclude each other."""
    if threads:
        raise UsageError("--threads goes with nbdkit")
    if socket and port:
        raise UsageError("--socket and --port exclude each other")
    if bind and not port:
        raise UsageError("--bind goes with --port")


def _check_kind(kind: str, engine: str, socket: Path | None, tls: Tls) -> None:
    """Raise UsageError for what only QEMU's daemon can be."""
    if kind == "nbd":
        return
    if engine != "qemu-storage-daemon":
        raise UsageError("--as goes with --engine qemu-storage-daemon")
    if not socket:
        raise UsageError(f"--as {kind} needs --socket, the place to be at")
    if tls.on:
        raise UsageError("TLS is for NBD")


@contextmanager
def _on_top(
    address: _Address,
    writing: Writing,
    image: Sequence[str],
    paths: dict[str, Path | None],
) -> Iterator[None]:
    """Serve by the export of our own, which QEMU's daemon shows at the address."""
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        inner = _Address(Path(folder, "socket"), _HERE, 0, "")
        place = Place(
            *(address.kind, address.socket, address.host, address.port),
            *(address.name, address.tls),
        )
        shows = shown(Path(folder, "socket"), place, writing.wanted)
        with _natively(inner, writing, image, paths), shows:
            yield


@contextmanager
def _natively(
    address: _Address,
    writing: Writing,
    image: Sequence[str],
    paths: dict[str, Path | None],
) -> Iterator[None]:
    """Serve by the export of our own for the block."""
    serving = Serving(paths["trace"], paths["record"])
    with writing.open(image, paths["service"], serving) as device:
        export = Export(address.socket, address.host, address.port, address.name)
        with export.served(device, paths["control"], writing.config_of(image)):
            yield


def _keys(writing: Writing, image: Sequence[str], more: dict[str, Any]) -> list[str]:
    """Return what the plugin is told, once the image has been opened here.

    What is wrong with it gets its own exit code that way.
    """
    writing.open(image, more["service"], None).close()
    keys = [*image_keys(image), *writing.keys, _TRIED]
    for key, value in more.items():
        if value:
            where = value.absolute() if isinstance(value, Path) else value
            keys.append(f"{key}={where}")
    return keys


def run_served(image: Sequence[str], command: Sequence[str], keys: list[str]) -> int:
    """Serve an image, read-only, for as long as command runs; return its code.

    keys: what the plugin is told besides.
    """
    obdengine.open(list(image)).close()
    with ExitStack() as stack:
        socket = _place(None, None, stack)
        address = _Address(socket, _HERE, 0, "")
        keys = [*image_keys(image), _TRIED, *keys]
        running = _running(address, [], keys, False)
        server = stack.enter_context(running)
        return _run(command, address) if command else _wait(server, address)


def _place(socket: Path | None, port: int | None, stack: ExitStack) -> Path | None:
    """Return the unix socket to listen on, None for a port; stack removes it."""
    if not socket and not port:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="obd-"))
        socket = Path(folder, "socket")
    return stack.enter_context(_own_socket(socket)) if socket else None


@contextmanager
def _own_socket(path: Path) -> Iterator[Path]:
    """Yield where to listen; a socket that nobody listens on makes room."""
    path = path.absolute()
    if path.is_socket() and not _is_alive(path):
        path.unlink()
    if path.exists():
        raise ObdError(f"{path}: is in use")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def _running(
    address: _Address, options: Sequence[str], keys: Sequence[str], writing: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield an nbdkit that takes connections; it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        # nbdkit writes its pid when it is ready: a FIFO makes that an event.
        ready = Path(folder, "pid")
        os.mkfifo(ready)
        pipe = os.open(ready, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        server = subprocess.Popen(
            [
                *(nbdkit.binary(), "--foreground", "--exit-with-parent"),
                *("--pidfile", str(ready), *address.options, *options),
                *([] if writing else ["--readonly"]),
                *_filter_options(),
                *("python", str(nbdkit.plugin_file()), *keys),
            ],
            env=nbdkit.environment(),
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for COMMAND and for us; the server goes last.
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, pipe, address)
            yield server
        finally:
            os.close(pipe)
            _stop(server, _STOP_WRITING_SECONDS if writing else _STOP_SECONDS)


def _filter_options() -> list[str]:
    """Return what takes resident requests past Python, where nbdkit can do it."""
    return [] if nbdkit.why_no_filter() else [f"--filter={nbdkit.filter_file()}"]


def _wait_until_ready(
    server: subprocess.Popen[bytes], pipe: int, address: _Address
) -> None:
    """Return when nbdkit answers clients; ObdError when it has ended."""
    ended = os.pidfd_open(server.pid)
    try:
        seen, _, _ = select.select([pipe, ended], [], [])
    finally:
        os.close(ended)
    # It writes its pid before it opens the image, and says hello after that.
    if pipe not in seen or not _says_hello(address):
        raise _start_failure(server.wait())


def _says_hello(address: _Address) -> bool:
    try:
        if address.socket:
            client = sockets.socket(sockets.AF_UNIX)
            client.connect(str(address.socket))
        else:
            client = sockets.create_connection((address.host, address.port))
        with client:
            return bool(client.recv(_HELLO, sockets.MSG_WAITALL))
    except OSError:
        return False


def _start_failure(code: int) -> ObdError:
    if nbdkit.dump_plugin() is None:
        return ObdError("nbdkit has no Python plugin", hint=nbdkit.NO_PYTHON_PLUGIN)
    return ObdError(f"nbdkit ended with code {code} before it was ready")


def _stop(server: subprocess.Popen[bytes], seconds: float) -> None:
    server.terminate()
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _run(command: Sequence[str], address: _Address) -> int:
    """Run COMMAND and return its exit code."""
    variables = address.variables
    words = [_expand(word, variables) for word in command]
    # As with `nbdkit --run`, one word that is no program is a line of shell.
    if len(words) == 1 and shutil.which(words[0]) is None:
        words = ["sh", "-c", words[0]]
    # Ctrl-C reaches COMMAND by itself, which decides what that means. A handler
    # of ours is not inherited, SIG_IGN would be.
    with _handling(signal.SIGINT, _ignore):
        try:
            child = subprocess.Popen(words, env={**os.environ, **variables})
        except OSError as error:
            raise ObdError(f"{words[0]}: {error.strerror}") from error
        code = _wait_for(child)
    return code if code >= 0 else 128 - code


def _wait_for(child: subprocess.Popen[bytes]) -> int:
    """Return the child's exit code; it gets the signals that we get."""

    def forward(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    with _handling(signal.SIGTERM, forward), _handling(signal.SIGHUP, forward):
        return child.wait()


def _expand(word: str, variables: dict[str, str]) -> str:
    """Return the value of a word that is just $uri or ${uri}, or the word."""
    name = word.removeprefix("$").removeprefix("{").removesuffix("}")
    return (
        variables[name]
        if word in (f"${name}", f"${{{name}}}") and (name in variables)
        else word
    )


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    pass


@contextmanager
def _handling(signum: int, handler: signal._HANDLER) -> Iterator[None]:
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


def _wait(server: subprocess.Popen[bytes] | None, address: _Address) -> int:
    """Print the URI and wait for a signal, which is the normal end."""
    signals, wake = os.pipe()
    watched = [signals, wake, *([os.pidfd_open(server.pid)] if server else [])]

    def asked(_signum: int, _frame: FrameType | None) -> None:
        os.write(wake, b"x")

    with _handling(signal.SIGINT, asked), _handling(signal.SIGTERM, asked):
        click.echo(address.uri)
        sys.stdout.flush()
        seen, _, _ = select.select([signals, *watched[2:]], [], [])
    for fd in watched:
        os.close(fd)
    if server and signals not in seen:
        raise ObdError(f"nbdkit ended by itself with code {server.wait()}")
    return 0
