# SPDX-License-Identifier: Apache-2.0
"""
test_mounted - what the kernel and other people's tools see of our layers.

The disk is mounted through a loop device, in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.units import MIB
from tests.ext4 import disks, tars
from tests.tools import environment, requires, tool

pytestmark = requires("mke2fs", "e2fsck", "root", "loop", "mount")

# Says what a mounted tree is, as the kernel tells it.
LOOK = r"""
import json, os, sys
found = {}
root = os.fsencode(sys.argv[1])
for folder, below, files in os.walk(root):
    for name in [*below, *files, b""]:
        path = os.path.join(folder, name).rstrip(b"/")
        if name == b"" and path != root:
            continue
        s = os.lstat(path)
        link = os.path.islink(path)
        row = [s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_nlink,
               os.major(s.st_rdev), os.minor(s.st_rdev), s.st_ino,
               os.readlink(path).hex() if link else "",
               {k: os.getxattr(path, k, follow_symlinks=False).hex()
                for k in os.listxattr(path, follow_symlinks=False)}]
        if os.path.isfile(path) and not link:
            row.append(open(path, "rb").read().hex())
        found[os.path.relpath(path, root).hex()] = row
print(json.dumps(found))
"""


def mounted(image: Path, folder: Path, command: list[str], *options: str) -> str:
    """Run a command while image is mounted at folder/mnt; return what it said."""
    point = folder / "mnt"
    point.mkdir(exist_ok=True)
    words = ",".join(("loop", *options))
    script = f'mount -t ext4 -o {words} "$1" "$2" && shift 2 && "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", image, point, *command],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ACL = bytes.fromhex(
    "02000000"
    "01000600ffffffff"
    "02000400e8030000"
    "04000400ffffffff"
    "10000400ffffffff"
    "20000000ffffffff"
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def everything() -> bytes:
    many = [tars.file(f"many/{i:030}", b"%d" % i) for i in range(1500)]
    return tars.tar(
        tars.folder("d", mode=0o2775, uid=70_000, gid=80_000, mtime=-5),
        tars.file(
            "d/f",
            b"x" * 10_000,
            mode=0o4755,
            pax_headers={"mtime": "4294967297.123456789"},
            xattrs={"user.a": b"b", "security.capability": CAPABILITY},
        ),
        tars.file("acl", xattrs={"system.posix_acl_access": ACL}, mode=0o640),
        tars.folder("dacl", xattrs={"system.posix_acl_default": ACL}),
        tars.link("d/l", "d/f"),
        tars.symlink("s", "d/f"),
        tars.symlink("long", "d/" * 500 + "f"),
        tars.member("c", b"3", devmajor=300, devminor=70_000),
        tars.member("b", b"4", devmajor=8, devminor=1),
        tars.member("p", b"6"),
        tars.file("hole", bytes(100_000) + b"end"),
        *many,
    )


def test_kernel_sees_what_we_see(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    gone = [tars.white(f"many/{i:030}") for i in range(0, 1500, 2)]
    with disks.made() as device:
        disks.apply(device, everything(), tars.tar(*gone))
        disks.flatten(device, image)
        ours = disks.tree(device)
    look = mounted(
        image, tmp_path, [sys.executable, "-c", LOOK, str(tmp_path / "mnt")], "ro"
    )
    theirs = {bytes.fromhex(k): row for k, row in json.loads(look).items()}
    theirs[b""] = theirs.pop(b".")
    del theirs[b"lost+found"]
    assert theirs.keys() == ours.keys()
    for path, e in ours.items():
        xattrs = {k.decode(): v.hex() for k, v in e.xattrs.items()}
        row = [e.mode, e.uid, e.gid, e.size, e.mtime, e.links, *e.rdev, e.inode]
        assert theirs[path][:11] == [*row, e.target.hex(), xattrs], path
    with disks.made() as device:
        disks.apply(device, everything(), tars.tar(*gone))
        for path in (b"d/f", b"hole", b"many/" + b"%030d" % 7):
            assert bytes.fromhex(theirs[path][11]) == disks.read(device, path)


@requires("getfacl", "getcap")
def test_tools_understand_the_attributes(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with disks.made() as device:
        disks.apply(device, everything())
        disks.flatten(device, image)
    script = 'cd "$1" && getfacl -cn acl && getfacl -cnd dacl && getcap d/f'
    said = mounted(image, tmp_path, ["sh", "-c", script, "sh", str(tmp_path / "mnt")])
    assert said.split("\n\n") == [
        "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---",
        "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---",
        "d/f cap_net_bind_service=ep\n",
    ]


@pytest.mark.parametrize("journal", [False, True])
def test_kernel_goes_on_writing(journal: bool, tmp_path: Path) -> None:
    """New files in directories that we made, with and without an index."""
    image = tmp_path / "disk"
    script = (
        'cd "$1" && for i in $(seq 800); do echo $i >many/k$i; done && rm many/000* '
        "&& mkdir d/new && cp d/f d/new && sync"
    )
    with disks.made(ext4.MakeOptions(journal=journal)) as device:
        disks.apply(device, everything())
        disks.flatten(device, image)
        mounted(image, tmp_path, ["sh", "-c", script, "sh", str(tmp_path / "mnt")])
        for at in range(0, device.size, MIB):
            with image.open("rb") as opened:
                device.pwrite(at, os.pread(opened.fileno(), MIB, at))
        disks.check(device)
        # And ours on top of the kernel's.
        layer = tars.tar(
            tars.white("many/k5"), *[tars.file(f"many/o{i}") for i in range(500)]
        )
        disks.apply(device, layer)
        found = disks.tree(device)
        assert sum(p.startswith(b"many/k") for p in found) == 799
        assert sum(p.startswith(b"many/o") for p in found) == 500


@requires("tar")
def test_tree_of_this_machine(tmp_path: Path) -> None:
    """Thousands of real files, compared by tar itself."""
    archive = tmp_path / "root.tar"
    places = [p for p in ("usr/include", "usr/share/doc") if Path("/", p).is_dir()]
    command = [tool("tar"), "--xattrs", "--one-file-system", "-cf", archive, "-C", "/"]
    done = subprocess.run([*command, *places], capture_output=True, env=environment())
    assert done.returncode in (0, 1), done.stderr
    image = tmp_path / "disk"
    # Small files take a block each.
    size = (3 * archive.stat().st_size // MIB + 64) * MIB
    with disks.made(size=size) as device:
        with archive.open("rb") as stream:
            assert ext4.apply_layer(device, stream).members > 1000
        disks.check(device)
        disks.flatten(device, image)
    compare = [
        tool("tar"),
        "--xattrs",
        "-df",
        str(archive),
        "-C",
        str(tmp_path / "mnt"),
    ]
    assert mounted(image, tmp_path, compare, "ro") == ""
