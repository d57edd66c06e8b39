# SPDX-License-Identifier: Apache-2.0
"""
test_boot_matrix - a guest whose disk is there from the start, in every form.

The file systems are made empty and get into the layers by a guest's own
kernel; what it wrote is judged from outside after it has powered off.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.host import rig
from tests.running import start_nbdkit
from tests.tools import requires, tool
from tests.vm import guests

pytestmark = requires(
    "qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "busybox", "cpio"
)

soak = pytest.mark.soak

SCRIPT = """
until [ -b /dev/vda ]; do usleep 50000; done
mount -t KIND -o MODE /dev/vda /mnt
[ ! -e /mnt/before ] || echo "FOUND $(cat /mnt/before)"
if [ MODE = rw ]; then
    mkdir -p /mnt/folder && echo "of the guest" >/mnt/folder/file
    head -c 3000000 /dev/urandom >/mnt/noise && sync
    echo "SUM $(sha256sum </mnt/noise)"
fi
umount /mnt
! dmesg | grep -iE 'i/o error|corrupt'
"""

CELLS = [
    pytest.param("ext4", "append", marks=soak),
    pytest.param("ext4", "sparse", marks=soak),
    pytest.param("ext4", "ro", marks=soak),
    pytest.param("xfs", "append", marks=[soak, requires("mkfs.xfs", "xfs_repair")]),
    pytest.param("xfs", "sparse", marks=[soak, requires("mkfs.xfs", "xfs_repair")]),
    pytest.param("xfs", "ro", marks=[soak, requires("mkfs.xfs")]),
]


@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_guest_with_a_disk(images: Path, tmp_path: Path, kind: str, form: str) -> None:
    image, own = rig.layer(images, kind), tmp_path / "own"
    keys = [] if form == "ro" else [f"upper={own}", f"form={form}"]
    export = start_nbdkit(tmp_path, f"config={image}", *keys)
    mode = "ro,norecovery" if form == "ro" and kind == "xfs" else "rw"
    mode = "ro" if form == "ro" and kind == "ext4" else mode
    script = SCRIPT.replace("KIND", kind).replace("MODE", mode)
    only = ",readonly=on" if form == "ro" else ""
    options = ["-drive", f"file={export.uri},format=raw,if=none,id=disk{only}"]
    options += ["-device", "virtio-blk-pci,drive=disk"]
    with guests.started(tmp_path, script, *options) as guest:
        assert guest.wait() == 0, guest.said()
    export.stop()
    if form != "ro":
        assert rig.is_sound(own / "config.v1.json", kind, tmp_path)
        found = re.search(r"SUM (\w+)", guest.said())
        assert found
        assert found[1] == file_sum(own / "config.v1.json", kind, tmp_path)


def file_sum(config: Path, kind: str, folder: Path) -> str:
    """Return the digest of the file that the guest wrote, read by the host."""
    with rig.host(folder) as host:
        target = folder / "target"
        target.mkdir()
        host.obd("mount", config, target)
        words = [tool("sha256sum"), target / "noise"]
        done = subprocess.run(words, check=True, stdout=-1, text=True)
        host.obd("umount", target)
    return done.stdout.split()[0]


# -- NTFS

MAKER = """
until [ -b /dev/vda ]; do usleep 50000; done
modprobe ntfs3
mount -t ntfs3 -o MODE /dev/vda /mnt
echo "FOUND $(cat /mnt/folder/file)"
[ MODE = ro ] || echo "of the guest" >/mnt/second
sync
umount /mnt
"""


def ntfs_image(host: rig.Host, images: Path) -> Path:
    """Return layers: an empty NTFS, and what was filled in by ntfs-3g."""
    target, own = host.folder / "filling", host.folder / "filling.own"
    target.mkdir()
    host.obd("mount", "--upper", own, rig.layer(images, "ntfs"), target)
    (target / "folder").mkdir()
    (target / "folder" / "file").write_text("by ntfs-3g\n")
    (target / "large").write_bytes(os.urandom(5_000_000))
    host.obd("umount", target)
    config = host.folder / "ntfs.json"
    host.obd("commit", "--config", config, own, host.folder / "ntfs.2.obd")
    return config


@requires("mkntfs", "ntfs-3g", "ntfsfix", "ntfscat", "fuse", "loop", "root", "mount")
def test_ntfs_is_mounted_from_the_layers(images: Path, tmp_path: Path) -> None:
    with rig.host(tmp_path) as host:
        config = ntfs_image(host, images)
        target = tmp_path / "target"
        target.mkdir()
        host.obd("mount", config, target)
        assert (target / "folder" / "file").read_text() == "by ntfs-3g\n"
        assert (target / "large").stat().st_size == 5_000_000
        host.obd("umount", target)
        assert rig.is_sound(config, "ntfs", tmp_path)
        flat = rig.flat(config, tmp_path)
        words = [tool("ntfscat"), flat, "folder/file"]
        assert subprocess.run(words, stdout=-1).stdout == b"by ntfs-3g\n"


@soak
@requires("mkntfs", "ntfs-3g", "ntfsfix", "ntfscat", "fuse", "loop", "root", "mount")
@pytest.mark.parametrize("form", ["append", "sparse", "ro"])
def test_ntfs_is_mounted_by_a_kernel(images: Path, tmp_path: Path, form: str) -> None:
    kernel, own = guests.kernel_for("ntfs"), tmp_path / "own"
    with rig.host(tmp_path) as host:
        config = ntfs_image(host, images)
    keys = [] if form == "ro" else [f"upper={own}", f"form={form}"]
    export = start_nbdkit(tmp_path, f"config={config}", *keys)
    only = ",readonly=on" if form == "ro" else ""
    options = ["-drive", f"file={export.uri},format=raw,if=none,id=disk{only}"]
    options += ["-device", "virtio-blk-pci,drive=disk"]
    script = MAKER.replace("MODE", "ro" if form == "ro" else "rw")
    with guests.started(tmp_path, script, *options, kernel=kernel) as guest:
        assert guest.wait() == 0, guest.said()
    export.stop()
    assert "FOUND by ntfs-3g" in guest.said()
    if form != "ro":
        assert guests.file_in(own, "ntfs", "second", tmp_path) == "of the guest\n"
