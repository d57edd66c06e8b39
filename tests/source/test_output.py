# SPDX-License-Identifier: Apache-2.0
"""test_output - a file appears whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest

from obdengine.errors import SourceError, UsageError
from obdengine.source.output import DeviceOutput, Output, open_output


def test_appears_with_commit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Output(path) as out:
        out.append(b"0123456789")
        out.append(memoryview(b"abc"))
        out.patch(2, b"XY")
        assert out.position == 13
        assert not path.exists()
        out.commit()
    assert path.read_bytes() == b"01XY456789abc"
    assert list(tmp_path.iterdir()) == [path]


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(KeyError), Output(path) as out:
        out.append(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    with Output(tmp_path / "file") as out:
        out.commit()
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    (tmp_path / "link").symlink_to(target)
    with Output(tmp_path / "link") as out:
        out.append(b"x")
        out.commit()
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"x"


def test_resize_leaves_a_hole(tmp_path: Path) -> None:
    with Output(tmp_path / "file") as out:
        out.resize(1 << 30)
        out.patch(1 << 20, b"x")
        out.commit()
    status = (tmp_path / "file").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20


def test_long_name(tmp_path: Path) -> None:
    with Output(tmp_path / ("n" * 255)) as out:
        out.commit()


def test_not_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        Output(tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        open_output("/dev/null")


@pytest.mark.parametrize("name", ["loop", "a\0b"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError):
        Output(tmp_path / name)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        Output(tmp_path / "nowhere" / "file")
    assert raised.value.errno == errno.ENOENT


def test_disk_that_is_full() -> None:
    out = DeviceOutput("/dev/full")
    with pytest.raises(SourceError) as raised:
        out.patch(0, b"x")
    assert raised.value.errno == errno.ENOSPC
    out.abandon()
    out.abandon()
