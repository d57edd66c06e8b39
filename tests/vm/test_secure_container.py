# SPDX-License-Identifier: Apache-2.0
"""
test_secure_container - a layered image as the root of a container in a microvm.

What Kata does: the machine runs, the disk comes by QMP, the guest mounts it
and starts a program in namespaces of its own, and the disk goes again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.host import rig
from tests.tools import requires, tool
from tests.vm import guests

pytestmark = requires(
    *("qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "busybox", "cpio"),
    *("qemu-storage-daemon", "fuse", "loop", "root", "mount"),
)

# The guest's agent: mounts the disk that has the serial, and runs a container.
AGENT = """
echo READY
device=$(disk rootfs)
mkdir -p /run/rootfs
mount -t ext4 -o rw,discard "$device" /run/rootfs
mount -t proc proc /run/rootfs/proc
unshare -m -p -i -u -f chroot /run/rootfs /bin/sh -ec '
    hostname container
    echo "MOTD $(cat /etc/motd), process $$, of $(hostname)"
    echo "of the container" >/root/file
'
echo "CODE $?"
umount /run/rootfs/proc /run/rootfs
gone "$device"
echo GONE
while :; do sleep 1; done
"""


def image(host: rig.Host, images: Path) -> Path:
    """Return layers with a container's root: busybox and a text."""
    target = host.folder / "making"
    target.mkdir()
    own = host.folder / "making.own"
    host.obd("mount", "--upper", own, rig.layer(images, "ext4"), target)
    for name in ("bin", "proc", "root", "etc"):
        (target / name).mkdir()
    for name in ("busybox", "sh", "cat", "hostname"):
        shutil.copy(tool("busybox"), target / "bin" / name)
        (target / "bin" / name).chmod(0o755)
    (target / "etc" / "motd").write_text("from the layers")
    host.obd("umount", target)
    config = host.folder / "image.json"
    host.obd("commit", "--config", config, own, host.folder / "image.obd")
    return config


@pytest.mark.parametrize(
    "form", ["append", pytest.param("sparse", marks=pytest.mark.soak)]
)
def test_container_in_a_microvm(tmp_path: Path, images: Path, form: str) -> None:
    own = tmp_path / "own"
    with rig.host(tmp_path) as host:
        config = image(host, images)
        options = ["-device", "virtio-scsi-device,id=scsi0"]
        kind = "microvm,acpi=on"
        with guests.started(tmp_path, AGENT, *options, machine=kind) as guest:
            guest.wait_for("READY")
            asked = ["--qmp", guest.qmp, "--disk", "rootfs"]
            writing = ["--upper", own, "--form", form]
            host.obd("vm", "attach", *asked, *writing, "pod", config)
            said = guest.wait_for("MOTD")
            assert said == "MOTD from the layers, process 1, of container"
            assert guest.wait_for("CODE") == "CODE 0"
            host.obd("vm", "detach", *asked, "pod")
            guest.wait_for("GONE")
        assert host.ps() == []
    assert rig.is_sound(own / "config.v1.json", "ext4", tmp_path)
    flat = rig.flat(own / "config.v1.json", tmp_path)
    words = [tool("debugfs"), "-R", "cat /root/file", flat]
    done = rig.subprocess.run(words, stdout=-1, stderr=-3)
    assert done.stdout == b"of the container\n"
