# SPDX-License-Identifier: Apache-2.0
"""test_hotplug - layered disks given to a running QEMU, and taken from it, over QMP."""

from __future__ import annotations

import asyncio
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdengine.errors import UsageError, VmError, VmTimeout
from qemu.obd import Agent, Disk, Limits, Machine, SyncMachine
from tests.host import rig
from tests.running import Export, run_obd, start_nbdkit
from tests.tools import requires
from tests.vm import guests

pytestmark = requires(
    "qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "busybox", "cpio"
)

soak = pytest.mark.soak

# What each kind of machine takes disks at.
SCSI = ["-device", "virtio-scsi-pci,id=scsi0"]
MMIO_SCSI = ["-device", "virtio-scsi-device,id=scsi0"]
MACHINES = {
    "q35-blk": ("q35", "virtio-blk", guests.ports(2)),
    "q35-scsi": ("q35", "virtio-scsi", SCSI),
    "pc-blk": ("pc", "virtio-blk", []),
    "pc-scsi": ("pc", "virtio-scsi", SCSI),
    "microvm-scsi": ("microvm,acpi=on", "virtio-scsi", MMIO_SCSI),
}
FORMS = ("append", "sparse")
QUICK = ["q35-blk"]  # test_secure_container.py has a microvm

CELLS = [
    pytest.param(
        *(name, "ext4", form), marks=[] if name in QUICK and form == "append" else soak
    )
    for name in MACHINES
    for form in FORMS
]
CELLS += [
    pytest.param("q35-blk", "xfs", form, marks=[soak, requires("mkfs.xfs")])
    for form in FORMS
]
CELLS += [
    pytest.param("q35-blk", "ntfs", form, marks=[soak, requires("mkntfs", "ntfs-3g")])
    for form in FORMS
]

# What mounts each kind, and how what shall not be written is mounted.
TYPES = {"ext4": "ext4", "xfs": "xfs", "ntfs": "ntfs3"}
READING = {"ext4": "ro,noload", "xfs": "ro,norecovery", "ntfs": "ro"}

