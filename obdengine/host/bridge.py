# SPDX-License-Identifier: Apache-2.0
"""
bridge - an export as a file, where the kernel has no NBD client of its own.

    read only    server <- qemu-storage-daemon, which is the file by FUSE
    writable     server <- qemu-storage-daemon <- nbdfuse, which is the file

When the server dies the daemon holds requests back until there is another one,
or for so many seconds; nbdfuse alone would end. The daemon's own FUSE is not
used for writing: of QEMU 7.2 it takes one request while it works on another,
in the same buffer, and writes the wrong bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import Busy, HostError
from obdengine.host.processes import Process, run, start

__all__ = [
    "FILE",
    "Bridge",
    "daemon",
    "fuse_export",
    "nbd_client",
    "start_bridge",
    "stop_bridge",
]

# In the folder of a device.
FILE = "disk"
_PID, _SOCKET, _LOG = "bridge.pid", "bridge.sock", "fuse.log"

# What was written last is made durable first, on a disk that may be slow. Of one
# that is for reading nothing can be lost.
_STOP_SECONDS = 120.0
_STOP_READING_SECONDS = 3.0

_STEP = 0.05

_NODE = "disk"


class Bridge(NamedTuple):
    """The processes of a bridge.

    Attributes:
        daemon: the client of the server.
        fuse: what makes the file of it, None when the daemon does.
    """

    daemon: Process
    fuse: Process | None

    @property
    def alive(self) -> bool:
        """Whether all of it runs."""
        return self.daemon.alive and (self.fuse is None or self.fuse.alive)


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


def fuse_export(file: Path) -> list[str]:
    """Return what makes the daemon show that as a file, for reading."""
    export: dict[str, Any] = {"type": "fuse", "id": "disk", "node-name": _NODE}
    export |= {"mountpoint": str(file), "writable": False}
    return ["--export", json.dumps(export)]


def _nbd_export(socket: Path) -> list[str]:
    """Return what makes the daemon serve that itself."""
    server = {"addr": {"type": "unix", "path": str(socket)}}
    export: dict[str, Any] = {"type": "nbd", "id": "disk", "node-name": _NODE}
    export |= {"name": "", "writable": True}
    return ["--nbd-server", json.dumps(server), "--export", json.dumps(export)]


def start_bridge(
    folder: Path, socket: Path, *, read_only: bool, patience: int
) -> Bridge:
    """Show what is served at socket as FILE in folder; HostError when it fails."""
    file, pid, own = folder / FILE, folder / _PID, folder / _SOCKET
    file.touch()
    for path in (pid, own):
        path.unlink(missing_ok=True)
    words = [daemon(), "--daemonize", "--pidfile", str(pid)]
    words += nbd_client(socket, read_only=read_only, patience=patience)
    words += fuse_export(file) if read_only else _nbd_export(own)
    run(words)
    made = Process.of(int(pid.read_text()))
    if read_only:
        return Bridge(made, None)
    try:
        words = [_nbdfuse(), "--pidfile", "{ready}", str(file), "--unix", str(own)]
        return Bridge(made, start(words, folder / _LOG))
    except BaseException:
        made.stop(_STOP_SECONDS)
        raise


def _nbdfuse() -> str:
    chosen = os.environ.get("NBDFUSE", "nbdfuse")
    found = shutil.which(chosen)
    if found is None:
        raise HostError(f"{chosen} is not installed", hint="apt-get install libnbd-bin")
    return found


def stop_bridge(bridge: Bridge | None, folder: Path) -> None:
    """End it; what it was given is with the server then. It may have ended."""
    file = folder / FILE
    if bridge and bridge.fuse and bridge.fuse.alive:
        # It would end by itself, if no other mount namespace had a copy of the
        # mount. All that was written has been flushed by who had it open.
        _unmount(file)
        bridge.fuse.stop(_STOP_SECONDS)
    if bridge:
        bridge.daemon.stop(_STOP_SECONDS if bridge.fuse else _STOP_READING_SECONDS)
    if os.path.ismount(file) or not _answers(file):  # it was killed
        with suppress(HostError):
            run(["fusermount3", "-u", "-z", str(file)])


# A file system in FUSE on it ends some time after it was unmounted.
def _unmount(file: Path) -> None:
    for _ in range(int(_STOP_SECONDS / _STEP)):
        try:
            run(["fusermount3", "-u", str(file)])
            return
        except HostError:
            if not os.path.ismount(file):
                return
            time.sleep(_STEP)
    raise Busy(f"{file}: something uses it")


def _answers(file: Path) -> bool:
    try:
        file.lstat()
    except FileNotFoundError:
        return True
    except OSError:  # "transport endpoint is not connected"
        return False
    return True
