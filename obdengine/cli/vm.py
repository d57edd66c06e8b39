# SPDX-License-Identifier: Apache-2.0
"""
vm - `obd vm`: layered disks of virtual machines, by libvirt or by QMP.

The image of a disk is served as `obd attach --via socket` does it, under a
name made of those of the machine and the disk, so that it is found again.
"""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from obdengine.cli import kvm
from obdengine.cli.attach import wanted_record
from obdengine.cli.output import json_option, json_text, printable
from obdengine.cli.writing import writing_options
from obdengine.errors import UsageError
from obdengine.host import devices
from obdengine.host.records import Places, Record, check_name
from obdengine.host.server import CONTROL, SOCKET
from obdengine.ops.control import ask
from obdengine.units import SECTOR, parse_size, round_up
from qemu.obd import BUSES, Disk, Limits, SyncMachine
from qemu.obd.domain import MachineKind, disk_xml, domain_xml
from qemu.obd.libvirt_host import LibvirtHost

__all__ = [
    "vm",
    "start",
    "stop",
    "attach",
    "detach",
    "snapshot",
    "limit",
    "resize",
    "xml_",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

# Who QEMU is when the system's libvirt runs it, in Debian.
_SYSTEM_USER = "libvirt-qemu"


@click.group()
def vm() -> None:
    """Give virtual machines layered disks: by libvirt, or by QMP."""


def _connect_option(command: _Command) -> _Command:
    return click.option(
        "--connect", metavar="URI", help="The libvirt to use (qemu:///system)."
    )(command)


def _qmp_option(command: _Command) -> _Command:
    return click.option(
        "--qmp",
        type=click.Path(path_type=Path),
        metavar="SOCKET",
        help="Ask QEMU itself, at its QMP socket, and no libvirt.",
    )(command)


def _limit_options(command: _Command) -> _Command:
    command = click.option(
        "--rate", type=parse_size, default="0", metavar="SIZE", help="Bytes a second."
    )(command)
    return click.option(
        "--iops", type=click.IntRange(0), default=0, help="Requests a second."
    )(command)


_machine = click.argument("machine", metavar="MACHINE")
_disk = click.option(
    "--disk", default="disk", metavar="NAME", help="Which disk (disk)."
)
_owner = click.option(
    "--owner",
    metavar="USER",
    help="Who QEMU is, and may connect to the server.",
)


@vm.command()
@_machine
@click.argument("image", nargs=-1, required=True, metavar="IMAGE...")
@_connect_option
@writing_options
@_disk
@_owner
@click.option("--memory", type=parse_size, default="512M", help="Memory (512M).")
@click.option("--cpus", type=click.IntRange(1, 255), default=1, help="CPUs (1).")
@click.option("--machine-type", default="q35", metavar="TYPE", help="Board (q35).")
@click.option("--emulate", is_flag=True, help="Do not use KVM.")
@click.option(
    "--kernel", type=click.Path(path_type=Path, exists=True), help="Boot this kernel."
)
@click.option(
    "--initrd", type=click.Path(path_type=Path, exists=True), help="With this initrd."
)
@click.option("--append", "words", default="", help="Words for the kernel.")
@click.option(
    "--console",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what the serial port says to this file.",
)
@click.option("--network", default="", metavar="NAME", help="A network of libvirt's.")
@click.option("--define", is_flag=True, help="Let the machine stay when it is off.")
@click.option("--print-xml", is_flag=True, help="Start nothing, print the XML.")
@json_option
def start(
    machine: str,
    image: tuple[str, ...],
    connect: str | None,
    disk: str,
    owner: str | None,
    define: bool,
    print_xml: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Start a machine whose disk is IMAGE."""
    writing, more = _split(options)
    kind = MachineKind(name=check_name(machine), **more)
    places = Places.usual()
    wanted = wanted_record(image, {**writing, "name": _record_name(machine, disk)})
    if print_xml:
        click.echo(domain_xml(kind, [_disk_of(places, wanted, disk)]), nl=False)
        return
    # A machine that stays may start by itself after a reboot.
    wanted = replace(wanted, keep=define)
    with _served(places, wanted, _user(owner, connect)) as record:
        xml = domain_xml(kind, [_disk_of(places, record, disk)])
        with _libvirt(connect) as host:
            host.start(xml, define=define)
    found = {"machine": machine, "disk": disk, "socket": record.device}
    click.echo(json_text(found) if as_json else f"{machine}: runs")


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is about writing, and what is about the machine."""
    names = ("read_write", "upper", "form", "max_size", "garbage")
    writing = {name: options.pop(name) for name in names}
    emulated = options.pop("emulate") or kvm.why_not() is not None
    kind = {"memory": options.pop("memory") >> 20, "emulated": emulated}
    kind |= {"machine": options.pop("machine_type")}
    return writing, {**kind, **options}


@vm.command()
@_machine
@_connect_option
@click.option("--force", is_flag=True, help="As if the power went.")
@click.option("--wait", type=click.IntRange(0), default=60, help="Seconds (60).")
def stop(machine: str, connect: str | None, force: bool, wait: int) -> None:
    """Power a machine off, and take its disks away."""
    with _libvirt(connect) as host:
        host.stop(machine, seconds=wait, force=force)
        host.forget(machine)
    places = Places.usual()
    for record in devices.attached(places):
        if record.name.startswith(_record_name(machine, "")):
            devices.detach(places, record.name)


@vm.command()
@click.argument("machine", metavar="MACHINE")
@click.argument("image", nargs=-1, required=True, metavar="IMAGE...")
@_connect_option
@_qmp_option
@writing_options
@_disk
@_owner
@click.option("--bus", metavar="BUS", help=f"{', '.join(BUSES)}, or an id.")
@_limit_options
@json_option
def attach(
    machine: str,
    image: tuple[str, ...],
    connect: str | None,
    qmp: Path | None,
    disk: str,
    owner: str | None,
    bus: str | None,
    iops: int,
    rate: int,
    as_json: bool,
    **writing: Any,
) -> None:
    """Give a machine that runs one more disk, IMAGE."""
    places, limits = Places.usual(), Limits(iops, rate)
    wanted = wanted_record(image, {**writing, "name": _record_name(machine, disk)})
    with _served(places, wanted, _user(owner, connect, qmp)) as record:
        mine = _disk_of(places, record, disk)
        if qmp:
            with SyncMachine(qmp) as running:
                running.attach(mine, bus=bus, limits=limits)
        else:
            with _libvirt(connect) as host:
                host.attach(machine, mine)
                host.limit(machine, disk, limits)
    found = {"machine": machine, "disk": disk, "serial": disk, "socket": record.device}
    click.echo(json_text(found) if as_json else f"{disk}: is there, by that serial")


@vm.command()
@_machine
@_connect_option
@_qmp_option
@_disk
@click.option("--wait", type=click.IntRange(0), default=60, help="Seconds (60).")
def detach(
    machine: str, connect: str | None, qmp: Path | None, disk: str, wait: int
) -> None:
    """Take a disk from a machine that runs, when its guest lets go of it."""
    if qmp:
        with SyncMachine(qmp) as running:
            running.detach(disk, seconds=wait)
    else:
        with _libvirt(connect) as host:
            host.detach(machine, disk, seconds=wait)
    devices.detach(Places.usual(), _record_name(machine, disk))


@vm.command()
@_machine
@_connect_option
@_qmp_option
@click.option("--disk", metavar="NAME", help="Only this disk (all that are written).")
@click.option(
    "--agent",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="With --qmp, where the guest's agent is.",
)
def snapshot(
    machine: str,
    connect: str | None,
    qmp: Path | None,
    disk: str | None,
    agent: Path | None,
) -> None:
    """Make what a machine has written layers, all at one moment; it goes on."""
    places = Places.usual()
    records = [r for r in _records(places, machine, disk) if not r.read_only]
    if not records:
        raise UsageError(f"{machine}: has no disk that obd serves, and is written to")

    def take() -> None:
        for record in records:
            control = places.folder(record.name) / CONTROL
            reply = ask(control, "POST", "snapshot")
            click.echo(printable(f"{record.name}: {reply.get('message')}"))

    if qmp:
        with SyncMachine(qmp) as running:
            running.snapshot(take, agent=agent)
        return
    with _libvirt(connect) as host, host.still(machine) as how:
        take()
        click.echo(f"the guest was {how}")


@vm.command()
@_machine
@_connect_option
@_qmp_option
@_disk
@_limit_options
def limit(
    machine: str,
    connect: str | None,
    qmp: Path | None,
    disk: str,
    iops: int,
    rate: int,
) -> None:
    """Let a machine use no more of a disk than that."""
    if qmp:
        with SyncMachine(qmp) as running:
            running.limit(disk, Limits(iops, rate))
    else:
        with _libvirt(connect) as host:
            host.limit(machine, disk, Limits(iops, rate))


@vm.command()
@_machine
@click.argument("size", metavar="[+]SIZE")
@click.option(
    "--qmp",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    required=True,
    help="The QMP socket of the machine's QEMU.",
)
@_disk
def resize(machine: str, size: str, qmp: Path, disk: str) -> None:
    """Make a disk larger under a machine that runs, and tell its guest."""
    places = Places.usual()
    record = next(iter(_records(places, machine, disk)), None)
    if record is None or record.read_only:
        raise UsageError(f"{machine}: has no disk {disk} that it can write to")
    wanted = parse_size(size.removeprefix("+"))
    wanted += record.size if size.startswith("+") else 0
    name = record.name
    with SyncMachine(qmp) as running:
        # QEMU flushes all disks when it stands still.
        running.snapshot(lambda: _grow(places, name, round_up(wanted, SECTOR)))
        now = running.resize(_disk_of(places, record, disk))
    click.echo(f"{disk}: {now} bytes")


@vm.command("xml")
@click.argument("socket", type=click.Path(path_type=Path), metavar="SOCKET")
@click.option("--name", default="disk", metavar="NAME", help="Of the disk (disk).")
@click.option("--export", default="", metavar="NAME", help="Of the export.")
@click.option("--read-only", is_flag=True, help="The guest may not write.")
@click.option("--number", type=click.IntRange(0), default=0, help="0: vda, 1: vdb.")
@click.option("--boot", type=click.IntRange(1), help="Place in the boot order.")
def xml_(
    socket: Path, name: str, export: str, read_only: bool, number: int, boot: int | None
) -> None:
    """Print libvirt's XML of a disk that is served at SOCKET."""
    disk = Disk(name, str(socket.absolute()), export, read_only)
    click.echo(disk_xml(disk, number, boot=boot), nl=False)


# -- The disks of a machine


def _grow(places: Places, name: str, size: int) -> None:
    devices.grow(places, name, size)


def _record_name(machine: str, disk: str) -> str:
    return f"vm-{machine}.{disk}"


def _records(places: Places, machine: str, disk: str | None) -> list[Record]:
    start = _record_name(machine, disk or "")
    found = devices.attached(places)
    if disk:
        return [record for record in found if record.name == start]
    return [record for record in found if record.name.startswith(start)]


def _disk_of(places: Places, record: Record, name: str) -> Disk:
    socket = places.folder(record.name) / SOCKET
    return Disk(
        name, str(socket), read_only=record.read_only, reconnect=record.patience
    )


@contextmanager
def _served(places: Places, wanted: Record, owner: str) -> Iterator[Record]:
    """Serve a disk; no more when the block fails, unless it was before."""
    record, new = devices.attach(places, replace(wanted, owner=owner), way="socket")
    with ExitStack() as undo:
        if new:
            undo.callback(devices.detach, places, record.name)
        yield record
        undo.pop_all()


def _user(owner: str | None, connect: str | None, qmp: Path | None = None) -> str:
    """Return whose the socket has to be, "" for ours."""
    if owner is not None:
        return "" if owner == getpass.getuser() else owner
    system = qmp is None and (connect or "qemu:///system") == "qemu:///system"
    if not system or os.geteuid() != 0:
        return ""
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        return ""
    return _SYSTEM_USER


@contextmanager
def _libvirt(uri: str | None) -> Iterator[LibvirtHost]:
    host = LibvirtHost(uri)
    try:
        yield host
    finally:
        host.close()
