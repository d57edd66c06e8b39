# SPDX-License-Identifier: Apache-2.0
"""test_apply - one layer, or a few, and what is on the disk then."""

from __future__ import annotations

import errno
import io
import random
import re
import stat
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.config import Image
from obdengine.errors import LimitError, ReadOnly
from obdengine.ops.create import create
from obdengine.ops.image import open_image
from obdengine.units import GIB, KIB, MIB, parse_size
from tests.ext4 import disks, tars
from tests.ext4.disks import applied, one, refused
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")


# -- Files of every kind


def test_attributes_are_kept() -> None:
    found = one(
        tars.file("f", b"x", mode=0o6711, uid=70_000, gid=4_294_967_294),
        tars.folder("d", mode=0o1777, uid=1, gid=2),
        tars.member("p", b"6", mode=0o600),
        tars.member("c", b"3", devmajor=1, devminor=3),
        tars.member("b", b"4", devmajor=4095, devminor=1_048_575),
        tars.member("b2", b"4", devmajor=8, devminor=256),
    )
    file = found[b"f"]
    assert file.mode == stat.S_IFREG | 0o6711
    assert (file.uid, file.gid, file.links, file.size) == (70_000, 4_294_967_294, 1, 1)
    assert found[b"d"].mode == stat.S_IFDIR | 0o1777
    assert found[b"p"].mode == stat.S_IFIFO | 0o600
    assert (found[b"c"].mode, found[b"c"].rdev) == (stat.S_IFCHR | 0o644, (1, 3))
    assert (found[b"b"].mode, found[b"b"].rdev) == (
        stat.S_IFBLK | 0o644,
        (4095, 1_048_575),
    )
    assert found[b"b2"].rdev == (8, 256)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1600000000.123456789", 1_600_000_000_123_456_789),
        ("1600000000.1234567891", 1_600_000_000_123_456_789),
        ("-1.5", -1_500_000_000),
        ("-0.0000000001", -1),
        ("-2147483648", -(2**31) * 10**9),
        ("2147483648", 2**31 * 10**9),
        ("4294967296.5", (2**32 * 10 + 5) * 10**8),
        ("15032385535", 15_032_385_535 * 10**9),
        ("99999999999", 15_032_385_535 * 10**9),
        ("-99999999999", -(2**31) * 10**9),
    ],
)
def test_times_have_their_nanoseconds(text: str, nanoseconds: int) -> None:
    found = one(tars.file("f", pax_headers={"mtime": text, "atime": "7.25"}))
    assert found[b"f"].mtime == nanoseconds
    assert found[b"f"].atime == 7_250_000_000


@pytest.mark.parametrize("length", [1, 59, 60, 61, 4094, 4095])
def test_links_of_any_length(length: int) -> None:
    target = "/".join(["x" * 99] * 41)[:length]
    assert one(tars.symlink("s", target))[b"s"].target.decode() == target


@pytest.mark.parametrize("target", ["", "x" * 4096])
def test_links_that_cannot_be(target: str) -> None:
    member = tars.records(linkpath=target.encode()) + tars.header(b"s", 0, b"2")
    if not target:
        member = tars.header(b"s", 0, b"2")
    assert "top.tar: s: " in str(refused(member))


@pytest.mark.parametrize("numbers", [(4096, 0), (0, 1 << 20)])
def test_devices_that_cannot_be(numbers: tuple[int, int]) -> None:
    member = tars.member("c", b"3", devmajor=numbers[0], devminor=numbers[1])
    error = refused(tars.tar(member, format=1))
    assert f"there is no device {numbers[0]}:{numbers[1]}" in str(error)


def test_names_are_bytes() -> None:
    name = b"\xe9t\xe9/\xff\xfe\n\t"
    with disks.made() as device:
        disks.apply(device, tars.header(name, 1) + tars.padded(b"x") + tars.END)
        assert disks.tree(device).keys() == {b"", b"\xe9t\xe9", name}
        assert disks.read(device, name) == b"x"


def test_long_names() -> None:
    longest = "n" * 255
    path = "/".join([longest] * 5)
    for form in (tars.tarfile.PAX_FORMAT, tars.tarfile.GNU_FORMAT):
        layer = tars.tar(
            tars.file(path, b"x"),
            tars.link("l", path),
            tars.symlink("s", path),
            format=form,
        )
        found = applied(layer)
        assert found[path.encode()].links == 2
        assert found[b"s"].target.decode() == path
    assert "a name of 256 bytes" in str(refused(tars.tar(tars.file("n" * 256))))
    assert "a name of 256 bytes" in str(refused(tars.tar(tars.file("n" * 256 + "/x"))))


