# SPDX-License-Identifier: Apache-2.0
"""test_agent - a running guest: its own agent holds it still, and its disk grows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from qemu.obd import Disk, SyncMachine
from tests.host import rig
from tests.running import run_obd, start_nbdkit
from tests.tools import environment, requires, tool
from tests.vm import guests

pytestmark = requires(
    "qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "busybox", "cpio"
)

CHANNEL = "org.qemu.guest_agent.0"

SCRIPT = """
mkdir -p /var/run
mount -t ext4 $(disk data) /mnt || echo WRONG
names=/sys/class/virtio-ports/*/name
while ! port=$(grep -l guest_agent $names 2>/dev/null); do :; done
port=${port%/name}
qemu-ga -m virtio-serial -p /dev/${port##*/} -t /run 2>/run/log || cat /run/log &
while [ ! -e /run/enough ]; do
    number=$((number + 1))
    echo $number >/mnt/count
    sync /mnt/count
    echo "COUNT $number"
    echo "SECTORS $(cat /sys/block/vda/size)"
    usleep 20000
done
"""


def put_agent_into(job: Path) -> None:
    """Put the agent, and the libraries that it needs, where a guest finds them."""
    agent = tool("qemu-ga")
    needed = subprocess.run(
        [tool("ldd"), agent], check=True, stdout=-1, text=True, env=environment()
    )
    places = {path: path for path in re.findall(r"(/\S+) \(0x", needed.stdout)}
    for path, place in {agent: "/bin/qemu-ga", **places}.items():
        target = job / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def words_for(channel: Path) -> list[str]:
    """Return options for a socket at which the agent is heard."""
    words = ["-device", "virtio-serial-pci"]
    words += ["-chardev", f"socket,id=agent,path={channel},server=on,wait=off"]
    return [*words, "-device", f"virtserialport,chardev=agent,name={CHANNEL}"]


def count(guest: guests.Guest) -> int:
    """Return how far the guest has counted."""
    return int(re.findall(r"COUNT (\d+)\n", guest.said())[-1])


@requires("qemu-ga", "dumpe2fs", "e2fsck")
def test_snapshot_and_growth_while_a_guest_writes(images: Path, tmp_path: Path) -> None:
    own, control = tmp_path / "own", tmp_path / "control"
    keys = [f"config={rig.layer(images, 'ext4')}", f"upper={own}"]
    export = start_nbdkit(tmp_path, *keys, f"control={control}")
    put_agent_into(tmp_path / "job")
    channel = tmp_path / "agent"
    options = [*guests.ports(1), *words_for(channel)]
    seen: list[int] = []

    def take() -> None:
        seen.append(count(guest))
        run_obd("snapshot", "--control", control)
        seen.append(count(guest))

    disk = Disk("data", str(export.socket))
    with guests.started(tmp_path, SCRIPT, *options) as guest:
        with SyncMachine(guest.qmp) as machine:
            machine.attach(disk)
            guest.wait_for("COUNT 10")
            machine.snapshot(take, agent=channel)
            run_obd("resize", "--control", control, "100M")
            assert machine.resize(disk) == 100 << 20
            guest.wait_for(f"SECTORS {(100 << 20) // 512}")
        guest.wait_for(f"COUNT {seen[1] + 10}")
        assert "WRONG" not in guest.said()
    export.stop()
    # Writes before the freeze may still print their number.
    assert seen[1] - seen[0] <= 1
    judge(images, own, tmp_path, *seen)


def judge(images: Path, own: Path, folder: Path, first: int, last: int) -> None:
    """Look at what was taken: a file system that nobody has mounted."""
    disk = folder / "taken.raw"
    (sealed,) = own.glob("upper-1.data")
    run_obd("convert", "-O", "raw", rig.layer(images, "ext4"), sealed, disk)
    words = subprocess.run(
        [tool("dumpe2fs"), "-h", disk], check=True, stdout=-1, text=True
    ).stdout
    assert "needs_recovery" not in words
    assert "has_journal" in words
    subprocess.run([tool("e2fsck"), "-fn", disk], check=True, stdout=-3)
    found = subprocess.run(
        [tool("debugfs"), "-R", "cat /count", disk], check=True, stdout=-1, text=True
    )
    assert first <= int(found.stdout) <= last + 1
