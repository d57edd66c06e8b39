# SPDX-License-Identifier: Apache-2.0
"""test_filesystem - looking at an ext4 by paths, sound or not."""

from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.device import Device
from obdengine.errors import (
    BadFileSystem,
    ObdError,
    SourceMissing,
    UsageError,
)
from tests.ext4 import disks, tars
from tests.tools import environment, requires, tool

pytestmark = requires("mke2fs", "e2fsck")

LAYER = tars.tar(
    tars.folder("etc", mode=0o700),
    tars.file("etc/passwd", b"root:x:0:0\n" * 1000, xattrs={"user.a": b"b"}),
    tars.symlink("etc/link", "passwd"),
    tars.symlink("abs", "/etc/../etc/link"),
    tars.symlink("folder", "etc"),
    tars.symlink("loop", "loop"),
    tars.symlink("out", "../../../etc/passwd"),
    tars.file("hole", bytes(100_000) + b"x"),
    tars.member("fifo", b"6"),
)


def test_paths() -> None:
    with disks.made() as device:
        disks.apply(device, LAYER)
        with ext4.open_file_system(device) as fs:
            for path in (
                "etc/passwd",
                b"/etc/passwd",
                "./etc//passwd",
                "etc/link",
                "abs",
                "folder/link",
                "out",
                "etc/../../etc/passwd",
            ):
                assert fs.stat(path).size == 11_000, path
            assert fs.stat("abs", follow=False).target == b"/etc/../etc/link"
            assert fs.stat("/").inode == 2
            assert fs.list("folder") == [b"link", b"passwd"]
            assert fs.exists("abs")
            assert not fs.exists("abs/x")
            for path in ("none", "etc/none", "etc/passwd/x", "loop", "loop/x"):
                with pytest.raises(SourceMissing):
                    fs.stat(path)
            for path in ("etc", "fifo"):
                with pytest.raises(UsageError, match="is not a file"):
                    fs.read_file(path)
                with pytest.raises(UsageError, match="is not a file"):
                    fs.file_extents(path)
            with pytest.raises(UsageError, match="no directory"):
                fs.list("abs")


def test_walk() -> None:
    with disks.made() as device:
        disks.apply(device, LAYER)
        with ext4.open_file_system(device) as fs:
            paths = [e.path for e in fs.walk()]
            assert paths == sorted(paths)
            assert paths[0] == b""
            assert [e.path for e in fs.walk("etc")] == [
                b"etc",
                b"etc/link",
                b"etc/passwd",
            ]
            assert [e.path for e in fs.walk("/etc/passwd")] == [b"etc/passwd"]


def test_parts_of_files() -> None:
    data = b"root:x:0:0\n" * 1000
    with disks.made() as device:
        disks.apply(device, LAYER)
        with ext4.open_file_system(device) as fs:
            assert fs.read_file("etc/passwd", 5, 10) == data[5:15]
            assert fs.read_file("etc/passwd", 10_990, 100) == data[10_990:]
            assert fs.read_file("etc/passwd", 20_000) == b""
            assert fs.read_file("hole", 99_990) == bytes(10) + b"x"