# -- Content


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, MIB, 3 * MIB + 1])
def test_content(size: int) -> None:
    data = content(size)
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("f", data), tars.file("g", b"y")))
        assert disks.read(device, "f") == data
        assert disks.read(device, "g") == b"y"


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
@pytest.mark.parametrize("features", [(), ("^extent", "^64bit"), ("^metadata_csum",)])
def test_content_on_other_file_systems(
    block_size: int, features: tuple[str, ...]
) -> None:
    options = ext4.MakeOptions(block_size=block_size, features=features)
    data = content(2 * MIB + 3)
    layers = [
        tars.tar(
            tars.file("d/f", data),
            tars.symlink("s", "x" * 200),
            *[tars.file(f"many/{i:040}", b"y") for i in range(300)],
        ),
        tars.tar(tars.white("d/f"), tars.file("g", data, xattrs={"user.k": b"v" * 99})),
    ]
    with disks.made(options) as device:
        disks.apply(device, *layers)
        assert disks.read(device, "g") == data
        assert len(disks.tree(device)) == 305


def test_zeros_become_holes() -> None:
    page = 4 * KIB
    data = bytes(3 * page) + b"x" * page + bytes(100 * page) + b"y" + bytes(5)
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("f", data), tars.file("z", bytes(MIB))))
        found = disks.tree(device)
        assert found[b"f"].blocks == 2 * page // 512
        assert found[b"z"].blocks == 0
        assert found[b"z"].size == MIB
        assert disks.read(device, "f") == data
        with ext4.open_file_system(device) as fs:
            runs = fs.file_extents("f")
            assert [(r.offset, r.length) for r in runs] == [
                (3 * page, page),
                (104 * page, page),
            ]
            assert device.pread(runs[0].device_offset, page) == b"x" * page


def test_files_lie_in_one_piece() -> None:
    members = [tars.file(f"f{i}", content(40_000 + i, i)) for i in range(50)]
    with disks.made() as device:
        disks.apply(device, tars.tar(*members))
        with ext4.open_file_system(device) as fs:
            assert all(len(fs.file_extents(f"f{i}")) == 1 for i in range(50))


def test_many_extents() -> None:
    """More pieces than an inode has room for, and than one block has."""
    page = 4 * KIB
    data = b"".join(bytes([i % 255 + 1]) * page + bytes(page) for i in range(2000))
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("f", data)))
        assert disks.read(device, "f") == data
        disks.apply(device, tars.tar(tars.white("f")))
        with ext4.open_file_system(device) as fs:
            free = fs.facts.free_blocks
    with disks.made() as device, ext4.open_file_system(device) as fs:
        assert fs.facts.free_blocks == free


def test_deleted_content_is_gone_from_the_disk() -> None:
    data = content(MIB)
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("secret", data)))
        with ext4.open_file_system(device) as fs:
            (run,) = fs.file_extents("secret")
        disks.apply(device, tars.tar(tars.white("secret")))
        assert device.pread(run.device_offset, run.length) == bytes(run.length)


