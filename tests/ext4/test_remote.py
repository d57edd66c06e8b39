# SPDX-License-Identifier: Apache-2.0
"""test_remote - layers below that are not on this machine, or fail."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.config import Image, resolve
from obdengine.device import Device
from obdengine.errors import SourceError
from obdengine.layer import open_layer, open_upper
from obdengine.ops.commit import commit
from obdengine.ops.create import create
from obdengine.ops.image import open_image
from obdengine.units import GIB
from tests.blob.sources import RecordingSource
from tests.ext4 import disks, tars
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")

LOWER = tars.tar(
    *[tars.file(f"d/{i}", os.urandom(20_000)) for i in range(200)],
    tars.symlink("s", "d"),
)
UPPER = tars.tar(tars.file("s/new", b"x"), tars.white("d/7"), tars.link("l", "d/8"))


class Flaky(RecordingSource):
    """Fails when it is told to."""

    broken = False

    def pread(self, offset: int, length: int) -> bytes:
        if self.broken:
            raise SourceError("the line is down")
        return super().pread(offset, length)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("base")
    config = create(folder / "disk", Image([]), size=disks.SIZE)
    with open_image(config, readonly=False) as device:
        ext4.make_file_system(device)
        disks.apply(device, LOWER)
    commit(config, folder / "layer")
    return (folder / "layer").read_bytes()


def over(source: RecordingSource, folder: Path) -> Device:
    """A writable disk over a layer that is read from source."""
    config = create(folder / "upper", Image([]), size=disks.SIZE)
    files = resolve([config]).upper
    assert files
    return Device([open_layer(source)], "disk", open_upper(files.data, files.index))


def test_only_what_is_needed_is_fetched(base: bytes, tmp_path: Path) -> None:
    source = Flaky(base)
    with over(source, tmp_path) as device:
        ext4.apply_layer(device, io.BytesIO(UPPER))
        fetched = sum(read[1] for read in source.reads)
        assert fetched < len(base) // 3
        disks.check(device)
        found = disks.tree(device)
        assert b"d/new" in found
        assert b"d/7" not in found
        assert found[b"l"].links == 2


def test_what_cannot_be_fetched_is_said(base: bytes, tmp_path: Path) -> None:
    source = Flaky(base)
    with over(source, tmp_path) as device:
        source.broken = True
        with pytest.raises(SourceError, match="the line is down"):
            ext4.apply_layer(device, io.BytesIO(UPPER))
        with (
            pytest.raises(SourceError, match="the line is down"),
            ext4.open_file_system(device) as fs,
        ):
            list(fs.walk())
        source.broken = False
        assert disks.read(device, "s/9") == disks.read(device, "d/9")


def test_nothing_is_written_after_a_failure(tmp_path: Path) -> None:
    """An error on the way leaves the metadata as it was."""
    config = create(tmp_path / "disk", Image([]), size=GIB)
    with open_image(config, readonly=False) as device:
        ext4.make_file_system(device)
        before = disks.tree(device)
        broken = tars.tar(tars.file("a/b", b"x" * 100))[:1024] + b"junk" * 256
        with pytest.raises(Exception, match="checksum"):
            ext4.apply_layer(device, io.BytesIO(broken))
        disks.check(device)
        assert disks.tree(device) == before
