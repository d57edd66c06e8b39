# SPDX-License-Identifier: Apache-2.0
"""
test_mount - images as folders: each file system, each form, judged from outside.

Mounts are made in a mount namespace of their own where the test needs no more
than a script; what obd mounts itself is undone by obd.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.host import rig
from tests.host.rig import Host
from tests.tools import requires

pytestmark = requires(
    *("nbdkit", "nbdkit-python", "qemu-storage-daemon", "fuse", "loop", "root"),
    *("mount", "mke2fs"),
)

soak = pytest.mark.soak

KINDS = [
    "ext4",
    pytest.param("xfs", marks=requires("mkfs.xfs", "xfs_repair")),
    pytest.param("btrfs", marks=[requires("mkfs.btrfs", "btrfs"), soak]),
    pytest.param("ntfs", marks=requires("mkntfs", "ntfs-3g")),
]
FORMS = ["append", pytest.param("sparse", marks=soak)]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_stays_in_the_upper(
    host: Host, images: Path, target: Path, kind: str, form: str
) -> None:
    image, own = rig.layer(images, kind), host.folder / "own"
    host.obd("mount", "--upper", own, "--form", form, image, target)
    (target / "folder").mkdir()
    (target / "folder" / "file").write_bytes(os.urandom(300_000))
    wrote = (target / "folder" / "file").read_bytes()
    host.obd("umount", target)
    assert host.ps() == []
    assert not os.path.ismount(target)
    assert rig.is_sound(own / "config.v1.json", kind, host.folder)
    host.obd("mount", own, target)
    assert (target / "folder" / "file").read_bytes() == wrote
    with pytest.raises(OSError, match="Read-only"):
        (target / "more").touch()
    host.obd("umount", target)


def test_committed_layers_mount_as_the_upper_did(
    host: Host, images: Path, target: Path
) -> None:
    own = host.folder / "own"
    host.obd("mount", "--upper", own, rig.layer(images, "ext4"), target)
    (target / "file").write_text("of this test")
    host.obd("umount", target)
    host.obd("commit", "--config", host.folder / "c.json", own, host.folder / "c.obd")
    host.obd("mount", host.folder / "c.json", target)
    assert (target / "file").read_text() == "of this test"


@pytest.mark.parametrize("kept", [False, True])
def test_an_overlay_takes_the_writes(
    host: Host, images: Path, target: Path, tmp_path: Path, kept: bool
) -> None:
    folder = tmp_path / "overlay"
    words = ["--overlay-folder", folder] if kept else ["--overlay"]
    image = rig.layer(images, "ext4")
    host.obd("mount", *words, image, target)
    (target / "file").write_text("of this test")
    host.obd("umount", target)
    host.obd("mount", *words, image, target)
    assert (target / "file").exists() == kept
    host.obd("umount", target)
    assert list(target.iterdir()) == []


def test_unmounting_twice_is_fine(host: Host, images: Path, target: Path) -> None:
    host.obd("mount", rig.layer(images, "ext4"), target)
    host.obd("umount", target)
    assert "nothing of obd's" in host.obd("umount", target).err


def test_unmounting_leaves_a_device_that_was_there(
    host: Host, images: Path, target: Path
) -> None:
    image = rig.layer(images, "ext4")
    host.attach("--name", "one", image)
    host.obd("mount", "--name", "one", image, target)
    assert "is mounted at" in host.obd("detach", "one", code=2).err
    host.obd("umount", target)
    assert host.ps()[0]["state"] == "up"


def test_what_is_in_use_stays_mounted(host: Host, images: Path, target: Path) -> None:
    host.obd("mount", rig.layer(images, "ext4"), target)
    with subprocess.Popen(["sleep", "100"], cwd=target) as user:
        assert "something uses it" in host.obd("umount", target, code=2).err
        assert os.path.ismount(target)
        user.kill()
    host.obd("umount", target)


def test_somebody_else_has_unmounted_it(host: Host, images: Path, target: Path) -> None:
    host.obd("mount", rig.layer(images, "ext4"), target)
    subprocess.run(["umount", target], check=True)
    host.obd("umount", target)
    assert host.ps() == []


def test_without_a_file_system_nothing_is_left(host: Host, target: Path) -> None:
    raw = host.folder / "raw"
    raw.write_bytes(bytes(1 << 20))
    host.obd("convert", raw, host.folder / "empty.obd")
    ran = host.obd("mount", host.folder / "empty.obd", target, code=1)
    assert "no file system that is known" in ran.err
    assert host.ps() == []


def test_two_mounts_of_one_xfs(host: Host, images: Path, target: Path) -> None:
    image = rig.layer(images, "xfs")
    other = host.folder / "other"
    other.mkdir()
    for place in (target, other):
        host.obd("mount", "--upper", place.with_suffix(".own"), image, place)
    (target / "one").touch()
    assert not (other / "one").exists()


# -- Without root

SCRIPT = """
cd "$1"
run() { "$PYTHON" -c 'from obdengine.cli.main import main; main()' "$@"; }
run mount --upper own image.obd there
echo "of this test" >there/file
run umount there
run mount own there
cat there/file
run umount there
run ps
"""


@requires("fuse2fs", "unshare", "setpriv", "fusermount3")
@pytest.mark.parametrize("namespace", [[], rig.ROOT_OF_HIS_OWN], ids=["plain", "user"])
def test_nobody_mounts_ext4(images: Path, namespace: list[str]) -> None:
    with rig.home_of_nobody(rig.layer(images, "ext4")) as (place, words, own):
        done = subprocess.run(
            [*words, *namespace, "sh", "-euc", SCRIPT, "sh", str(place)],
            env=own,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == "of this test"
