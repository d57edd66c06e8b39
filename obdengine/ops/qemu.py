# SPDX-License-Identifier: Apache-2.0
"""
qemu - qemu's own tools, which know its formats better than anybody.

qemu-img is asked for facts, qemu-nbd gives and takes the bytes, over a socket
that was connected before it started: it ends when we do, however that is.
No format is ever guessed by them: each image is a node that names its driver.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from obdengine.errors import (
    Busy,
    FormatError,
    ObdError,
    SourceError,
    SourceMissing,
    TimedOut,
    UsageError,
)
from obdengine.source.nbd import NbdClient

__all__ = [
    "SECRET_ID",
    "Node",
    "binary",
    "exported",
    "facts_of",
    "failure",
    "filename",
    "qemu_img",
    "run_qemu_img",
]

# A block node as -blockdev has it.
Node = dict[str, Any]

SECRET_ID = "obd-secret"

_PACKAGE = "apt-get install qemu-utils"
_FACTS_SECONDS = 120.0
_STOP_SECONDS = 30.0

# What they say, and which error it is.
_MEANINGS: list[tuple[str, type[ObdError]]] = [
    ("Failed to get", Busy),  # "... "write" lock", shared or not
    ("No such file or directory", SourceMissing),
    ("No space left on device", SourceError),
    ("Permission denied", SourceError),
    ("Invalid password", UsageError),
]


def binary(name: str) -> str:
    """Return the path of one of qemu's programs: $QEMU_IMG, or that on PATH.

    Raises ObdError when there is none.
    """
    chosen = os.environ.get(name.upper().replace("-", "_"), name)
    found = shutil.which(chosen)
    if found is None:
        raise ObdError(f"{chosen} is not installed", hint=_PACKAGE)
    return found


def run_qemu_img(
    *words: str, secret: Path | None = None, seconds: float | None = _FACTS_SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """Run qemu-img and return what it left, whatever its exit code.

    secret: the file of a secret that a node may name as SECRET_ID. Raises
    TimedOut after so many seconds.
    """
    command = [binary("qemu-img"), words[0], *_objects(secret), *words[1:]]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"qemu-img {words[0]} did not end in {seconds:g} s") from error


def qemu_img(
    name: str,
    *words: str,
    secret: Path | None = None,
    seconds: float | None = _FACTS_SECONDS,
) -> bytes:
    """Run qemu-img and return its standard output; name is for errors.

    Raises what its complaint means: Busy, SourceMissing, SourceError or
    FormatError; TimedOut after so many seconds.
    """
    done = run_qemu_img(*words, secret=secret, seconds=seconds)
    if done.returncode != 0:
        raise failure(name, done.stderr.decode(errors="replace"))
    return done.stdout


def facts_of(name: str, node: Node, secret: Path | None = None) -> dict[str, Any]:
    """Return what `qemu-img info` says of node; raises as qemu_img() does."""
    raw = qemu_img(name, "info", "--output=json", filename(node), secret=secret)
    found: dict[str, Any] = json.loads(raw)
    return found


def filename(node: Node) -> str:
    """Return a node in the place of a file name."""
    return f"json:{json.dumps(node)}"


def failure(name: str, said: str) -> ObdError:
    """Return the error that a complaint of one of qemu's programs means."""
    lines = [line for line in said.splitlines() if line.strip()]
    # The first one is the reason; others are about help and consequences.
    text = lines[0] if lines else "it gave no reason"
    for start in ("qemu-img: ", "qemu-nbd: "):
        text = text.removeprefix(start)
    text = _without_node(text)
    for mark, kind in _MEANINGS:
        if mark in said:
            hint = "stop what uses it, then try again" if kind is Busy else None
            return kind(f"{name}: {text}", hint=hint)
    return FormatError(name, text)


def _without_node(text: str) -> str:
    """Leave out the JSON that we gave for a file name."""
    before, mark, rest = text.partition("'json:{")
    return rest.partition("}': ")[2] or text if mark and before else text


@contextmanager
def exported(
    name: str,
    node: Node,
    *,
    contexts: Sequence[str] = (),
    writable: bool = False,
    snapshot: str | None = None,
    secret: Path | None = None,
) -> Iterator[NbdClient]:
    """Yield a connection to a qemu-nbd that has node open; it ends with it.

    snapshot: what qemu-nbd takes for --load-snapshot. What is written is
    durable after flush(). Raises what the complaint of a qemu-nbd that does
    not start means, as qemu_img() does.
    """
    words = ["--allocation-depth"] if contexts else []
    words += ["--cache=writeback"] if writable else ["--read-only"]
    words += [f"--load-snapshot={snapshot}"] if snapshot else []
    words += [*_objects(secret), filename(node)]
    with tempfile.TemporaryFile() as log, socket.socket(socket.AF_UNIX) as ours:
        server = _start(words, ours, log)
        try:
            try:
                client = NbdClient(ours, name, contexts=contexts)
            except SourceError as error:
                raise _start_failure(name, server, log, error) from error
            yield client
            client.close()
            _end(name, server)
        finally:
            _kill(server)


def _start(
    words: Sequence[str], ours: socket.socket, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a qemu-nbd, to which ours is connected already.

    It looks for a socket to take connections from where systemd puts one: at
    descriptor 3, if LISTEN_PID is its own. One that finds nobody there any
    more ends.
    """
    shell = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null'
    with (
        tempfile.TemporaryDirectory(prefix="obd-") as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"{folder}/socket")
        listening.listen(1)
        ours.connect(f"{folder}/socket")
        return subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", binary("qemu-nbd"), *words],
            stdin=listening.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=_environment(),
            # Ctrl-C is for us, who end it.
            start_new_session=True,
        )


def _start_failure(
    name: str, server: subprocess.Popen[bytes], log: IO[bytes], error: SourceError
) -> ObdError:
    _kill(server)
    log.seek(0)
    said = log.read().decode(errors="replace")
    return failure(name, said) if said.strip() else error


def _end(name: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for a qemu-nbd whose client has gone: it closes the image first."""
    try:
        code = server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{name}: qemu-nbd did not end") from None
    if code != 0:
        raise SourceError(f"{name}: qemu-nbd ended with code {code}")


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.kill()
    server.wait()


def _objects(secret: Path | None) -> list[str]:
    if secret is None:
        return []
    words = {"qom-type": "secret", "id": SECRET_ID, "file": str(secret)}
    return ["--object", json.dumps(words)]


def _environment() -> dict[str, str]:
    """Return an environment in which they say what _MEANINGS knows."""
    return {**os.environ, "LC_ALL": "C"}