def test_sparse_file_of_a_terabyte() -> None:
    size = 1 << 40
    pieces = [(0, b"begin"), (size // 2 + 100, b"middle"), (size - 3, b"end")]
    numbers = "".join(f"{at}\n{len(data)}\n" for at, data in pieces)
    stored = tars.padded(b"%d\n%s" % (len(pieces), numbers.encode())) + b"".join(
        data for _, data in pieces
    )
    layer = (
        tars.raw_records(
            [
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"big"),
                (b"GNU.sparse.realsize", b"%d" % size),
            ]
        )
        + tars.header(b"GNUSparseFile.0/big", len(stored))
        + tars.padded(stored)
        + tars.END
    )
    with disks.made() as device:
        disks.apply(device, layer)
        with ext4.open_file_system(device) as fs:
            assert fs.stat("big").size == size
            for at, data in pieces:
                assert fs.read_file("big", at, len(data)) == data
            assert fs.read_file("big", 4000, 200) == bytes(200)
            with pytest.raises(LimitError, match="1 TiB are too many at once"):
                fs.read_file("big")


def test_file_that_ext4_cannot_hold() -> None:
    layer = tars.raw_records(
        [(b"GNU.sparse.size", b"%d" % (1 << 60)), (b"GNU.sparse.map", b"0,0")]
    ) + tars.header(b"f")
    assert "more than ext4 can hold" in str(refused(layer))


# -- Odd tars


def test_folders_that_no_member_is_about() -> None:
    found = one(tars.file("a/b/c", mode=0o600))
    for path in (b"a", b"a/b"):
        assert found[path].mode == stat.S_IFDIR | 0o755
        assert (found[path].uid, found[path].gid) == (0, 0)
    assert found[b"a"].links == 3


def test_later_members_win() -> None:
    with disks.made() as device:
        layer = tars.tar(
            tars.file("a", b"1", mode=0o600),
            tars.file("a", b"2", mode=0o640),
            tars.folder("d", mode=0o700),
            tars.file("d/x"),
            tars.folder("d", mode=0o750),
        )
        disks.apply(device, layer)
        found = disks.tree(device)
        assert disks.read(device, "a") == b"2"
        assert found[b"a"].mode & 0o777 == 0o640
        assert found[b"d"].mode & 0o777 == 0o750
        assert b"d/x" in found


@pytest.mark.parametrize(
    "name", ["./a/b", "/a/b", "../../a/b", "a/./b", "a//b", "x/../a/b", "a/b/../b"]
)
def test_names_of_all_forms(name: str) -> None:
    assert {b"a", b"a/b"} <= one(tars.file(name)).keys() <= {b"", b"a", b"a/b", b"x"}


def test_root_can_be_a_member() -> None:
    for name in ("./", "/", "a/.."):
        root = one(tars.folder(name, mode=0o711, uid=5))[b""]
        assert (root.mode, root.uid) == (stat.S_IFDIR | 0o711, 5)
        assert root.mtime == tars.TIME * 10**9
    assert "the root cannot be a file" in str(refused(tars.tar(tars.file("."))))


def test_links_on_the_way_stay_inside() -> None:
    lower = tars.tar(
        tars.folder("real/deep"),
        tars.symlink("abs", "/real"),
        tars.symlink("up", "../../../../real"),
        tars.symlink("rel", "real/deep"),
        tars.symlink("real/deep/back", "../.."),
        tars.symlink("new", "made/here"),
    )
    upper = tars.tar(
        tars.file("abs/1"),
        tars.file("up/2"),
        tars.file("rel/3"),
        tars.file("rel/back/4"),
        tars.file("new/5"),
        tars.file("abs/../6"),
    )
    found = applied(lower, upper)
    expected = {b"real/1", b"real/2", b"real/deep/3", b"4", b"made/here/5", b"6"}
    assert expected <= found.keys()
    assert found[b"abs"].target == b"/real"


def test_ways_that_lead_nowhere() -> None:
    loop = tars.tar(tars.symlink("l", "m"), tars.symlink("m", "l"), tars.file("l/x"))
    assert "too many symbolic links" in str(refused(loop))
    through = tars.tar(tars.file("f"), tars.file("f/x"))
    assert "not a directory" in str(refused(through))


def test_types_that_change() -> None:
    lower = tars.tar(
        tars.folder("dir-file"),
        tars.file("dir-file/x/y"),
        tars.file("file-dir"),
        tars.folder("dir-link"),
        tars.file("dir-link/z"),
        tars.symlink("link-dir", "dir-link"),
        tars.symlink("link-file", "file-dir"),
    )
    upper = tars.tar(
        tars.file("dir-file", b"x"),
        tars.folder("file-dir"),
        tars.file("file-dir/x"),
        tars.symlink("dir-link", "/"),
        tars.folder("link-dir"),
        tars.file("link-file", b"y"),
    )
    found = applied(lower, upper)
    kinds = {path: stat.S_IFMT(entry.mode) for path, entry in found.items() if path}
    assert kinds == {
        b"dir-file": stat.S_IFREG,
        b"file-dir": stat.S_IFDIR,
        b"file-dir/x": stat.S_IFREG,
        b"dir-link": stat.S_IFLNK,
        b"link-dir": stat.S_IFDIR,
        b"link-file": stat.S_IFREG,
    }


def test_folder_keeps_its_time_when_files_come() -> None:
    lower = tars.tar(tars.folder("d", mtime=1000), tars.file("d/a"))
    found = applied(lower, tars.tar(tars.file("d/b")))
    assert found[b"d"].mtime == 1000 * 10**9


# -- The whole


def test_same_tar_same_bytes() -> None:
    members = [
        tars.file(f"d{i % 7}/f{i}", content(i * 37, i), xattrs={"user.i": b"%d" % i})
        for i in range(400)
    ]
    layers = [tars.tar(*members), tars.tar(tars.white("d3"), *members[100:200])]
    digests = set()
    for _ in range(2):
        with disks.made() as device:
            disks.apply(device, *layers)
            digests.add(disks.digest(device))
    assert len(digests) == 1


def test_layer_that_changes_little_is_little() -> None:
    members = [tars.file(f"d/{i:05}", content(500, i)) for i in range(3000)]
    with disks.made() as device:
        disks.apply(device, tars.tar(*members))
        before = list(device.extents())
        stored = Path(device.upper.name).stat().st_blocks if device.upper else 0
        disks.apply(device, tars.tar(tars.file("d/00077", b"changed")))
        assert device.upper is not None
        grown = (Path(device.upper.name).stat().st_blocks - stored) * 512
        assert 0 < grown <= 12 * 4 * KIB
        assert before


def test_data_that_stays_in_the_tar() -> None:
    data, tiny = content(MIB + 700), b"tiny"
    layer = tars.tar(tars.file("f", data), tars.file("e"), tars.file("t", tiny))
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("old", content(3 * MIB, 9))))
        (done,) = disks.apply(device, tars.tar(tars.white("old")))
        (done,) = disks.apply(device, layer, map_data=True)
        assert sum(m.length for m in done.mapped) == len(data) + len(tiny)
        for m in done.mapped:
            assert m.tar_offset % 512 == m.device_offset % 4096 == 0
            assert device.pread(m.device_offset, m.length) == bytes(m.length)
            device.pwrite(m.device_offset, layer[m.tar_offset :][: m.length])
        assert disks.read(device, "f") == data
        assert disks.read(device, "t") == tiny
        disks.check(device)


