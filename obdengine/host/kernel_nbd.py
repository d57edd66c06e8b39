# SPDX-License-Identifier: Apache-2.0
"""
kernel_nbd - an export as /dev/nbdN, by the kernel's own client.

The kernel is given connected sockets through netlink and keeps them: nothing
of ours has to run for the device to work. When the server dies the kernel
holds requests back for a while, in which it can be given sockets to another.

The name of a device's owner is kept by the kernel (since 5.14), so that
nobody changes a device that became somebody else's.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EBUSY, ENOENT
from pathlib import Path

from obdengine.errors import HostError
from obdengine.host.handshake import Negotiated, negotiate
from obdengine.host.netlink import (
    Attribute,
    Command,
    Netlink,
    attribute,
    u32,
    u64,
)
from obdengine.host.users import in_use
from obdengine.source.nbd_wire import MULTI_CONN, READ_ONLY

__all__ = ["KernelDisk", "connect", "disconnect", "owner", "reconnect", "why_not"]

_FAMILY = "nbd"

# File systems with blocks of any size can be mounted.
_BLOCK_SIZE = 512

_SOCKET_ITEM, _SOCKET_FD = 1, 1


@dataclass(frozen=True)
class KernelDisk:
    """A device of the kernel's NBD client.

    Attributes:
        index: N of /dev/nbdN.
        size: in bytes.
    """

    index: int
    size: int

    @property
    def path(self) -> str:
        """The device."""
        return f"/dev/nbd{self.index}"


def why_not() -> str | None:
    """Return why there are no such devices here, or None when there are."""
    try:
        with Netlink(_FAMILY):
            pass
    except HostError as error:
        return str(error)
    if os.geteuid() != 0:
        return "only root can make devices"
    return None


def connect(
    socket: Path,
    owner: str,
    *,
    connections: int,
    timeout: int,
    patience: int,
    read_only: bool,
) -> KernelDisk:
    """Make a device of what is served at socket.

    owner: what the device is to be known by. timeout: seconds a request may
    take, 0 for any number. patience: seconds that requests wait for another
    server when this one is gone. Raises HostError.
    """
    with ExitStack() as stack:
        links = _links(socket, connections, stack)
        size, flags = links[0].size, links[0].flags
        if size % _BLOCK_SIZE:
            raise HostError(f"{socket}: {size} bytes are no whole sectors")
        values = [
            u64(Attribute.SIZE_BYTES, size),
            u64(Attribute.BLOCK_SIZE_BYTES, _BLOCK_SIZE),
            u64(Attribute.SERVER_FLAGS, flags | (READ_ONLY if read_only else 0)),
            u64(Attribute.TIMEOUT, timeout),
            u64(Attribute.DEAD_CONN_TIMEOUT, patience),
            _sockets(links),
            _owner(owner),
        ]
        found = _tell(Command.CONNECT, values)
    (index,) = struct.unpack("=I", found[Attribute.INDEX])
    return KernelDisk(index, size)


def reconnect(index: int, socket: Path, owner: str, *, connections: int) -> int:
    """Give a device connections to another server, and return its size in bytes.

    The device takes the size that the server says.
    """
    with ExitStack() as stack:
        links = _links(socket, connections, stack)
        size = links[0].size
        values = [
            u32(Attribute.INDEX, index),
            u64(Attribute.SIZE_BYTES, size),
            u64(Attribute.BLOCK_SIZE_BYTES, _BLOCK_SIZE),
            _sockets(links),
            _owner(owner),
        ]
        _tell(Command.RECONFIGURE, values)
    return size


def disconnect(index: int) -> None:
    """Take a device away; Busy when something uses it.

    What was written to it is durable then. That it has gone already is fine.
    """
    path = f"/dev/nbd{index}"
    try:
        device = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == EBUSY:
            raise in_use(path) from error
        device = None  # the server is gone: there is nothing to write to
    if device is not None:
        try:
            os.fsync(device)
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from error
        finally:
            os.close(device)
    try:
        _tell(Command.DISCONNECT, [u32(Attribute.INDEX, index)])
    except HostError as error:
        if error.errno != ENOENT and owner(index) is not None:
            raise


def owner(index: int) -> str | None:
    """Return by what a connected device is known, None when it is not connected."""
    folder = Path(f"/sys/block/nbd{index}")
    if not (folder / "pid").exists():
        return None
    try:
        return (folder / "backend").read_text().strip()
    except OSError:
        return ""


def _links(socket: Path, connections: int, stack: ExitStack) -> list[Negotiated]:
    """Return so many connections, or one when the server wants no more."""
    links: list[Negotiated] = []
    while len(links) < connections:
        links.append(negotiate(socket))
        stack.callback(links[-1].socket.close)
        if not links[0].flags & MULTI_CONN:
            break
    return links


def _sockets(links: list[Negotiated]) -> bytes:
    items = [
        attribute(_SOCKET_ITEM, u32(_SOCKET_FD, link.socket.fileno())) for link in links
    ]
    return attribute(Attribute.SOCKETS, b"".join(items))


def _owner(name: str) -> bytes:
    return attribute(Attribute.BACKEND_IDENTIFIER, name.encode() + b"\0")


def _tell(command: Command, values: list[bytes]) -> dict[int, bytes]:
    with Netlink(_FAMILY) as kernel:
        try:
            return kernel.ask(command, b"".join(values))
        except OSError as error:
            name = command.name.lower()
            raise HostError(
                f"the kernel's NBD client, asked to {name}: {error.strerror}",
                errno=error.errno,
            ) from error
