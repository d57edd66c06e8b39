# SPDX-License-Identifier: Apache-2.0
"""
records - what this machine has attached, on disk: found again by whoever looks.

    RUN/NAME/record.json   one device of this boot, with its sockets and its log
    STATE/NAME.json        what shall be there after a reboot too

RUN is /run/obd, or $XDG_RUNTIME_DIR/obd of who is not root; STATE is
/var/lib/obd, or ~/.local/state/obd. $OBD_RUN and $OBD_STATE overrule both.
Whoever changes a device holds the lock of its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from obdengine.errors import HostError, UsageError
from obdengine.host.bridge import Bridge
from obdengine.host.processes import Process, boot_id

__all__ = [
    "Places",
    "Record",
    "check_name",
    "free_name",
    "load",
    "locked",
    "names",
    "remove",
    "save",
]

# Sockets are in the folder, and the path of a socket has at most 107 bytes.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")

_RECORD = "record.json"


@dataclass(frozen=True)
class Places:
    """The folders for what is attached now, and for what shall be after a reboot."""

    run: Path
    state: Path

    @classmethod
    def usual(cls) -> Places:
        """Return those of this user."""
        root, environ = os.geteuid() == 0, os.environ
        home = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        runtime = environ.get("XDG_RUNTIME_DIR") or f"/tmp/obd-{os.geteuid()}"
        run = Path("/run/obd") if root else Path(runtime, "obd")
        state = Path("/var/lib/obd") if root else home / "obd"
        return cls(
            Path(environ.get("OBD_RUN") or run), Path(environ.get("OBD_STATE") or state)
        )

    def folder(self, name: str) -> Path:
        """Return the folder of one device."""
        return self.run / name


@dataclass(frozen=True)
class Record:
    """What is known of one device.

    Attributes:
        name: how people call it.
        image: what is served, words with whole paths.
        options: how: the keys of host.Export but its image.
        way: "nbd", "loop", "file" or "socket".
        device: the path that others use, "" as long as there is none.
        size: of the disk, in bytes.
        server: the process that serves the image.
        bridge: those that make a file of it, where there are some.
        patience: seconds for which requests wait when the server is gone.
        connections: to the server, of the kernel's NBD client.
        timeout: seconds that a request may take, 0 for any number.
        keep: whether it shall be there after a reboot.
        owner: the user who may connect to the server, "" for who started it.
        made_for: the mount point when it was made by a mount, else "".
        mounts: what is mounted from it, the first one first.
        boot: the boot of the machine in which this was written.
    """

    name: str
    image: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    way: str = ""
    device: str = ""
    size: int = 0
    server: Process | None = None
    bridge: Bridge | None = None
    patience: int = 60
    connections: int = 2
    timeout: int = 0
    keep: bool = False
    owner: str = ""
    made_for: str = ""
    mounts: list[str] = field(default_factory=list)
    boot: str = ""

    @property
    def read_only(self) -> bool:
        """Whether the device refuses writes."""
        return not (self.options.get("read_write") or self.options.get("upper"))

    @property
    def of_this_boot(self) -> bool:
        """Whether its processes and its device can be there at all."""
        return self.boot == boot_id()

    @property
    def served(self) -> bool:
        """Whether its server runs."""
        return self.of_this_boot and self.server is not None and self.server.alive


def check_name(name: str) -> str:
    """Return a name that a device can have; UsageError for another one."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r}: cannot be the name of a device",
            hint="letters, digits, '.', '_' and '-', at most 48 of them",
        )
    return name


def free_name(places: Places, image: list[str]) -> str:
    """Return a name for an image that no device has: of its file, or its folder."""
    path = Path(image[-1])
    stem = path.parent.name if path.name == "config.v1.json" else path.stem
    base = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:40] or "disk"
    taken, number, name = set(names(places)), 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def names(places: Places) -> list[str]:
    """Return the names of all that is recorded, sorted."""
    found = {path.parent.name for path in places.run.glob(f"*/{_RECORD}")}
    return sorted(found | {path.stem for path in places.state.glob("*.json")})


def load(places: Places, name: str) -> Record | None:
    """Return the record of a device, None when there is none.

    Of one that shall be there and has not been since the boot, what is to be made.
    """
    found = _read(places.folder(name) / _RECORD)
    return found or _read(places.state / f"{name}.json")


def save(places: Places, record: Record) -> Record:
    """Write a record as of this boot, and return it so."""
    record = replace(record, boot=boot_id())
    _write(places.folder(record.name) / _RECORD, record)
    kept = places.state / f"{record.name}.json"
    if record.keep:
        places.state.mkdir(parents=True, exist_ok=True)
        wanted = replace(record, device="", server=None, bridge=None, mounts=[])
        _write(kept, replace(wanted, boot=""))
    else:
        kept.unlink(missing_ok=True)
    return record


def remove(places: Places, name: str, *, forget: bool = True) -> None:
    """Remove the folder of a device; forget: it shall not come back after a boot."""
    shutil.rmtree(places.folder(name), ignore_errors=True)
    if forget:
        (places.state / f"{name}.json").unlink(missing_ok=True)


@contextmanager
def locked(places: Places, name: str) -> Iterator[Path]:
    """Hold the lock of a device for the block, and yield its folder.

    A folder that nobody has put a record into is removed at the end.
    """
    folder = places.folder(check_name(name))
    fd = _lock(folder)
    try:
        yield folder
    finally:
        if not (folder / _RECORD).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _lock(folder: Path) -> int:
    while True:
        try:
            # Others can reach a socket that is theirs, and see nothing else.
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # removed between the two
            continue
        except OSError as error:
            raise HostError(f"{folder}: {error.strerror}") from error
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # who had the lock has removed it
            if os.path.samestat(folder.stat(), os.fstat(fd)):
                return fd
        os.close(fd)


def _read(path: Path) -> Record | None:
    try:
        found = json.loads(path.read_text())
        known = {entry.name for entry in fields(Record)}
        values = {key: value for key, value in found.items() if key in known}
        values["server"] = _process(values.get("server"))
        if values.get("bridge"):
            own, fuse = map(_process, values["bridge"])
            values["bridge"] = Bridge(own, fuse) if own else None
        return Record(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HostError(f"{path}: cannot be read: {error}") from error


def _process(found: list[int] | None) -> Process | None:
    return Process(*found) if found else None


# In one step: readers do not take the lock.
def _write(path: Path, record: Record) -> None:
    made = path.with_name(f".{path.name}.new")
    try:
        made.touch(mode=0o600)
        made.write_text(json.dumps(asdict(record), indent=2) + "\n")
        made.rename(path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
