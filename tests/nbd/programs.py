# SPDX-License-Identifier: Apache-2.0
"""programs - other people's NBD clients, run on what the plugin serves."""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from tests.nbd import stamps
from tests.nbd.stamps import Request
from tests.running import PATIENCE
from tests.tools import ROOT, SYSTEM_PYTHON, environment, tool


def output(name: str, *words: str | Path) -> bytes:
    """Run a program and return its standard output; it must succeed."""
    command = [tool(name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, env=environment())
    assert done.returncode == 0, (command, done.stderr.decode(errors="replace"))
    return done.stdout


def failure(name: str, *words: str | Path) -> str:
    """Run a program that must fail, and return what it said."""
    command = [tool(name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode != 0, command
    return done.stderr + done.stdout


def sha256(uri: str, *options: str) -> str:
    """Return the digest of a served disk, copied by nbdcopy."""
    command = [tool("nbdcopy"), *options, uri, "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        digest = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    assert process.returncode == 0
    return digest


def holes(uri: str) -> list[tuple[int, int, int]]:
    """Return (offset, length, type) for each extent, as nbdinfo has it."""
    found = json.loads(output("nbdinfo", "--map", "--json", uri))
    return [(item["offset"], item["length"], item["type"]) for item in found]


def facts(uri: str) -> dict[str, Any]:
    """Return what nbdinfo says about one export."""
    found = json.loads(output("nbdinfo", "--json", uri))
    return dict(found["exports"][0])


def libnbd(script: str, *words: str) -> bytes:
    """Run a script for the Python that has libnbd; `h` is its handle."""
    text = f"import errno, nbd, sys\nh = nbd.NBD()\n{script}"
    done = subprocess.run([SYSTEM_PYTHON, "-c", text, *words], capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def storm(folder: Path, uri: str, **plan: int) -> list[Request]:
    """Run clients that write at random (see storm.Plan); return their journal."""
    journal = folder / "journal"
    words = json.dumps({"uri": uri, "journal": str(journal), **plan})
    done = subprocess.run(
        [SYSTEM_PYTHON, "-m", "tests.nbd.storm", words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return stamps.load(journal)


def wait_for_end(child: int) -> None:
    """Wait until the process of a pidfd has ended, and close it."""
    ended, _, _ = select.select([child], [], [], PATIENCE)
    os.close(child)
    assert ended
