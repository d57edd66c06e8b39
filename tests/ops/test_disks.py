# SPDX-License-Identifier: Apache-2.0
"""test_disks - raw disks as they come, and what is not one."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from obdengine.errors import SourceMissing, Unsupported
from obdengine.ops.disks import RawDisk, looks_like_image
from tests.ops import images
from tests.tools import requires
from tests.twins import writer

MIB = 1 << 20


def content(disk: RawDisk) -> bytes:
    buffer = bytearray(disk.size + 512)
    disk.pread_into(0, memoryview(buffer))
    assert not any(buffer[disk.size :])
    return bytes(buffer[: disk.size])


def test_reads_and_completes_the_sector(tmp_path: Path) -> None:
    with RawDisk(images.full(tmp_path / "disk", b"x" * 1000)) as disk:
        assert (disk.file_size, disk.size) == (1000, 1024)
        assert content(disk) == b"x" * 1000 + bytes(24)


def test_holes(tmp_path: Path) -> None:
    raw = bytes(MIB) + b"x" * MIB + bytes(MIB) + b"y" * 5 + bytes(MIB)
    with RawDisk(images.sparse(tmp_path / "disk", raw)) as disk:
        covered = bytearray(len(raw))
        for start, end in disk.ranges():
            covered[start:end] = raw[start:end]
        assert covered == raw
        assert sum(end - start for start, end in disk.ranges()) < 2 * MIB
    with RawDisk(images.sparse(tmp_path / "disk", bytes(MIB))) as disk:
        assert list(disk.ranges()) == []


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB + 7])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    raw = (bytes(MIB) + b"content" * MIB)[:size]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
    with RawDisk("-") as disk:
        assert disk.name == "standard input"
        assert content(disk)[:size] == raw
        assert disk.file_size == size


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV\1\0\0\0", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(64) + b"\x7f\x10\xda\xbe",
            "VDI",
        ),
        (b"LUKS\xba\xbe\0\2", "LUKS"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (writer.lsmt([], MIB), "layer"),
        (writer.zfile(b""), "layer"),
        (writer.tar(b"anything", "plain"), "tar"),
    ],
)
def test_other_formats(tmp_path: Path, head: bytes, what: str) -> None:
    path = images.full(tmp_path / "disk", head.ljust(MIB, b"\0"))
    with pytest.raises(Unsupported, match=what):
        RawDisk(path)
    with RawDisk(path, any_content=True) as disk:
        assert content(disk)[: len(head)] == head


def test_vhd_of_fixed_size(tmp_path: Path) -> None:
    path = images.full(tmp_path / "disk", bytes(MIB) + b"conectix".ljust(512, b"\0"))
    with pytest.raises(Unsupported, match="VHD"):
        RawDisk(path)


@requires("qemu-img")
@pytest.mark.parametrize(
    "form", ["qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed", "parallels"]
)
def test_what_qemu_makes_is_recognized(tmp_path: Path, form: str) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-qf", form, path, "8M"], check=True)
    with pytest.raises(Unsupported):
        RawDisk(path)


@requires("mke2fs")
def test_raw_disks_are_not_taken_for_something_else(tmp_path: Path) -> None:
    path = images.sparse(tmp_path / "disk", bytes(8 * MIB))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True)
    with RawDisk(path) as disk:
        assert disk.size == 8 * MIB


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        RawDisk(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (writer.lsmt([], MIB), True),
        (writer.zfile(writer.lsmt([], MIB)), True),
        (writer.tar(writer.zfile(b"x"), "pax"), True),
        (writer.tar(writer.lsmt([], MIB), "plain"), True),
        (b'\n {"lowers": []}', True),
        (b"{\xeaK a disk may start with a brace", False),
        (writer.tar(b"some other file", "plain"), False),
        (bytes(MIB), False),
        (b"", False),
        (b"x", False),
    ],
)
def test_looks_like_image(tmp_path: Path, raw: bytes, answer: bool) -> None:
    assert looks_like_image(images.full(tmp_path / "file", raw)) is answer


def test_what_is_no_file_looks_like_no_image(tmp_path: Path) -> None:
    assert not looks_like_image("-")
    assert not looks_like_image(tmp_path)
    assert not looks_like_image(tmp_path / "nowhere")
