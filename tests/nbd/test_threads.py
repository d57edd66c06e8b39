# SPDX-License-Identifier: Apache-2.0
"""test_threads - what nbdkit's threads leave behind when their connection ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import programs
from tests.running import PATIENCE, Export
from tests.stacks import Image
from tests.tools import requires

Served = Callable[..., Export]

pytestmark = requires("nbdkit-python", "python3-libnbd")

# Reads at once, so that all the threads of a connection have work.
BUSY = """
h.connect_uri(sys.argv[1])
buffers = [nbd.Buffer(512) for _ in range(64)]
for number, buffer in enumerate(buffers):
    h.aio_pread(buffer, 512 * number)
while h.aio_in_flight():
    h.poll(-1)
"""

CONNECTIONS = 25


def status(export: Export, word: str) -> int:
    """Return a number of the server's status."""
    text = Path(f"/proc/{export.process.pid}/status").read_text()
    found = re.search(rf"^{word}:\s+(\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1])


def mapped(export: Export) -> int:
    """Bytes of data that the server has mapped, once no connection is left."""
    deadline = time.monotonic() + PATIENCE
    # A connection's threads end after its client has gone; each has a stack.
    while status(export, "Threads") > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return status(export, "VmData") * 1024


def grown(export: Export) -> int:
    """Return the bytes that some connections have left mapped."""
    before = mapped(export)
    for _ in range(CONNECTIONS):
        programs.libnbd(BUSY, export.uri)
    return mapped(export) - before


@pytest.mark.parametrize("threads", [1, 16])
def test_connections_leave_nothing(served: Served, image: Image, threads: int) -> None:
    keys = [f"config={path}" for path in image.layers]
    export = served(*keys, options=["-t", str(threads)])
    grown(export)
    # A thread that leaves its state behind leaves 16 KiB; some have no work.
    # That is so every time. The first threads that happen to work all at once
    # make room for that, too, but only they do.
    assert any(grown(export) < CONNECTIONS * 16 * 1024 for _ in range(5))
    assert export.stop() == 0
