# SPDX-License-Identifier: Apache-2.0
"""
blocks - what QEMU is told about a layered disk: nodes, devices, limits.

Dictionaries as QMP takes them and nothing else: nobody is asked or told here.
A disk NAME is two nodes, a raw one `obd-NAME` on an NBD client, so that the
client can be exchanged below a running guest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obdengine.errors import UsageError

__all__ = ["BUSES", "Disk", "Limits", "client_node", "device", "disk_node", "node_name"]

# What a guest sees the disk as.
BUSES = ("virtio-blk", "virtio-scsi")

# QEMU's limits, which a name gets into with a prefix and a number.
_MAX_NAME, _MAX_SERIAL = 20, 20


@dataclass(frozen=True)
class Disk:
    """A layered disk of a virtual machine.

    Attributes:
        name: stable: the node is `obd-NAME`, and the guest sees it as serial.
        socket: where the image is served.
        export: its name there.
        read_only: whether the guest may not write.
        reconnect: seconds that the guest's requests wait when the server is
            gone; then they fail.
        serial: what the guest sees, "" for the name.
    """

    name: str
    socket: str
    export: str = ""
    read_only: bool = False
    reconnect: int = 60
    serial: str = ""

    def check(self) -> None:
        """Raise UsageError when QEMU would cut or refuse a name."""
        plain = self.name.replace("-", "").replace("_", "").replace(".", "")
        if not (plain.isascii() and plain.isalnum() and len(self.name) <= _MAX_NAME):
            raise UsageError(
                f"{self.name!r}: cannot be the name of a disk",
                hint=f"letters, digits, '.', '_' and '-', at most {_MAX_NAME}",
            )
        if len(self.serial.encode()) > _MAX_SERIAL:
            raise UsageError(f"{self.serial}: a serial has at most {_MAX_SERIAL} bytes")


@dataclass(frozen=True)
class Limits:
    """How much of a disk a guest may use, a second; 0: as much as it can.

    Attributes:
        iops: requests.
        rate: bytes.
        iops_burst: requests, for a moment.
        rate_burst: bytes, for a moment.
    """

    iops: int = 0
    rate: int = 0
    iops_burst: int = 0
    rate_burst: int = 0

    def arguments(self) -> dict[str, int]:
        """Return them as block_set_io_throttle has them."""
        words = {"iops": self.iops, "bps": self.rate}
        words |= {f"{key}_{way}": 0 for key in ("iops", "bps") for way in ("rd", "wr")}
        bursts = {"iops_max": self.iops_burst, "bps_max": self.rate_burst}
        return words | {key: value for key, value in bursts.items() if value}


def node_name(name: str) -> str:
    """Return the node of a disk."""
    return f"obd-{name}"


def client_node(disk: Disk, number: int = 0) -> dict[str, Any]:
    """Return the NBD client of a disk, the number-th one of it."""
    return {
        "driver": "nbd",
        "node-name": f"{node_name(disk.name)}-{number}",
        "server": {"type": "unix", "path": disk.socket},
        "export": disk.export,
        "reconnect-delay": disk.reconnect,
        "read-only": disk.read_only,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        # The engine's files are in the host's page cache already.
        "cache": {"direct": True, "no-flush": False},
    }


def disk_node(disk: Disk, number: int = 0) -> dict[str, Any]:
    """Return the node that a device has, on that client."""
    return {
        "driver": "raw",
        "node-name": node_name(disk.name),
        "file": f"{node_name(disk.name)}-{number}",
        "read-only": disk.read_only,
        "discard": "unmap",
        "cache": {"direct": True, "no-flush": False},
    }


def device(disk: Disk, driver: str, bus: str) -> dict[str, Any]:
    """Return what device_add is told to give a guest the disk."""
    return {
        "driver": driver,
        "id": node_name(disk.name),
        "drive": node_name(disk.name),
        "bus": bus,
        "serial": disk.serial or disk.name,
    }
