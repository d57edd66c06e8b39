# SPDX-License-Identifier: Apache-2.0
"""
qemu.obd - layered images as disks of virtual machines, over QMP and libvirt.

    from qemu.obd import Disk, SyncMachine

    with SyncMachine("/run/vm.qmp") as machine:
        machine.attach(Disk("data", "/run/data.sock"))

`Machine` is the same for asyncio; `qemu.obd.domain` has libvirt's side.
"""

from qemu.obd.agent import Agent
from qemu.obd.blocks import BUSES, Disk, Limits
from qemu.obd.machine import Machine
from qemu.obd.sync import SyncMachine

__all__ = ["Machine", "SyncMachine", "Disk", "Limits", "Agent", "BUSES"]
