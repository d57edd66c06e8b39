# SPDX-License-Identifier: Apache-2.0
"""
devices - images as block devices of this machine: attach, detach, repair.

An image is served by a process of its own, and its device is made of that in
one of three ways, the first that works:

    nbd    /dev/nbdN, by the kernel's NBD client
    loop   /dev/loopN, on a file that FUSE shows
    file   that file itself, for who is not root

or, where that is asked for, not at all: `socket` is for virtual machines.

Every device is recorded before and after it is made, so that it is found and
taken away whenever the tool that made it ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from obdengine.errors import Busy, HostError, UsageError
from obdengine.host import kernel_nbd, loop
from obdengine.host.bridge import FILE, start_bridge, stop_bridge
from obdengine.host.export import Writing
from obdengine.host.handshake import negotiate
from obdengine.host.processes import Process
from obdengine.host.records import (
    Places,
    Record,
    check_name,
    free_name,
    load,
    locked,
    names,
    remove,
    save,
)
from obdengine.host.server import SOCKET, start_server
from obdengine.host.users import clients_of
from obdengine.ops.resize import resize
from obdengine.ops.resolve import absolute

__all__ = [
    "WAYS",
    "attach",
    "attached",
    "detach",
    "find",
    "grow",
    "health",
    "repair",
    "restore",
]

# nbdkit makes durable what was written last, on a disk that may be slow. It also
# waits for clients, but who is seen to have any is not asked to end.
_STOP_SECONDS = 120.0
_STOP_READING_SECONDS = 3.0


def attach(
    places: Places, wanted: Record, *, way: str | None = None
) -> tuple[Record, bool]:
    """Make a device of an image; return what it is, and whether it is new.

    wanted: name "" for one that is free, image, options, and what else differs
    from the usual. way: one of WAYS, None for the first that works. A device
    of that name and image that is there already is returned, mended if
    need be. Raises Busy when another image has the name, and what opening
    the image raises.
    """
    image = [absolute(word) for word in wanted.image]
    Writing.of(wanted.options).check()
    if way not in (None, *WAYS):
        raise UsageError(f"{way}: must be one of {', '.join(WAYS)}")
    while True:
        name = check_name(wanted.name) if wanted.name else free_name(places, image)
        with locked(places, name) as folder:
            present = load(places, name)
            if present is None:
                record = replace(wanted, name=name, image=image)
                return _make(places, folder, record, way), True
            if wanted.name:
                return _present(places, folder, present, image, wanted), False


def _present(
    places: Places, folder: Path, present: Record, image: list[str], wanted: Record
) -> Record:
    if present.image != image or present.options != wanted.options:
        raise Busy(
            f"{present.name}: is the name of another device: " + " ".join(present.image)
        )
    return _repaired(places, folder, replace(present, keep=wanted.keep))


def detach(places: Places, word: str) -> str | None:
    """Take a device away, by its name or its path; return its name.

    None: there is no such device. Raises Busy when something uses it.
    """
    found = find(places, word)
    if found is None:
        return None
    with locked(places, found.name) as folder:
        record = load(places, found.name)
        if record is None:
            return None
        if record.mounts and record.of_this_boot:
            raise Busy(
                f"{record.name}: is mounted at {record.mounts[-1]}",
                hint="obd umount takes it away",
            )
        if record.of_this_boot:
            _refuse_clients(folder, record)
            _take_down(folder, record)
        remove(places, record.name)
    return found.name


# nbdkit would wait for them.
def _refuse_clients(folder: Path, record: Record) -> None:
    own = {"socket": 0, "nbd": record.connections}.get(record.way, 1)
    others = clients_of(folder / SOCKET, own) if record.served else 0
    if others:
        raise Busy(
            f"{record.name}: {others} client{'s are' if others > 1 else ' is'} "
            "connected to its server",
            hint="obd vm detach and obd vm stop end those of machines",
        )


def attached(places: Places) -> list[Record]:
    """Return all that is attached, or shall be, sorted by name."""
    found = (load(places, name) for name in names(places))
    return [record for record in found if record is not None]


def find(places: Places, word: str) -> Record | None:
    """Return the device of a name, or with a path."""
    for record in attached(places):
        if word == record.name or (record.of_this_boot and word == record.device):
            return record
    return None


def health(record: Record) -> str:
    """Return how a device is: "up", "down" (obd attach --all mends it) or "away".

    "away": it has not been made since the last boot.
    """
    if not record.of_this_boot:
        return "away"
    # Of one that is being made there is no way yet, or no device.
    way = _WAYS.get(record.way) if record.device else None
    return "up" if way and record.served and way.is_up(record) else "down"


def repair(places: Places, name: str) -> Record | None:
    """Start what has ended of a device; None when there is none of that name.

    Requests that wait for the server go on, as long as it was not too long.
    """
    with locked(places, name) as folder:
        record = load(places, name)
        return _repaired(places, folder, record) if record else None


def grow(places: Places, name: str, size: int) -> Record:
    """Give a device's disk another size, in bytes.

    Whoever uses it must have flushed what he wrote, and must not write
    meanwhile: its server is killed, as it would wait for him, and another
    one is started. The device has to be told, by whoever uses it.
    """
    with locked(places, name) as folder:
        record = load(places, name)
        if record is None or record.server is None:
            raise UsageError(f"{name}: is not attached")
        config = Writing.of(record.options).config_of(record.image)
        record.server.stop(0)
        try:
            resize(config, size)
        finally:
            record = _repaired(places, folder, record)
        return record


def restore(places: Places) -> list[tuple[str, Exception | None]]:
    """Repair all that is down, and make what shall be there after a reboot.

    Left-overs of an earlier boot are removed. Returns each name with what
    went wrong with it.
    """
    done: list[tuple[str, Exception | None]] = []
    for record in attached(places):
        if health(record) == "up":
            continue
        try:
            if record.keep or record.of_this_boot:
                repair(places, record.name)
            else:
                with locked(places, record.name):
                    remove(places, record.name)
            done.append((record.name, None))
        except Exception as error:
            done.append((record.name, error))
    return done


# -- One device, whose lock is held


def _make(places: Places, folder: Path, record: Record, way: str | None) -> Record:
    record = save(places, record)
    try:
        server = _serve(folder, record)
        record = save(places, replace(record, server=server))
        return save(places, _bring_up(folder, record, way))
    except BaseException:
        _take_down(folder, load(places, record.name) or record)
        remove(places, record.name, forget=not record.boot)
        raise


def _bring_up(folder: Path, record: Record, way: str | None) -> Record:
    """Make the device of a record whose server runs."""
    why: list[str] = []
    for name in [way] if way else WAYS:
        reason = _WAYS[name].why_not()
        if reason is None:
            return _WAYS[name].up(folder, replace(record, way=name))
        why.append(f"{name}: {reason}")
    raise HostError(f"{record.name}: no device can be made here: {'; '.join(why)}")


def _repaired(places: Places, folder: Path, record: Record) -> Record:
    if not record.of_this_boot:
        remove(places, record.name, forget=False)
        folder.mkdir(mode=0o711, exist_ok=True)
        fresh = replace(record, server=None, bridge=None, device="", mounts=[])
        return _make(places, folder, fresh, record.way or None)
    if not record.served:
        server = _serve(folder, record)
        record = save(places, replace(record, server=server))
    way = _WAYS.get(record.way)
    if way is None or not record.device:
        return save(places, _bring_up(folder, record, record.way or None))
    return save(places, way.mend(folder, record))


def _serve(folder: Path, record: Record) -> Process:
    """Start the server of a record; who may use it can connect to it."""
    server = start_server(folder, record.image, Writing.of(record.options))
    if record.owner:
        try:
            shutil.chown(folder / SOCKET, record.owner)
        except (OSError, LookupError) as error:
            server.stop(_STOP_SECONDS)
            raise HostError(f"give {SOCKET} to {record.owner}: {error}") from error
    return server


def _take_down(folder: Path, record: Record) -> None:
    """Undo as much of a record as there is."""
    if record.way and record.device:
        _WAYS[record.way].down(folder, record)
    stop_bridge(record.bridge, folder)
    if record.server:
        seconds = _STOP_READING_SECONDS if record.read_only else _STOP_SECONDS
        record.server.stop(seconds)


# -- The ways


class _Nbd:
    why_not: Callable[[], str | None] = staticmethod(kernel_nbd.why_not)

    @staticmethod
    def up(folder: Path, record: Record) -> Record:
        made = kernel_nbd.connect(
            folder / SOCKET,
            _owner(folder),
            connections=record.connections,
            timeout=record.timeout,
            patience=record.patience,
            read_only=record.read_only,
        )
        return replace(record, device=made.path, size=made.size)

    @staticmethod
    def is_up(record: Record) -> bool:
        return kernel_nbd.owner(_index(record)) is not None

    @classmethod
    def mend(cls, folder: Path, record: Record) -> Record:
        if kernel_nbd.owner(_index(record)) != _owner(folder):
            return cls.up(folder, record)
        size = kernel_nbd.reconnect(
            _index(record),
            folder / SOCKET,
            _owner(folder),
            connections=record.connections,
        )
        return replace(record, size=size)

    @staticmethod
    def down(folder: Path, record: Record) -> None:
        if kernel_nbd.owner(_index(record)) in (_owner(folder), ""):
            kernel_nbd.disconnect(_index(record))


class _File:
    @staticmethod
    def why_not() -> str | None:
        path = Path("/dev/fuse")
        return None if path.exists() else f"{path}: there is none"

    @staticmethod
    def up(folder: Path, record: Record) -> Record:
        bridge = start_bridge(
            folder,
            folder / SOCKET,
            read_only=record.read_only,
            patience=record.patience,
        )
        size = (folder / FILE).stat().st_size
        return replace(record, bridge=bridge, device=str(folder / FILE), size=size)

    @staticmethod
    def is_up(record: Record) -> bool:
        return record.bridge is not None and record.bridge.alive

    @classmethod
    def mend(cls, folder: Path, record: Record) -> Record:
        if cls.is_up(record):  # it finds the new server by itself
            return record
        stop_bridge(record.bridge, folder)
        return cls.up(folder, record)

    @staticmethod
    def down(folder: Path, record: Record) -> None:
        stop_bridge(record.bridge, folder)


class _Loop(_File):
    @staticmethod
    def why_not() -> str | None:
        return loop.why_not() or _File.why_not()

    @staticmethod
    def up(folder: Path, record: Record) -> Record:
        record = _File.up(folder, record)
        try:
            device = loop.attach_file(folder / FILE, read_only=record.read_only)
        except BaseException:
            stop_bridge(record.bridge, folder)
            raise
        return replace(record, device=device)

    @classmethod
    def mend(cls, folder: Path, record: Record) -> Record:
        if cls.is_up(record):
            return record
        cls.down(folder, record)
        return cls.up(folder, record)

    @staticmethod
    def down(folder: Path, record: Record) -> None:
        if loop.file_of(record.device) == str(folder / FILE):
            loop.detach_file(record.device)
        stop_bridge(record.bridge, folder)


class _Socket:
    @staticmethod
    def why_not() -> str | None:
        return None

    @staticmethod
    def up(folder: Path, record: Record) -> Record:
        link = negotiate(folder / SOCKET)
        link.socket.close()
        return replace(record, device=str(folder / SOCKET), size=link.size)

    @staticmethod
    def is_up(record: Record) -> bool:
        return True

    mend = up

    @staticmethod
    def down(folder: Path, record: Record) -> None:
        pass


_Way = type[_Nbd] | type[_File] | type[_Socket]
_WAYS: dict[str, _Way] = {
    **{"nbd": _Nbd, "loop": _Loop, "file": _File},
    "socket": _Socket,
}

# In the order of preference.
WAYS: Sequence[str] = tuple(_WAYS)


def _owner(folder: Path) -> str:
    return f"obd:{folder}"


def _index(record: Record) -> int:
    return int(record.device.removeprefix("/dev/nbd"))
