# SPDX-License-Identifier: Apache-2.0
"""test_vhost_user - a guest's disk is a vhost-user-blk device of a served image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.host import rig
from tests.running import PATIENCE
from tests.tools import environment, requires, tool
from tests.vm import guests

pytestmark = requires(
    *("qemu-system-x86_64", "qemu-storage-daemon", "nbdkit", "nbdkit-python"),
    *("mke2fs", "busybox", "cpio"),
)

SCRIPT = """
until [ -b /dev/vda ]; do usleep 50000; done
mount -t KIND /dev/vda /mnt && echo "of the guest" >/mnt/file && sync
umount /mnt
! dmesg | grep -iE 'i/o error'
"""

SHARED = "memory-backend-memfd,id=mem,size=256M,share=on"


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("ext4", "append"),
        pytest.param("ext4", "sparse", marks=pytest.mark.soak),
        pytest.param("xfs", "append", marks=pytest.mark.soak),
    ],
)
def test_guest_writes(images: Path, tmp_path: Path, kind: str, form: str) -> None:
    own, socket = tmp_path / "own", tmp_path / "vub"
    words = [
        str(Path(sys.executable).with_name("obd")),
        "serve",
        "--engine",
        "qemu-storage-daemon",
    ]
    words += ["--as", "vhost-user-blk", "--socket", str(socket), "--upper", str(own)]
    words += ["--form", form, str(rig.layer(images, kind))]
    server = rig.subprocess.Popen(words, env=environment(), stdout=-1)
    options = ["-object", SHARED, "-chardev", f"socket,id=vub,path={socket}"]
    options += ["-device", "vhost-user-blk-pci,chardev=vub"]
    script = SCRIPT.replace("KIND", kind)
    machine = "q35,memory-backend=mem"
    try:
        assert server.stdout is not None
        assert server.stdout.readline().decode().strip() == str(socket)
        with guests.started(tmp_path, script, *options, machine=machine) as guest:
            assert guest.wait() == 0, guest.said()
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)
    assert rig.is_sound(own / "config.v1.json", kind, tmp_path)
    if kind == "ext4":
        flat = rig.flat(own / "config.v1.json", tmp_path)
        command = [tool("debugfs"), "-R", "cat /file", flat]
        done = rig.subprocess.run(command, stdout=-1, stderr=-3)
        assert done.stdout == b"of the guest\n"
