# SPDX-License-Identifier: Apache-2.0
"""
users - who still uses a device or a server, as far as /proc tells.

Only to refuse with a reason: who else comes or goes meanwhile is not kept out.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from obdengine.errors import Busy

__all__ = ["clients_of", "in_use"]

# A client that has just gone is known to its server a moment later.
_GRACE_SECONDS, _STEP = 3.0, 0.05

# /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path
_STATE, _PATH = 5, 7
_CONNECTED = "03"


def clients_of(socket: Path, own: int = 0) -> int:
    """Return how many clients a server has at a socket, besides so many of ours.

    Those who are going have a moment for it.
    """
    until = time.monotonic() + _GRACE_SECONDS
    while True:
        found = max(0, _connections(str(socket)) - own)
        if not found or time.monotonic() > until:
            return found
        time.sleep(_STEP)


def in_use(device: str) -> Busy:
    """Return the error that says that a device is used, and by whom if that is known.

    A mount namespace has copies of all mounts that were there when it was made,
    and they outlive ours.
    """
    who = _mounted_elsewhere(device)
    if who is None:
        return Busy(f"{device}: is mounted, or used otherwise")
    return Busy(
        f"{device}: is mounted by {who}, in a mount namespace of its own",
        hint="when that has ended, obd detach takes the device away",
    )


def _mounted_elsewhere(device: str) -> str | None:
    """Return who has a device mounted where we do not see it: "process 4711 (runc)"."""
    try:
        number = Path(device).stat().st_rdev
    except OSError:
        return None
    wanted = f" {os.major(number)}:{os.minor(number)} "
    known = {_namespace("self"), None}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or _namespace(process.name) in known:
            continue
        with suppress(OSError):
            if wanted in (process / "mountinfo").read_text(errors="replace"):
                name = (process / "comm").read_text(errors="replace").strip()
                return f"process {process.name} ({name})"
    return None


def _connections(path: str) -> int:
    found = 0
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines():
        words = line.split(None, _PATH)
        if len(words) > _PATH and (words[_STATE], words[_PATH]) == (_CONNECTED, path):
            found += 1
    return found


def _namespace(pid: str) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return None
