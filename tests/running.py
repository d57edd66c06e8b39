# SPDX-License-Identifier: Apache-2.0
"""
running - the project's programs as a user runs them: obd, and nbdkit with us in it.

Nothing here sleeps: a server is waited for through its pid file, which is a
FIFO, and through a pidfd, so that one which dies at once is seen at once.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools import PLUGIN, environment, tool

# Far more than any run needs on a loaded machine: a hang, not slowness.
PATIENCE = 120.0

# nbdkit 1.32 can abort itself when a client goes away in the middle of a reply:
# another thread has closed the socket already. It is no fault of the plugin.
NBDKIT_RACE = "raw_send_socket: Assertion"


@dataclass(frozen=True)
class Ran:
    """What a finished program left: exit code, standard output, standard error."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    def json(self) -> Any:
        """Standard output, parsed."""
        return json.loads(self.out)


def run_obd(
    *words: str | os.PathLike[str],
    code: int | None = 0,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Ran:
    """Run `obd WORDS` and return what it left.

    Unless `code` is None the exit code must equal it; a traceback on standard
    error always fails, because `obd` never shows one.
    """
    script = Path(sys.executable).with_name("obd")
    command = [str(script), *(os.fspath(word) for word in words)]
    done = subprocess.run(
        command,
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=PATIENCE,
        cwd=cwd,
        env=environment(**(env or {})),
    )
    ran = Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
    assert "Traceback" not in ran.err, ran.err
    assert code is None or ran.code == code, (command, ran)
    return ran


class ServerFailed(AssertionError):
    """Nbdkit ended before it was ready. The text is what it said."""


class Export:
    """A running nbdkit on a unix socket.

    Attributes:
        socket: the path of the socket.
        process: the nbdkit process itself.
    """

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, log: Path):
        self.process = process
        self.socket = socket
        self._log = log
        self._killed = False

    @property
    def uri(self) -> str:
        """The NBD URI of the default export."""
        return self.uri_of("")

    def uri_of(self, name: str) -> str:
        """Return the NBD URI of the export called `name`."""
        return f"nbd+unix:///{name}?socket={self.socket}"

    def log(self) -> str:
        """Return what nbdkit has written to standard error so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End nbdkit as a crash would, or notice that somebody has."""
        self._killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End nbdkit and return its exit code; a crash raises ServerFailed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            # A client that went away mid-request can hold nbdkit up.
            self.process.kill()
            return self.process.wait()
        if code < 0 and not self._killed and NBDKIT_RACE not in self.log():
            raise ServerFailed(f"nbdkit died of signal {-code}: {self.log()}")
        return code


def start_nbdkit(
    folder: Path,
    *keys: str,
    options: Sequence[str] = (),
    plugin: Sequence[str] | None = None,
    env: dict[str, str] | None = None,
) -> Export:
    """Start nbdkit with our plugin and return when it takes connections.

    `keys` are the plugin's (config=..., dir=...), `options` nbdkit's own,
    `plugin` another plugin in place of ours, such as ["file"]. What nbdkit
    needs is put into `folder`. Raises ServerFailed when it does not start.
    """
    number = len(list(folder.glob("nbd*.log")))
    socket, ready, log = (folder / f"nbd{number}{end}" for end in _ENDINGS)
    os.mkfifo(ready)
    command = [tool("nbdkit"), "-f", "-U", str(socket), "-P", str(ready), *options]
    command += [*(plugin or ["python", str(PLUGIN)]), *keys]
    # Opened before nbdkit can write to it, so that no order of events hangs.
    pipe = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment(**(env or {})),
            )
        export = Export(process, socket, log)
        _wait_until_ready(export, pipe)
    finally:
        os.close(pipe)
    return export


def start_native(
    folder: Path, *keys: str, options: Sequence[str] = (), plugin: None = None
) -> Export:
    """Start the export of our own, for what start_nbdkit() would serve.

    `keys` are the plugin's, but for dir=; of `options` only --readonly means
    anything. Raises ServerFailed when it does not start.
    """
    number = len(list(folder.glob("nbd*.log")))
    socket, log = (folder / f"nbd{number}{end}" for end in (".sock", ".log"))
    script = str(Path(sys.executable).with_name("obd"))
    command = [script, "serve", "--engine", "native", "--socket", str(socket)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, *_words(keys, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
        )
    export = Export(process, socket, log)
    assert process.stdout is not None
    with process.stdout:
        ready = process.stdout.readline()
    if not ready:
        raise ServerFailed(f"obd exit {process.wait()}: {export.log()}")
    return export


def _words(keys: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the words of `obd serve` for the plugin's keys."""
    pairs = [key.split("=", 1) for key in keys]
    known = dict(pairs)
    readonly = known.pop("readonly", "") == "true" or "--readonly" in options
    images = [value for key, value in pairs if key == "config"]
    if readonly and "upper" in known:
        images = [str(Path(known["upper"], "config.v1.json"))]
    names = {"export": "--name", "control": "--control"}
    if not readonly:
        names |= {"upper": "--upper", "form": "--form"}
        names |= {"max-size": "--max-size", "garbage": "--garbage"}
    words = [
        w for key, name in names.items() if key in known for w in (name, known[key])
    ]
    if "readonly=false" in keys and "upper" not in known:
        words.append("--read-write")
    return [*words, *images]


_ENDINGS = (".sock", ".pid", ".log")


def _wait_until_ready(export: Export, pipe: int) -> None:
    process = export.process
    ended = os.pidfd_open(process.pid)
    try:
        seen, _, _ = select.select([pipe, ended], [], [], PATIENCE)
    finally:
        os.close(ended)
    if not seen or (ended in seen and pipe not in seen):
        process.kill()
        raise ServerFailed(f"nbdkit exit {process.wait()}: {export.log()}")
