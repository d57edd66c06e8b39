# SPDX-License-Identifier: Apache-2.0
"""storage_daemon - a served image once more, as what QEMU's storage daemon can be."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obdengine.errors import UsageError
from obdengine.host.bridge import daemon, fuse_export, nbd_client
from obdengine.host.processes import Process, run

__all__ = ["KINDS", "shown"]

# What it can be seen as; nbd is what it is without the daemon as well.
KINDS = ("nbd", "vhost-user-blk", "fuse")

_STOP_SECONDS = 120.0
_PATIENCE = 60
_NODE = "disk"


@contextmanager
def shown(
    kind: str, server: Path, place: Path, name: str, write: bool
) -> Iterator[None]:
    """Show what is served at a socket as kind, at place, for the block."""
    words = _export(kind, place, name, write)
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        pid = Path(folder, "pid")
        client = nbd_client(server, read_only=not write, patience=_PATIENCE)
        run([daemon(), "--daemonize", "--pidfile", str(pid), *client, *words])
        process = Process.of(int(pid.read_text()))
        try:
            yield
        finally:
            process.stop(_STOP_SECONDS)


def _export(kind: str, place: Path, name: str, write: bool) -> list[str]:
    address = {"type": "unix", "path": str(place)}
    export: dict[str, Any] = {"type": kind, "id": "disk", "node-name": _NODE}
    if kind == "fuse":
        if write:
            raise UsageError(
                "QEMU's FUSE mixes up what is written at the same time",
                hint="obd attach --via file makes a file that can be written to",
            )
        place.touch()
        return fuse_export(place)
    if kind == "nbd":
        server = ["--nbd-server", json.dumps({"addr": address})]
        export |= {"name": name, "writable": write}
        return [*server, "--export", json.dumps(export)]
    export |= {"addr": address, "writable": write, "logical-block-size": 512}
    return ["--export", json.dumps(export)]