def test_inline_data(tmp_path: Path) -> None:
    """What mke2fs -d puts inside inodes can be read."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "small").write_bytes(b"tiny")
    (root / "d" / "x").write_bytes(b"y" * 100)
    with disks.blank() as device:
        by_mke2fs(device, tmp_path, "-O", "inline_data", "-d", str(root))
        with ext4.open_file_system(device) as fs:
            assert fs.read_file("small") == b"tiny"
            assert fs.read_file("d/x", 90) == b"y" * 10
            assert fs.file_extents("small") == []
            assert fs.list("d") == [b"x"]


def by_mke2fs(device: Device, folder: Path, *options: str) -> None:
    image = folder / "made"
    with image.open("wb") as out:
        out.truncate(device.size)
    kind = () if "-t" in options else ("-t", "ext4")
    subprocess.run(
        [tool("mke2fs"), "-q", "-F", *kind, "-b", "4096", *options, image],
        check=True,
        env=environment(),
    )
    device.pwrite(0, image.read_bytes())


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-t", "ext2"),
        ("-t", "ext3"),
        ("-O", "^filetype"),
        ("-O", "^64bit,^metadata_csum,uninit_bg"),
        ("-O", "metadata_csum_seed"),
        ("-O", "meta_bg,^resize_inode"),
        ("-O", "sparse_super2"),
        ("-I", "128"),
        ("-O", "^ext_attr"),
        ("-E", "lazy_itable_init=1"),
        ("-N", "64"),
    ],
    ids=" ".join,
)
def test_layers_on_file_systems_of_others(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "f").write_bytes(b"theirs" * 3000)
    (root / "d" / "g").hardlink_to(root / "f")
    (root / "s").symlink_to("t" * 100)
    many = root / "many"
    many.mkdir()
    if "-N" not in options:
        for i in range(300):
            (many / f"{i:030}").touch()
    with disks.blank() as device:
        by_mke2fs(device, tmp_path, "-d", str(root), *options)
        upper = tars.tar(
            tars.file("d/new", b"ours"),
            tars.link("h", "f"),
            tars.white("s"),
            tars.file("many/" + "0" * 30, b"again"),
            *[tars.link(f"many/more{i:040}", "f") for i in range(200)],
        )
        disks.apply(device, upper, tars.tar(tars.white("many")))
        found = disks.tree(device)
        assert found.keys() == {b"", b"d", b"d/e", b"d/g", b"d/new", b"f", b"h"}
        assert found[b"h"].links == 3
        assert disks.read(device, "h") == b"theirs" * 3000


def test_damage_never_crashes() -> None:
    """Random bytes in the metadata: an answer or a typed error, nothing else."""
    chance = random.Random(1)
    members = [tars.file(f"d/{i:050}", b"x" * 5000) for i in range(200)]
    layer = tars.tar(*members, tars.file("big", b"y" * 300_000))
    errors = 0
    for features in ((), ("^metadata_csum",)):
        with disks.made(ext4.MakeOptions(features=features)) as device:
            disks.apply(device, LAYER, layer)
            used = [e for e in device.extents() if not e.zero and e.offset < 40 << 20]
            for _ in range(60):
                extent = chance.choice(used)
                place = extent.offset + chance.randrange(extent.length)
                if chance.random() < 0.4:
                    place = 1024 + chance.randrange(1024)
                kept = device.pread(place, 4)
                device.pwrite(place, chance.randbytes(chance.randrange(1, 5)))
                errors += looked_at(device)
                device.pwrite(place, kept)
    assert errors


def looked_at(device: Device) -> int:
    try:
        with ext4.open_file_system(device) as fs:
            for entry in fs.walk():
                if entry.mode >> 12 == 8 and entry.size < 1 << 20:
                    fs.read_file(entry.path)
        ext4.apply_layer(device, io.BytesIO(LAYER))
    except ObdError:
        return 1
    return 0


def test_directory_inside_itself() -> None:
    with disks.made(ext4.MakeOptions(features=("^metadata_csum",))) as device:
        disks.apply(device, tars.tar(tars.folder("a"), tars.folder("a/b")))
        with ext4.open_file_system(device) as fs:
            above = fs.stat("a").inode
            below = fs.stat("a/b").inode
            run = next(iter(ext4_runs(fs, above)))
        block = bytearray(device.pread(run, 4096))
        at = block.index(below.to_bytes(4, "little"))
        block[at : at + 4] = above.to_bytes(4, "little")
        device.pwrite(run, bytes(block))
        with (
            ext4.open_file_system(device) as fs,
            pytest.raises(BadFileSystem, match="in two places"),
        ):
            list(fs.walk())


def ext4_runs(fs: ext4.FileSystem, ino: int) -> list[int]:
    return [run.device_offset for run in fs._volume.runs(ino)]
