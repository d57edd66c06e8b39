# SPDX-License-Identifier: Apache-2.0
"""test_shared - many disks over the same layers: opened once, closed once."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import obdengine
from obdengine.errors import SourceMissing
from obdengine.layer import open_shared
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB
from tests import stacks
from tests.stacks import Image


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return stacks.make(tmp_path)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_disks_share_layers_and_their_index(image: Image) -> None:
    before = descriptors()
    with obdengine.open(image.layers) as one:
        alone = descriptors()
        with obdengine.open(image.layers) as two:
            assert descriptors() == alone
            for a, b in zip(one.layers, two.layers, strict=True):
                assert a is not b
                assert a.core is b.core
                assert a.segments is b.segments
            assert one._table is two._table
            assert two.pread(0, two.size) == image.disk
        assert one.pread(0, one.size) == image.disk
    assert descriptors() == before


def test_disks_share_inflated_blocks(tmp_path: Path) -> None:
    """What one has inflated another reads, whatever becomes of the file."""
    raw, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    raw.write_bytes(b"".join(bytes([n]) * 4096 for n in range(1, 17)))
    to_layer(raw, layer, options=LayerOptions(codec="lz4", block_size=64 * KIB))
    with obdengine.open([layer]) as one, obdengine.open([layer]) as two:
        # The header is a page too, so one block does not hold them all.
        assert one.pread(4096, 4096) == bytes([2]) * 4096
        with layer.open("r+b") as file:
            file.seek(512)
            file.write(b"junk" * 8)
        assert two.pread(2 * 4096, 4096) == bytes([3]) * 4096


def test_many_disks_take_little(image: Image) -> None:
    """A disk over layers that are open has no index and no buffers of its own."""
    with ExitStack() as opened:
        disks = [opened.enter_context(obdengine.open(image.layers)) for _ in range(100)]
        for disk in disks:
            assert disk.pread(0, disk.size) == image.disk
        assert len({id(disk._table) for disk in disks}) == 1
        assert len({id(layer.core) for disk in disks for layer in disk.layers}) == len(
            image.layers
        )


def test_part_of_a_stack_has_its_own_index(image: Image) -> None:
    with obdengine.open(image.layers) as all_of_it:
        wanted = all_of_it.pread(0, all_of_it.size)
        with obdengine.open(image.layers[:2]) as part:
            assert part.layers[0].core is all_of_it.layers[0].core
            assert part._table is not all_of_it._table
        assert all_of_it.pread(0, all_of_it.size) == wanted


def test_same_layer_twice_in_one_stack(image: Image) -> None:
    before = descriptors()
    with obdengine.open([image.layers[0]] * 3) as device:
        with obdengine.open([image.layers[0]]) as one:
            assert device.pread(0, one.size) == one.pread(0, one.size)
        assert device.pread(0, 1)
    assert descriptors() == before


def test_closing_twice_counts_once(image: Image) -> None:
    one, two = (open_shared(image.layers[0]) for _ in range(2))
    one.close()
    one.close()
    assert two.blob.pread(0, 4)
    two.close()


def test_file_that_is_replaced_is_opened_anew(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "layer.obd"
    shutil.copy(image.layers[0], path)
    old = open_shared(path)
    shutil.copy(image.layers[1], tmp_path / "next")
    os.replace(tmp_path / "next", path)  # noqa: PTH105
    new = open_shared(path)
    assert old.core is not new.core
    assert old.segments[0] != new.segments[0] or old.entries != new.entries
    old.close()
    assert new.blob.pread(0, 4)
    new.close()


def test_other_name_of_the_same_file_keeps_its_name(image: Image) -> None:
    link = image.layers[0].with_name("other.obd")
    link.hardlink_to(image.layers[0])
    with obdengine.open([image.layers[0]]) as one, obdengine.open([link]) as two:
        assert one.layers[0].name != two.layers[0].name


def test_missing_file_is_an_error_as_before(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        open_shared(tmp_path / "none.obd")


def test_opened_and_closed_by_many_threads(image: Image) -> None:
    before = descriptors()

    def use(_number: int) -> bool:
        with obdengine.open(image.layers) as device:
            return device.pread(0, device.size) == image.disk

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert descriptors() == before
