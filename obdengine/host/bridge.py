# SPDX-License-Identifier: Apache-2.0
"""
bridge - an export as a file, where the kernel has no NBD client of its own.

qemu-storage-daemon is an NBD client and shows what it has as a file, by FUSE.
When the server dies it holds requests back until there is another one, or for
so many seconds; nbdfuse would abort instead.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from obdengine.errors import HostError
from obdengine.host.processes import Process, run

__all__ = ["FILE", "daemon", "fuse_export", "nbd_client", "start_bridge", "stop_bridge"]

# In the folder of a device.
FILE = "disk"
_PID = "bridge.pid"

# What was written last is made durable first, on a disk that may be slow.
_STOP_SECONDS = 120.0

_NODE = "disk"


def daemon() -> str:
    """Return the program: $QEMU_STORAGE_DAEMON, or the one on PATH.

    Raises HostError when there is none.
    """
    chosen = os.environ.get("QEMU_STORAGE_DAEMON", "qemu-storage-daemon")
    found = shutil.which(chosen)
    if found is None:
        raise HostError(f"{chosen} is not installed", hint="apt-get install qemu-utils")
    return found


def nbd_client(socket: Path, *, read_only: bool, patience: int) -> list[str]:
    """Return what makes the daemon a client of what is served at socket."""
    node = {
        "driver": "nbd",
        "node-name": _NODE,
        "server": {"type": "unix", "path": str(socket)},
        "reconnect-delay": patience,
        "read-only": read_only,
        "discard": "unmap",
    }
    return ["--blockdev", json.dumps(node)]


def fuse_export(file: Path, *, read_only: bool) -> list[str]:
    """Return what makes the daemon show that as a file."""
    export: dict[str, Any] = {
        "type": "fuse",
        "id": "fuse",
        "node-name": _NODE,
        "mountpoint": str(file),
        "writable": not read_only,
    }
    return ["--export", json.dumps(export)]


def start_bridge(
    folder: Path, socket: Path, *, read_only: bool, patience: int
) -> Process:
    """Show what is served at socket as FILE in folder; HostError when it fails."""
    file, pid = folder / FILE, folder / _PID
    file.touch()
    pid.unlink(missing_ok=True)
    words = [daemon(), "--daemonize", "--pidfile", str(pid)]
    words += nbd_client(socket, read_only=read_only, patience=patience)
    words += fuse_export(file, read_only=read_only)
    run(words)
    return Process.of(int(pid.read_text()))


def stop_bridge(process: Process | None, folder: Path) -> None:
    """End it; what it was given is with the server then. It may have ended."""
    if process:
        process.stop(_STOP_SECONDS)
    file = folder / FILE
    if os.path.ismount(file) or not _answers(file):  # it was killed
        with suppress(HostError):
            run(["fusermount3", "-u", "-z", str(file)])


def _answers(file: Path) -> bool:
    try:
        file.lstat()
    except FileNotFoundError:
        return True
    except OSError:  # "transport endpoint is not connected"
        return False
    return True
