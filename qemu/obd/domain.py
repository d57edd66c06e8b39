# SPDX-License-Identifier: Apache-2.0
"""
domain - layered disks in libvirt's words: the XML of a disk and of a machine.

Text and nothing else: qemu.obd.libvirt asks the daemon. A disk is a network
disk of nbd on a unix socket. What the options are for:

    discard=unmap, detect_zeroes=unmap   what a guest frees becomes free in the upper
    cache=none                           the engine's files are in the host's cache

libvirt 9.0 has no words for QEMU's reconnect-delay: when the server of a disk
dies, its guest gets I/O errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from obdengine.errors import UsageError
from qemu.obd.blocks import Disk

__all__ = ["MachineKind", "disk_xml", "domain_xml", "serial_target"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class MachineKind:
    """A virtual machine around layered disks.

    Attributes:
        name: of the domain.
        memory: MiB.
        cpus: how many.
        machine: QEMU's name for the board.
        emulated: whether there is no KVM.
        kernel: to boot, with initrd and words; None: the first disk boots.
        initrd: for the kernel.
        words: for the kernel.
        console: a file for what the serial port says, None for a terminal.
        ports: places for disks that come while it runs.
        network: of libvirt, "" for none.
    """

    name: str
    memory: int = 512
    cpus: int = 1
    machine: str = "q35"
    emulated: bool = False
    kernel: Path | None = None
    initrd: Path | None = None
    words: str = ""
    console: Path | None = None
    ports: int = 4
    network: str = ""


def disk_xml(disk: Disk, number: int = 0, *, boot: int | None = None) -> str:
    """Return the XML of a disk, which the guest has as the number-th virtio disk.

    boot: its place in the order of booting, from 1.
    """
    return _text(_disk(disk, number, boot))


def domain_xml(kind: MachineKind, disks: list[Disk]) -> str:
    """Return the XML of a machine with these disks; the first one boots."""
    domain = Element("domain", type="qemu" if kind.emulated else "kvm")
    _add(domain, "name", kind.name)
    _add(domain, "memory", str(kind.memory), unit="MiB")
    _add(domain, "vcpu", str(kind.cpus))
    _operating_system(domain, kind)
    SubElement(SubElement(domain, "features"), "acpi")
    if kind.emulated:
        cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
        _add(cpu, "model", "qemu64", fallback="allow")
    else:
        SubElement(domain, "cpu", mode="host-passthrough")
    # A guest that reboots starts from the same disks.
    _add(domain, "on_poweroff", "destroy")
    _add(domain, "on_crash", "destroy")
    devices = SubElement(domain, "devices")
    for number, disk in enumerate(disks):
        boot = 1 if number == 0 and kind.kernel is None else None
        devices.append(_disk(disk, number, boot))
    _others(devices, kind)
    return _text(domain)


def serial_target(number: int) -> str:
    """Return what libvirt calls the number-th virtio disk: vda, vdb, ..., vdaa."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, len(_LETTERS))
        name = _LETTERS[rest] + name
    return f"vd{name}"


def _disk(disk: Disk, number: int, boot: int | None) -> Element:
    disk.check()
    if not Path(disk.socket).is_absolute():
        raise UsageError(f"{disk.socket}: libvirt needs the whole path")
    found = Element("disk", type="network", device="disk")
    SubElement(
        found,
        "driver",
        name="qemu",
        type="raw",
        cache="none",
        # A client of the network: neither native nor io_uring would help.
        io="threads",
        discard="unmap",
        detect_zeroes="unmap",
    )
    source = SubElement(found, "source", protocol="nbd", name=disk.export)
    SubElement(source, "host", transport="unix", socket=disk.socket)
    SubElement(found, "target", dev=serial_target(number), bus="virtio")
    _add(found, "serial", disk.serial or disk.name)
    SubElement(found, "alias", name=f"ua-obd-{disk.name}")
    if disk.read_only:
        SubElement(found, "readonly")
    if boot:
        SubElement(found, "boot", order=str(boot))
    return found


def _operating_system(domain: Element, kind: MachineKind) -> None:
    system = SubElement(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=kind.machine)
    parts = {"kernel": kind.kernel, "initrd": kind.initrd}
    for name, path in parts.items():
        if path:
            _add(system, name, str(path.absolute()))
    if kind.words:
        _add(system, "cmdline", kind.words)


def _others(devices: Element, kind: MachineKind) -> None:
    SubElement(devices, "controller", type="usb", model="none")
    if kind.machine.startswith(("q35", "pc-q35")):
        SubElement(devices, "controller", type="pci", model="pcie-root")
        for _ in range(kind.ports):
            SubElement(devices, "controller", type="pci", model="pcie-root-port")
    if kind.console:
        serial = SubElement(devices, "serial", type="file")
        SubElement(serial, "source", path=str(kind.console.absolute()))
    else:
        serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "target", port="0")
    # The channel of the guest's agent, for snapshots of whole file systems.
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    if kind.network:
        interface = SubElement(devices, "interface", type="network")
        SubElement(interface, "source", network=kind.network)
        SubElement(interface, "model", type="virtio")
    SubElement(devices, "memballoon", model="none")
    SubElement(SubElement(devices, "video"), "model", type="none")


def _add(parent: Element, name: str, text: str, **attributes: str) -> Element:
    made = SubElement(parent, name, attributes)
    made.text = text
    return made


def _text(element: Element) -> str:
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode") + "\n"
