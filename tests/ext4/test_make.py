# SPDX-License-Identifier: Apache-2.0
"""test_make - new file systems: what they are, and that they are always the same."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.config import Image
from obdengine.device import Device
from obdengine.errors import (
    BadFileSystem,
    CoreError,
    LimitError,
    Unsupported,
    UsageError,
)
from obdengine.layer import UpperOptions
from obdengine.ops.create import create
from obdengine.ops.image import open_image
from obdengine.units import GIB, KIB, MIB, TIB
from tests.ext4 import disks, tars
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")


@contextmanager
def fresh(
    options: ext4.MakeOptions | None = None, size: int = disks.SIZE
) -> Iterator[Device]:
    """A disk whose file system is made now."""
    with disks.blank(size) as device:
        ext4.make_file_system(device, options)
        yield device


HAS_JOURNAL = 0x4
METADATA_CSUM = 0x400


def facts(
    options: ext4.MakeOptions | None = None, size: int = disks.SIZE
) -> ext4.Facts:
    with fresh(options, size) as device:
        disks.check(device)
        with ext4.open_file_system(device) as fs:
            assert fs.list() == [b"lost+found"]
            return fs.facts


def test_defaults() -> None:
    found = facts()
    assert found.block_size == 4 * KIB
    assert found.blocks == disks.SIZE // (4 * KIB)
    assert found.reserved_blocks == 0
    assert found.clean
    assert not found.features[0] & HAS_JOURNAL
    assert found.features[2] & METADATA_CSUM


def test_options() -> None:
    name = uuid.uuid4()
    found = facts(
        ext4.MakeOptions(
            label="sixteen letters!",
            uuid=name,
            journal=True,
            features=("^metadata_csum",),
            block_size=1024,
            inodes=1000,
            reserved=5,
        )
    )
    assert found.label == b"sixteen letters!"
    assert found.uuid == name.bytes
    assert found.features[0] & HAS_JOURNAL
    assert not found.features[2] & METADATA_CSUM
    assert found.block_size == 1024
    assert 1000 <= found.inodes <= 1100
    assert 0 < found.reserved_blocks < found.blocks // 10
    assert facts(ext4.MakeOptions(inode_ratio=64 * KIB)).inodes == 1024
    assert (
        facts(ext4.MakeOptions(journal=4)).free_blocks
        > facts(ext4.MakeOptions(journal=16)).free_blocks
    )


@pytest.mark.parametrize("size", [MIB, 100 * MIB + 512, GIB, TIB])
def test_sizes(size: int) -> None:
    with fresh(size=size) as device:
        stored = sum(e.length for e in device.extents() if not e.zero)
        assert stored <= max(size // 100, 300 * KIB)
        with ext4.open_file_system(device) as fs:
            assert fs.facts.blocks == size // fs.facts.block_size


def test_same_bytes_whatever_the_machine_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fresh() as device:
        first = disks.digest(device)
    config = tmp_path / "mke2fs.conf"
    config.write_text("[defaults]\n blocksize = 1024\n base_features = has_journal\n")
    monkeypatch.setenv("MKE2FS_CONFIG", str(config))
    monkeypatch.setenv("E2FSPROGS_FAKE_TIME", "12345")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    umask = os.umask(0o077)
    try:
        with fresh() as device:
            assert disks.digest(device) == first
    finally:
        os.umask(umask)


def test_other_options_are_another_file_system() -> None:
    assert facts().uuid != facts(ext4.MakeOptions(label="x")).uuid
    assert facts().uuid != facts(size=128 * MIB).uuid
    assert facts().uuid == facts().uuid


def test_what_was_there_is_gone() -> None:
    with disks.blank() as device:
        for offset in range(0, device.size, MIB):
            device.pwrite(offset, b"old" * 1000)
        ext4.make_file_system(device)
        disks.check(device)
        with fresh() as other:
            assert disks.digest(device) == disks.digest(other)


def test_refused_options() -> None:
    with disks.blank() as device:
        for options in (
            ext4.MakeOptions(features=("no_such_feature",)),
            ext4.MakeOptions(block_size=1000),
            ext4.MakeOptions(journal=100_000),
        ):
            with pytest.raises(UsageError, match="mke2fs refuses: "):
                ext4.make_file_system(device, options)
    with disks.blank(64 * KIB) as device, pytest.raises(UsageError, match="mke2fs"):
        ext4.make_file_system(device)


def test_mke2fs_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obdengine.ext4.make._PLACES", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with disks.blank() as device, pytest.raises(CoreError, match="e2fsprogs"):
        ext4.make_file_system(device)


@pytest.mark.parametrize("feature", ["bigalloc", "inline_data", "quota", "encrypt"])
def test_made_but_not_filled(feature: str) -> None:
    """mke2fs can make them; that files are added to them is refused."""
    layer = tars.tar(tars.file("f"))
    options = ext4.MakeOptions(features=(feature,))
    with disks.blank() as device:
        with pytest.raises(Unsupported, match=feature):
            ext4.make_file_system(device, options)
        with pytest.raises(Unsupported, match=feature):
            disks.apply(device, layer)
        with ext4.open_file_system(device) as fs:
            assert fs.list() == [b"lost+found"]


def test_file_systems_that_need_a_check() -> None:
    with fresh() as device:
        state = 1024 + 0x3A
        device.pwrite(state, b"\0\0")
        with pytest.raises((UsageError, BadFileSystem)):
            disks.apply(device, b"")


def test_no_file_system() -> None:
    with disks.blank() as device:
        with (
            pytest.raises(BadFileSystem, match="Bad magic number"),
            ext4.open_file_system(device),
        ):
            pass
        with pytest.raises(BadFileSystem):
            disks.apply(device, b"")


def test_time_that_is_no_time() -> None:
    """0 would mean the clock to libext2fs."""
    digests = set()
    for _ in range(2):
        with fresh(ext4.MakeOptions(time=1)) as device:
            disks.apply(device, tars.tar(tars.file("a/f")), time=0)
            digests.add(disks.digest(device))
            assert disks.tree(device)[b"a"].mtime == 0
    assert len(digests) == 1


def test_disk_full_below(tmp_path: Path) -> None:
    """The writable layer itself has no room."""
    small = UpperOptions(max_size=2 * MIB)
    config = create(tmp_path / "d", Image([]), size=disks.SIZE, options=small)
    with open_image(config, readonly=False, options=small) as device:
        ext4.make_file_system(device)
        data = os.urandom(8 * MIB)
        with pytest.raises(Exception, match=r"room|space") as caught:
            disks.apply(device, tars.tar(tars.file("f", data)))
        assert not isinstance(caught.value, LimitError)
