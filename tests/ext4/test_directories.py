# SPDX-License-Identifier: Apache-2.0
"""
test_directories - directories of every size, and the index of the large ones.

e2fsck checks an index as the kernel would use it: every name must be in the
leaf that its hash leads to.
"""

from __future__ import annotations

import io
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obdengine import ext4
from obdengine.device import Device
from obdengine.errors import LimitError
from obdengine.units import MIB
from tests.ext4 import disks, tars
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")

INDEX = 0x1000


def names(count: int, seed: int = 0, width: int = 0) -> list[str]:
    found = random.Random(seed)
    return [
        f"{found.randrange(10**9)}-{i}".ljust(width or found.randrange(1, 60), "x")
        for i in range(count)
    ]


def add(*words: str) -> bytes:
    return tars.tar(*[tars.link(f"d/{word}", "one") for word in words])


def listed(device: Device) -> set[str]:
    with ext4.open_file_system(device) as fs:
        return {name.decode() for name in fs.list("d")}


@pytest.mark.parametrize("count", [0, 1, 60, 130, 1000, 20_000])
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_directory_of_any_size(count: int, block_size: int) -> None:
    words = names(count)
    first = tars.tar(tars.file("one"), tars.folder("d"))
    with disks.made(ext4.MakeOptions(block_size=block_size)) as device:
        disks.apply(device, first, add(*words))
        assert listed(device) == set(words)
        with ext4.open_file_system(device) as fs:
            assert fs.stat("one").links == count + 1


@pytest.mark.parametrize("features", [("^dir_index",), ("^metadata_csum",)])
def test_directory_without(features: tuple[str, ...]) -> None:
    words = names(3000)
    first = tars.tar(tars.file("one"), tars.folder("d"))
    options = ext4.MakeOptions(features=features)
    gone = tars.tar(*[tars.white(f"d/{word}") for word in words[::3]])
    with disks.made(options) as device:
        disks.apply(device, first, add(*words), gone, add(*words[::6]))
        assert listed(device) == (set(words) - set(words[::3])) | set(words[::6])


def test_two_levels_of_index() -> None:
    """1 KiB blocks have room for 121 leaves in the root."""
    words = names(6000, width=200)
    first = tars.tar(tars.file("one"), tars.folder("d"))
    with disks.made(ext4.MakeOptions(block_size=1024)) as device:
        disks.apply(device, first)
        for start in range(0, 6000, 2000):
            disks.apply(device, add(*words[start : start + 2000]))
        assert listed(device) == set(words)
        gone = tars.tar(*[tars.white(f"d/{word}") for word in words[1::2]])
        disks.apply(device, gone)
        assert listed(device) == set(words[::2])


@pytest.mark.soak
def test_more_names_than_an_index_can_hold() -> None:
    """The kernel has no deeper index either, without large_dir."""
    words = names(60_000, width=250)
    first = tars.tar(tars.file("one"), tars.folder("d"))
    with disks.made(ext4.MakeOptions(block_size=1024)) as device:
        disks.apply(device, first, add(*words[:30_000]))
        with pytest.raises(LimitError, match="cannot change directory"):
            ext4.apply_layer(device, io.BytesIO(add(*words[30_000:])))


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 400), st.integers(0, 400)),
        min_size=1,
        max_size=6,
    )
)
def test_any_changes_to_an_index(steps: list[tuple[bool, int, int]]) -> None:
    words = names(400, width=70)
    there: set[str] = set()
    with disks.made(ext4.MakeOptions(block_size=1024), size=8 * MIB) as device:
        disks.apply(device, tars.tar(tars.file("one"), tars.folder("d")))
        for adding, start, end in steps:
            some = words[start:end]
            if adding:
                disks.apply(device, add(*some))
                there |= set(some)
            else:
                gone = [tars.white(f"d/{word}") for word in some]
                disks.apply(device, tars.tar(*gone))
                there -= set(some)
            assert listed(device) == there


@pytest.mark.soak
def test_folder_with_many_folders() -> None:
    """A directory with more than 65000 below it has one link, as the kernel says."""
    layer = tars.tar(*[tars.folder(f"d/{i}") for i in range(65_100)])
    options = ext4.MakeOptions(inodes=70_000)
    with disks.made(options, size=512 * MIB) as device:
        disks.apply(device, layer)
        with ext4.open_file_system(device) as fs:
            assert fs.stat("d").links == 1


def test_time_does_not_grow_with_the_directory() -> None:
    def seconds(count: int) -> float:
        layer = tars.tar(*[tars.file(f"d/{word}") for word in names(count)])
        options = ext4.MakeOptions(inodes=50_000)
        with disks.made(options, size=256 * MIB) as device:
            begin = time.process_time()
            ext4.apply_layer(device, io.BytesIO(layer))
            return time.process_time() - begin

    seconds(1000)
    assert seconds(40_000) < 40 * seconds(4000)