WRITER = """
echo READY
fixed=$(disk fixed)
mkdir -p /run/fixed
[ "$(cat /sys/block/${fixed#/dev/}/ro)" = 1 ] || echo WRONG
mount -t TYPE -o READING "$fixed" /run/fixed || echo WRONG
! touch /run/fixed/file 2>/dev/null || echo WRONG
umount /run/fixed
echo FIXED
device=$(disk data)
mount -t TYPE "$device" /mnt && echo "of the guest" >/mnt/file && sync
umount /mnt
echo "WROTE $(blockdev --getsize64 $device) $(cat /sys/block/${device#/dev/}/ro)"
gone "$fixed"
gone "$device"
echo GONE
while :; do sleep 1; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def served(folder: Path, image: Path, *keys: str) -> Export:
    return start_nbdkit(folder, f"config={image}", *keys)


@pytest.mark.parametrize(("name", "kind", "form"), CELLS)
def test_guest_writes_to_a_disk_that_comes_and_goes(
    images: Path, folder: Path, name: str, kind: str, form: str
) -> None:
    board, bus, options = MACHINES[name]
    kernel = guests.kernel_for(kind)
    own, image = folder / "own", rig.layer(images, kind)
    export = served(folder, image, f"upper={own}", f"form={form}")
    fixed = served(folder, image)
    script = WRITER.replace("TYPE", TYPES[kind]).replace("READING", READING[kind])
    with guests.started(
        folder, script, *options, machine=board, kernel=kernel
    ) as guest:
        guest.wait_for("READY")
        with SyncMachine(guest.qmp) as machine:
            machine.attach(Disk("fixed", str(fixed.socket), read_only=True), bus=bus)
            guest.wait_for("FIXED")
            machine.attach(Disk("data", str(export.socket)), bus=bus)
            assert sorted(machine.disks()) == ["data", "fixed"]
            size = (images / f"{kind}.raw").stat().st_size
            assert guest.wait_for("WROTE").split()[1:] == [str(size), "0"]
            machine.detach("fixed")
            machine.detach("data")
            assert machine.disks() == {}
            machine.detach("data")  # which is fine
        guest.wait_for("GONE")
        assert "WRONG" not in guest.said()
    export.stop()
    fixed.stop()
    assert guests.file_in(own, kind, "file", folder) == "of the guest\n"


# -- One guest that waits, for all that needs none of its own


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[guests.Guest]:
    """A guest that does nothing and takes disks."""
    folder = tmp_path_factory.mktemp("idle")
    script = "echo READY; while :; do sleep 1; done"
    with guests.started(folder, script, *SCSI) as guest:
        guest.wait_for("READY")
        yield guest


# Of a test's fixtures this one comes last: servers end when nobody is connected.
@pytest.fixture
def machine(idle: guests.Guest) -> Iterator[SyncMachine]:
    with SyncMachine(idle.qmp) as made:
        yield made
        for name in made.disks():
            made.detach(name)


@pytest.fixture
def export(images: Path, folder: Path) -> Iterator[Export]:
    made = served(folder, rig.layer(images, "ext4"))
    yield made
    made.stop()


def nodes(machine: SyncMachine) -> set[str]:
    return {n["node-name"] for n in machine.ask("query-named-block-nodes", flat=True)}


def test_nobody_at_the_socket(folder: Path) -> None:
    with pytest.raises(VmError, match="QEMU at"):
        SyncMachine(folder / "none")


def test_qemus_own_words_are_in_the_error(machine: SyncMachine, folder: Path) -> None:
    with pytest.raises(VmError, match="No such file") as caught:
        machine.attach(Disk("data", str(folder / "none")))
    assert caught.value.command == "blockdev-add"
    assert caught.value.kind == "GenericError"


def test_a_failed_attach_leaves_nothing(export: Export, machine: SyncMachine) -> None:
    before = nodes(machine)
    with pytest.raises(VmError, match="Bus 'none' not found"):
        machine.attach(Disk("data", str(export.socket), read_only=True), bus="none")
    assert nodes(machine) == before


def test_a_name_is_taken_once(export: Export, machine: SyncMachine) -> None:
    disk = Disk("data", str(export.socket), read_only=True)
    machine.attach(disk)
    with pytest.raises(VmError, match="Duplicate nodes"):
        machine.attach(disk)
    assert list(machine.disks()) == ["data"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 21, "é"])
def test_a_name_that_qemu_would_cut(machine: SyncMachine, name: str) -> None:
    with pytest.raises(UsageError):
        machine.attach(Disk(name, "/none"))


def test_limits_are_set(export: Export, machine: SyncMachine) -> None:
    disk = Disk("data", str(export.socket), read_only=True)
    machine.attach(disk, limits=Limits(iops=100, rate=1 << 20))
    (found,) = (
        block["inserted"]
        for block in machine.ask("query-block")
        if "obd-data" in block.get("qdev", "")
    )
    assert (found["iops"], found["bps"]) == (100, 1 << 20)


def test_a_larger_export_is_a_larger_disk(
    machine: SyncMachine, images: Path, folder: Path
) -> None:
    own = folder / "own"
    image = rig.layer(images, "ext4")
    run_obd("create", image, own)
    export = start_nbdkit(folder, f"config={own}/config.v1.json", "readonly=false")
    disk = Disk("data", str(export.socket))
    machine.attach(disk)
    export.kill()  # it would wait for QEMU, which is connected
    run_obd("resize", own, "100M")
    again = restarted(export, folder, own)
    assert machine.resize(disk) == 100 << 20
    assert machine.disks()["data"]["image"]["virtual-size"] == 100 << 20
    machine.detach("data")
    assert not {name for name in nodes(machine) if name.startswith("obd-")}
    again.stop()


def restarted(export: Export, folder: Path, own: Path) -> Export:
    """Return another server of an image, at the socket of one that has ended."""
    other = start_nbdkit(folder, f"config={own}/config.v1.json", "readonly=false")
    other.socket.rename(export.socket)
    other.socket = export.socket
    return other


def test_a_disk_becomes_a_layered_image(
    machine: SyncMachine, images: Path, folder: Path
) -> None:
    raw = folder / "machine.raw"
    raw.write_bytes((images / "ext4.raw").read_bytes())
    node = {"driver": "file", "node-name": "any", "filename": str(raw)}
    machine.ask("blockdev-add", **{k.replace("-", "_"): v for k, v in node.items()})
    run_obd("create", "--size", str(raw.stat().st_size), folder / "own")
    config = folder / "own" / "config.v1.json"
    for mirror in (False, True):
        export = start_nbdkit(folder, f"config={config}", "readonly=false")
        machine.copy_out("any", Disk("copy", str(export.socket)), mirror=mirror)
        export.stop()
        assert rig.flat(config, folder).read_bytes() == raw.read_bytes()
    machine.ask("blockdev-del", node_name="any")


def test_a_chain_of_overlays_becomes_layers(
    machine: SyncMachine, images: Path, folder: Path
) -> None:
    image = rig.layer(images, "ext4")
    rig.flat(image, folder).rename(folder / "base.raw")
    overlay = folder / "top.qcow2"
    words = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", overlay]
    rig.subprocess.run([rig.tool("qemu-img"), *words], check=True)
    writes = ["-c", "write -P 0x5a 8M 1M", overlay]
    rig.subprocess.run([rig.tool("qemu-io"), *writes], check=True, stdout=-3)
    base = {"driver": "file", "node-name": "base", "filename": f"{folder}/base.raw"}
    below = {"driver": "raw", "node-name": "below", "file": base}
    top = {"driver": "qcow2", "node-name": "top", "backing": below}
    top |= {"file": {"driver": "file", "filename": str(overlay)}}
    machine.ask("blockdev-add", **{k.replace("-", "_"): v for k, v in top.items()})
    assert machine.overlays("top") == ["top", "below"]
    export = served(folder, image, f"upper={folder / 'own'}")
    machine.copy_out("top", Disk("layer", str(export.socket)), sync="top")
    export.stop()
    machine.ask("blockdev-del", node_name="top")
    config = folder / "own" / "config.v1.json"
    disk = rig.flat(config, folder).read_bytes()
    assert disk[8 << 20 : 9 << 20] == b"\x5a" * (1 << 20)
    assert (
        run_obd("info", "--output", "json", config).json()["upper"]["data-bytes"]
        == 1 << 20
    )


def test_a_snapshot_of_a_machine_that_stands_still(machine: SyncMachine) -> None:
    seen = []
    machine.snapshot(lambda: seen.append(machine_status(machine)))
    assert machine.ask("query-status")["running"]


def machine_status(machine: SyncMachine) -> None:
    # The loop of the machine is in use; that it was called is what counts.
    assert machine


@requires("root")
def test_the_commands_do_all_of_it(
    idle: guests.Guest, images: Path, folder: Path
) -> None:
    own, image = folder / "own", rig.layer(images, "ext4")
    with rig.host(folder) as host:

        def vm(command: str, *words: str | Path) -> str:
            asked = ["--qmp", idle.qmp, "pc"]
            return host.obd("vm", command, *asked, *words).text

        vm("attach", "--disk", "data", "--upper", own, "--rate", "10M", image)
        assert host.ps()[0]["name"] == "vm-pc.data"
        vm("limit", "--disk", "data", "--iops", "50")
        assert "layers below" in vm("snapshot")
        assert vm("resize", "--disk", "data", "+16M") == f"data: {80 << 20} bytes\n"
        with SyncMachine(idle.qmp) as machine:
            found = machine.disks()["data"]
            assert found["image"]["virtual-size"] == 80 << 20
        vm("detach", "--disk", "data")
        assert host.ps() == []
        vm("detach", "--disk", "data")  # which is fine
    found = run_obd("info", "--output", "json", own / "config.v1.json").json()
    assert found["virtual-size"] == 80 << 20
    assert len(found["layers"]) == 2


# -- A guest agent, which is played


class Played(socketserver.StreamRequestHandler):
    """Answers as qemu-guest-agent does, and notes what it was asked."""

    def handle(self) -> None:
        for line in self.rfile:
            request = json.loads(line)
            name = request["execute"]
            self.server.asked.append(name)  # type: ignore[attr-defined]
            reply: object = {"return": 2}
            if name == "guest-sync":
                self.wfile.write(b'{"return": 1}\n')  # of somebody before us
                reply = {"return": request["arguments"]["id"]}
            if name == "guest-refuse":
                reply = {"error": {"class": "CommandNotFound", "desc": "no such"}}
            self.wfile.write(json.dumps(reply).encode() + b"\n")


@pytest.fixture
def agent(folder: Path) -> Iterator[socketserver.UnixStreamServer]:
    with socketserver.UnixStreamServer(str(folder / "agent"), Played) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_agent_is_asked_before_and_after(
    machine: SyncMachine, agent: socketserver.UnixStreamServer
) -> None:
    asked = agent.asked  # type: ignore[attr-defined]
    machine.snapshot(lambda: asked.append("snapshot"), agent=agent.server_address)
    freeze, thaw = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"
    assert asked == ["guest-sync", freeze, "snapshot", thaw]


def test_the_guest_thaws_when_the_snapshot_fails(
    machine: SyncMachine, agent: socketserver.UnixStreamServer
) -> None:
    def fails() -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - its own
        machine.snapshot(fails, agent=agent.server_address)
    assert agent.asked[-1] == "guest-fsfreeze-thaw"  # type: ignore[attr-defined]


def test_what_the_agent_refuses(agent: socketserver.UnixStreamServer) -> None:
    async def ask() -> None:
        async with Agent.connect(str(agent.server_address)) as made:
            await made.ask("guest-refuse")

    with pytest.raises(VmError, match="no such") as caught:
        asyncio.run(ask())
    assert caught.value.kind == "CommandNotFound"


def test_no_agent(machine: SyncMachine, folder: Path) -> None:
    with pytest.raises(VmError, match="guest agent"):
        machine.snapshot(lambda: None, agent=folder / "none")


def test_a_guest_that_does_not_let_go(
    images: Path, folder: Path, export: Export
) -> None:
    # Its firmware waits for a disk and has no driver for hot-unplug.
    options = [*guests.ports(1), "-S"]
    with guests.started(folder, "", *options) as guest:

        async def attach() -> None:
            async with Machine.connect(guest.qmp) as machine:
                disk = Disk("data", str(export.socket), read_only=True)
                await machine.attach(disk)
                with pytest.raises(VmTimeout):
                    await machine.detach("data", seconds=0.5)
                assert list(await machine.disks()) == ["data"]

        asyncio.run(attach())


# -- The server dies

BUSY = """
echo READY
device=$(disk data)
mount -t ext4 "$device" /mnt
number=0
while [ ! -e /mnt/last ]; do
    number=$((number + 1))
    head -c 60000 /dev/zero >/mnt/$number && sync && echo "SYNCED $number"
    [ $number -lt 40 ] || touch /mnt/last
done
umount /mnt
dmesg | grep -iE 'error|blocked' && echo TROUBLE
echo FINISHED $number
"""


def test_requests_go_on_when_the_server_is_started_again(
    images: Path, folder: Path
) -> None:
    own = folder / "own"
    export = served(folder, rig.layer(images, "ext4"), f"upper={own}")
    with guests.started(folder, BUSY, *guests.ports(1)) as guest:
        guest.wait_for("READY")
        with SyncMachine(guest.qmp) as machine:
            machine.attach(Disk("data", str(export.socket)))
        for number in (5, 15):
            guest.wait_for(f"SYNCED {number}")
            os.kill(export.process.pid, 9)
            export.process.wait()
            export = restarted(export, folder, own)
        assert guest.wait_for("FINISHED") == "FINISHED 40"
        assert guest.wait() == 0, guest.said()
        assert "TROUBLE" not in guest.said()
    export.stop()
    assert rig.is_sound(own / "config.v1.json", "ext4", folder)
