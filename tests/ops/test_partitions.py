# SPDX-License-Identifier: Apache-2.0
"""test_partitions - partition tables as sfdisk makes them, and damaged ones."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from obdengine.errors import FormatError, ObdError, UsageError
from obdengine.ops.disks import RawDisk
from obdengine.ops.partitions import Partition, partition, partitions
from obdengine.ops.root_partition import root_partition
from tests.tools import requires, tool

MIB = 1 << 20
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_ARM64 = "b921b045-1df0-41c3-af44-4c6f280d3fae"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

MBR = """label: dos
size=2M, type=83, bootable
size=3M, type=82
size=20M, type=5
size=1M, type=7
size=2M, type=83
size=4M, type=83
size=1M, type=fd
"""
GPT = f"""label: gpt
size=2M, type={ESP}, name="EFI System"
start=8M, size=3M, type={LINUX}, name="Grüße"
size=5M, type={ROOT}
"""


def table(path: Path, script: str, size: int = 64 * MIB) -> Path:
    """Make a disk with the partitions that a script of sfdisk describes."""
    with path.open("wb") as file:
        file.truncate(size)
    command = [tool("sfdisk"), "-q", str(path)]
    subprocess.run(command, input=script, text=True, check=True, capture_output=True)
    return path


def by_sfdisk(path: Path) -> list[tuple[int, int, int]]:
    """Return (number, offset, size) of each partition as sfdisk has them."""
    command = [tool("sfdisk"), "--json", str(path)]
    done = subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(done.stdout)["partitiontable"]["partitions"]
    name = str(path)
    return [
        (int(row["node"][len(name) :]), row["start"] * 512, row["size"] * 512)
        for row in rows
        if row.get("type") not in ("5", "f", "85")
    ]


def ours(path: Path) -> list[Partition]:
    with RawDisk(path) as disk:
        return partitions(disk)


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, offset)


@requires("sfdisk")
@pytest.mark.parametrize("script", [MBR, GPT], ids=["mbr", "gpt"])
def test_as_sfdisk(tmp_path: Path, script: str) -> None:
    path = table(tmp_path / "disk", script)
    found = ours(path)
    assert [one[:3] for one in found] == by_sfdisk(path)
    assert len(found) == len(script.splitlines()) - (2 if script is MBR else 1)


@requires("sfdisk")
def test_types_and_names(tmp_path: Path) -> None:
    found = ours(table(tmp_path / "disk", GPT))
    assert [(one.kind, one.name) for one in found] == [
        (ESP, "EFI System"),
        (LINUX, "Grüße"),
        (ROOT, ""),
    ]
    kinds = [one.kind for one in ours(table(tmp_path / "disk", MBR))]
    assert kinds == ["0x83", "0x82", "0x07", "0x83", "0x83", "0xfd"]


@requires("sfdisk")
def test_by_number(tmp_path: Path) -> None:
    with RawDisk(table(tmp_path / "disk", MBR)) as disk:
        assert partition(disk, 6).size == 4 * MIB
        with pytest.raises(UsageError, match="no partition 3") as caught:
            partition(disk, 3)
    assert "4 (1 MiB, type 0x07)" in str(caught.value)


@requires("sfdisk")
def test_random_tables(tmp_path: Path) -> None:
    for seed in range(12):
        chance = Random(seed)
        lines = ["label: dos"] if seed % 2 else ["label: gpt"]
        if seed % 2:
            lines += ["size=1M", f"size={40 + seed}M, type=5"]
        count = chance.randint(1, 12)
        lines += [f"size={chance.randint(1, 6) * 512}K" for _ in range(count)]
        if seed % 2:
            lines[3:3] = ["size=1M", "size=1M"]
        path = table(tmp_path / "disk", "\n".join(lines), 128 * MIB)
        assert [one[:3] for one in ours(path)] == by_sfdisk(path), lines


# -- Damage


@requires("sfdisk")
def test_gpt_by_its_copy(tmp_path: Path) -> None:
    path = table(tmp_path / "disk", GPT)
    known = ours(path)
    for offset in (512 + 8, 512 + 40, 1024 + 40, 1024 + 16):
        before = path.read_bytes()[offset : offset + 1]
        change(path, offset, bytes([before[0] ^ 1]))
        assert ours(path) == known
    change(path, 512, bytes(512))
    assert ours(path) == known


@requires("sfdisk")
@pytest.mark.parametrize(
    ("offset", "what"), [(16, "crc of the GPT header"), (88, "crc of the GPT header")]
)
def test_gpt_damaged_twice(tmp_path: Path, offset: int, what: str) -> None:
    path = table(tmp_path / "disk", GPT)
    for place in (512, 64 * MIB - 512):
        change(path, place + offset, b"\xee")
    with pytest.raises(FormatError, match=what) as caught:
        ours(path)
    assert caught.value.offset == 512


@requires("sfdisk")
def test_gpt_whose_entries_are_damaged_twice(tmp_path: Path) -> None:
    path = table(tmp_path / "disk", GPT)
    for place in (1024, 64 * MIB - 33 * 512):
        change(path, place + 33, b"\xee")
    with pytest.raises(FormatError, match="entries of the GPT"):
        ours(path)


@requires("sfdisk")
def test_gpt_on_a_disk_that_was_cut(tmp_path: Path) -> None:
    path = table(tmp_path / "disk", GPT)
    os.truncate(path, 12 * MIB)
    with pytest.raises(FormatError, match="partition 3 is not where"):
        ours(path)


def mbr(*entries: tuple[int, int, int, int]) -> bytes:
    """Return a sector with entries (status, type, start, length)."""
    rows = [struct.pack("<B3xB3xII", *entry) for entry in entries]
    return bytes(446) + b"".join(rows).ljust(64, b"\0") + b"\x55\xaa"


# What is on a disk of 1 MiB, by sector, and what is said of it.
BAD: dict[str, tuple[dict[int, bytes], str]] = {
    "nothing": ({}, "no partition table"),
    "no mark": ({0: mbr((0, 0x83, 8, 8))[:510]}, "expected 55aa, found 0000"),
    "a boot sector": ({0: mbr((0x65, 0x83, 8, 8))}, "entry 1 makes no sense"),
    "past the end": ({0: mbr((0, 0x83, 8, 2048))}, "partition 1 is not on the disk"),
    "at the table": ({0: mbr((0, 0x83, 0, 8))}, "partition 1 is not on the disk"),
    "no gpt": ({0: mbr((0, 0xEE, 1, 2047))}, "no GPT"),
    "extended past the end": ({0: mbr((0, 5, 8, 4096))}, "not on the disk"),
    "no list": ({0: mbr((0, 5, 8, 100))}, "no partition table"),
    "list in a circle": (
        {0: mbr((0, 5, 8, 100)), 8: mbr((0, 0x83, 1, 1), (0, 5, 0, 9))},
        "no end",
    ),
    "empty list in a circle": (
        {0: mbr((0, 5, 8, 100)), 8: mbr((0, 5, 0, 9))},
        "no end",
    ),
    "list that goes back": (
        {
            0: mbr((0, 5, 8, 100)),
            8: mbr((0, 0x83, 1, 1), (0, 5, 20, 9)),
            28: mbr((0, 0x83, 1, 1), (0, 5, 10, 9)),
            18: mbr((0, 0x83, 1, 1), (0, 5, 20, 9)),
        },
        "no end",
    ),
    "logical one past the end": (
        {0: mbr((0, 5, 8, 100)), 8: mbr((0, 0x83, 1, 9999))},
        "partition 5 is not on the disk",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_tables_that_make_no_sense(tmp_path: Path, name: str) -> None:
    sectors, what = BAD[name]
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    for sector, raw in sectors.items():
        change(path, sector * 512, raw)
    with pytest.raises(FormatError, match=what):
        ours(path)


@requires("sfdisk")
@pytest.mark.parametrize("script", [MBR, GPT], ids=["mbr", "gpt"])
def test_any_damage(tmp_path: Path, script: str) -> None:
    """Partitions that are found are on the disk, whatever the table says."""
    path = table(tmp_path / "disk", script)
    good = path.read_bytes()
    places = [446, 6 * MIB + 446] if script is MBR else [446, 512, 1024]
    for seed in range(150):
        chance = Random(seed)
        for place in places:
            change(path, place, good[place : place + 64])
        for _ in range(chance.randint(1, 6)):
            offset = chance.choice(places) + chance.randrange(64)
            change(path, offset, chance.randbytes(1))
        try:
            found = ours(path)
        except ObdError:
            continue
        for one in found:
            assert 0 < one.offset < one.offset + one.size <= len(good)


# -- The root


def ext4(folder: Path, names: list[str], size: int, *options: str) -> bytes:
    """Return an ext4 file system with some folders in it."""
    tree = folder / f"tree{len(list(folder.iterdir()))}"
    for name in names:
        (tree / name).mkdir(parents=True)
    path = tree.with_suffix(".ext4")
    command = [tool("mke2fs"), "-q", "-t", "ext4", *options, "-d", str(tree)]
    tree.mkdir(exist_ok=True)
    subprocess.run([*command, str(path), f"{size >> 10}k"], check=True)
    return path.read_bytes()


Content = Callable[[Path], bytes]
_ROOT_NAMES = ["etc", "usr", "var", *(f"folder{n}" for n in range(40))]


def root(size: int, *options: str) -> Content:
    return lambda folder: ext4(folder, _ROOT_NAMES, size, *options)


def data(size: int) -> Content:
    return lambda folder: ext4(folder, ["etc", "home"], size)


def xfs(_: Path) -> bytes:
    return b"XFSB".ljust(8192, b"\0")


def btrfs(_: Path) -> bytes:
    return (bytes(65600) + b"_BHRfS_M").ljust(70000, b"\0")


def disk_of(
    path: Path, rows: list[tuple[str, int, Content | None]], label: str
) -> Path:
    """Make a disk with partitions (type, MiB, content)."""
    lines = [f"size={size}M, type={kind}" for kind, size, _ in rows]
    table(path, "\n".join([f"label: {label}", *lines]))
    folder = path.with_name("contents")
    folder.mkdir(exist_ok=True)
    for (_, _, content), one in zip(rows, ours(path), strict=True):
        if content:
            change(path, one.offset, content(folder))
    return path


# Partitions, and the number of the one with the root; or what is said.
ROOTS: dict[str, tuple[str, list[Any], int | str]] = {
    "marked": ("gpt", [(LINUX, 8, root(8 * MIB)), (ROOT, 2, None)], 2),
    "marked for arm": ("gpt", [(ESP, 2, None), (ROOT_ARM64, 2, None)], 2),
    "marked twice": ("gpt", [(ROOT, 2, None), (ROOT, 2, None)], "several are marked"),
    "largest root": (
        "dos",
        [("83", 4, root(4 * MIB)), ("83", 8, root(8 * MIB)), ("83", 16, data(8 * MIB))],
        2,
    ),
    "1 KiB blocks, no extents": (
        "dos",
        [
            ("82", 9, None),
            ("83", 8, root(8 * MIB, "-b", "1024", "-O", "^extent,^64bit")),
        ],
        2,
    ),
    "64bit, 4 KiB blocks": (
        "gpt",
        [(ESP, 2, None), (LINUX, 8, root(8 * MIB, "-b", "4096", "-O", "64bit"))],
        2,
    ),
    "ext2": ("dos", [("83", 8, root(8 * MIB, "-O", "^extent,^64bit,^has_journal"))], 1),
    "two of one size": (
        "dos",
        [("83", 4, root(4 * MIB)), ("83", 4, root(4 * MIB))],
        "several of one size",
    ),
    "xfs": ("dos", [("83", 4, data(4 * MIB)), ("83", 4, xfs)], 2),
    "btrfs": ("gpt", [(ESP, 2, None), (LINUX, 4, btrfs)], 2),
    "xfs and btrfs": ("dos", [("83", 4, xfs), ("83", 4, btrfs)], "several may have"),
    "none": ("dos", [("83", 4, data(4 * MIB)), ("82", 4, None)], "no partition with"),
}


@requires("sfdisk", "mke2fs")
@pytest.mark.parametrize("name", ROOTS)
def test_root(tmp_path: Path, name: str) -> None:
    label, rows, expected = ROOTS[name]
    with RawDisk(disk_of(tmp_path / "disk", rows, label)) as disk:
        if isinstance(expected, int):
            assert root_partition(disk).number == expected
            return
        with pytest.raises(UsageError, match=expected):
            root_partition(disk)


@requires("sfdisk", "mke2fs")
def test_root_in_a_damaged_file_system(tmp_path: Path) -> None:
    """It may be found or not; nothing else may happen."""
    path = disk_of(tmp_path / "disk", [("83", 8, root(8 * MIB))], "dos")
    (one,) = ours(path)
    good = path.read_bytes()[one.offset : one.offset + 8192]
    for seed in range(150):
        chance = Random(seed)
        change(path, one.offset, good)
        for place, size in ((1024, 1024), (4096, 64), (2048, 64)):
            offset = one.offset + place + chance.randrange(size)
            change(path, offset, chance.randbytes(2))
        with RawDisk(path) as disk:
            try:
                assert root_partition(disk) == one
            except UsageError:
                continue