def test_sparse_data_that_cannot_stay_in_the_tar() -> None:
    pieces = [(b"GNU.sparse.size", b"9000"), (b"GNU.sparse.map", b"0,5,5000,4")]
    layer = tars.raw_records(pieces) + tars.header(b"f", 9) + tars.padded(b"begin end")
    with disks.made() as device:
        (done,) = disks.apply(device, layer, map_data=True)
        assert done.mapped == []
        assert disks.read(device, "f").strip(b"\0").split(bytes(4995)) == [
            b"begin",
            b" end",
        ]


def test_progress_is_told() -> None:
    layer = tars.tar(*[tars.file(f"f{i}", content(5000)) for i in range(20)])
    told: list[int] = []
    with disks.made() as device:
        ext4.apply_layer(device, io.BytesIO(layer), progress=told.append)
    assert len(told) == 20
    assert told == sorted(told)
    assert told[-1] <= len(layer)


def test_empty_layers() -> None:
    for layer in (b"", tars.END, tars.tar(), bytes(20 * KIB)):
        assert applied(layer).keys() == {b""}


def test_disk_that_is_full_of_data() -> None:
    layer = tars.tar(*[tars.file(f"f{i}", content(MIB, i)) for i in range(100)])
    with disks.made() as device, pytest.raises(LimitError) as caught:
        ext4.apply_layer(device, io.BytesIO(layer))
    assert caught.value.errno == errno.ENOSPC
    assert "every block is taken" in str(caught.value)
    found = re.search(r"a disk of (.*) would do", str(caught.value))
    assert found
    with disks.made(size=parse_size(found[1])) as device:
        disks.apply(device, layer)


def test_disk_that_is_full_of_files() -> None:
    layer = tars.tar(*[tars.file(f"f{i}") for i in range(20_000)])
    with disks.made() as device, pytest.raises(LimitError) as caught:
        ext4.apply_layer(device, io.BytesIO(layer))
    assert "every inode is taken" in str(caught.value)
    assert "a disk of " in str(caught.value)


def test_read_only_disk(tmp_path: Path) -> None:
    config = create(tmp_path / "disk", Image([]), size=GIB)
    with open_image(config) as device, pytest.raises(ReadOnly):
        ext4.apply_layer(device, io.BytesIO(b""))
