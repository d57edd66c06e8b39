# SPDX-License-Identifier: Apache-2.0
"""test_vhost_user - a guest's disk is a vhost-user-blk device of a served image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.host import rig
from tests.running import PATIENCE
from tests.tools import environment, requires
from tests.vm import guests

pytestmark = requires(
    *("qemu-system-x86_64", "qemu-storage-daemon", "nbdkit", "nbdkit-python"),
    *("mke2fs", "busybox", "cpio", "fuse", "loop"),
)

SCRIPT = """
until [ -b /dev/vda ]; do usleep 50000; done
mount -t KIND -o MODE /dev/vda /mnt
if [ "$(cat /sys/block/vda/ro)" = 1 ]; then
    ! touch /mnt/file && echo "READ ONLY"
else
    echo "of the guest" >/mnt/file && sync
fi
umount /mnt
! dmesg | grep -iE 'i/o error'
"""

SHARED = "memory-backend-memfd,id=mem,size=256M,share=on"


MODES = {"ext4": "ro,noload", "xfs": "ro,norecovery", "ntfs3": "ro"}
soak = pytest.mark.soak
CELLS = [
    pytest.param(kind, form, marks=[] if (kind, form) == ("ext4", "append") else soak)
    for kind in ("ext4", "xfs", "ntfs")
    for form in ("append", "sparse", "ro")
]


@requires("mkfs.xfs", "mkntfs", "ntfs-3g", "root")
@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_guest_writes(images: Path, tmp_path: Path, kind: str, form: str) -> None:
    kernel = guests.kernel_for(kind)
    own, socket = tmp_path / "own", tmp_path / "vub"
    words = ["serve", "--engine", "qemu-storage-daemon", "--as", "vhost-user-blk"]
    words += ["--socket", str(socket)]
    words += [] if form == "ro" else ["--upper", str(own), "--form", form]
    obd = str(Path(sys.executable).with_name("obd"))
    words += [str(rig.layer(images, kind))]
    server = rig.subprocess.Popen([obd, *words], env=environment(), stdout=-1)
    options = ["-object", SHARED, "-chardev", f"socket,id=vub,path={socket}"]
    options += ["-device", "vhost-user-blk-pci,chardev=vub"]
    name = "ntfs3" if kind == "ntfs" else kind
    mode = MODES[name] if form == "ro" else "rw"
    script = SCRIPT.replace("KIND", name).replace("MODE", mode)
    machine = "q35,memory-backend=mem"
    try:
        assert server.stdout is not None
        assert server.stdout.readline().decode().strip() == str(socket)
        with guests.started(
            tmp_path, script, *options, machine=machine, kernel=kernel
        ) as guest:
            assert guest.wait() == 0, guest.said()
            assert ("READ ONLY" in guest.said()) == (form == "ro")
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)
    if form != "ro":
        assert guests.file_in(own, kind, "file", tmp_path) == "of the guest\n"
