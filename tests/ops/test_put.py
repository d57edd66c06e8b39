# SPDX-License-Identifier: Apache-2.0
"""test_put - tars and trees on top of an image are one more layer of it."""

from __future__ import annotations

import gzip
import io
import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

import obdengine
import obdengine.ops.convert
from obdengine import ext4
from obdengine.config import resolve
from obdengine.errors import FormatError, LimitError, ObdError, UsageError
from obdengine.ops.create import create
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.put import put_on_top
from obdengine.ops.tree import Owner, TreeTar
from obdengine.units import MIB
from tests.oci_images import small_tar
from tests.ops.test_tree import tree as tree

SIZE = 64 * MIB


def put(tar: bytes | TreeTar, dst: Path, *below: Path, **more: Any) -> Any:
    base = resolve(below) if below else None
    size = None if below else SIZE

    def opened() -> Any:
        return nullcontext(tar if isinstance(tar, TreeTar) else io.BytesIO(tar))

    return put_on_top(opened, dst, name="tar", base=base, size=size, **more)[0]


def files(*layers: Path) -> dict[str, Any]:
    """Return what each path of a stack's file system is."""
    with obdengine.open(layers) as device, ext4.open_file_system(device) as system:
        return {os.fsdecode(entry.path): entry for entry in system.walk("/")}


def content(path: str, *layers: Path) -> bytes:
    with obdengine.open(layers) as device, ext4.open_file_system(device) as system:
        return system.read_file(path)


def test_tars_one_above_the_other(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{n}.obd" for n in (1, 2, 3))
    put(small_tar(a="1", b="1"), one)
    written = put(gzip.compress(small_tar(**{".wh.a": "", "c": "2"})), two, one)
    put(small_tar(b="3"), three, one, two)
    assert {"a", "b"} <= set(files(one))
    assert {"a", "b", "c"} & set(files(one, two)) == {"b", "c"}
    assert content("b", one, two, three) == b"3"
    assert written.virtual_size == SIZE
    assert written.data_size < 200_000


def test_uuids_are_as_asked(tmp_path: Path) -> None:
    uuid = "12345678-1234-1234-1234-123456789abc"
    one, two = tmp_path / "1.obd", tmp_path / "2.obd"
    put(small_tar(a="1"), one, options=LayerOptions(uuid=uuid))
    put(small_tar(b="1"), two, one)
    with obdengine.open([one, two]) as device:
        assert device.layers[0].uuid == uuid
        assert (device.layers[1].uuid, device.layers[1].parent_uuid) == (None, uuid)


def test_tree_of_this_host(tree: Path, tmp_path: Path) -> None:
    put(TreeTar(tree, Owner(5, 6)), tmp_path / "1.obd")
    found = files(tmp_path / "1.obd")
    status = (tree / "sub" / "file").stat()
    entry = found["sub/file"]
    assert (entry.mode, entry.size) == (status.st_mode, status.st_size)
    assert entry.mtime == status.st_mtime_ns
    assert (entry.uid, entry.gid, entry.links) == (5, 6, 2)
    assert found["z"].inode == entry.inode
    assert os.fsdecode(b"\xff\xfe name") in found
    put(TreeTar(tree, Owner(5, 6)), tmp_path / "2.obd")
    pair = [(tmp_path / f"{n}.obd").read_bytes() for n in (1, 2)]
    assert pair[0] == pair[1]


def test_base_with_a_writable_layer(tmp_path: Path) -> None:
    one = tmp_path / "1.obd"
    put(small_tar(a="1"), one)
    config = create(tmp_path / "machine", resolve([one]))
    with pytest.raises(UsageError, match="writable layer"):
        put(small_tar(b="1"), tmp_path / "2.obd", config)


def test_base_without_a_file_system(tmp_path: Path) -> None:
    one = tmp_path / "1.obd"
    (tmp_path / "raw").write_bytes(b"no file system" * 10_000 + bytes(20))
    os.truncate(tmp_path / "raw", MIB)
    obdengine.ops.convert.to_layer(tmp_path / "raw", one)
    with pytest.raises(FormatError):
        put(small_tar(a="1"), tmp_path / "2.obd", one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.obd", "raw"]


@pytest.mark.parametrize(
    ("tar", "error"),
    [
        (b"x" * 10_000, FormatError),
        (gzip.compress(small_tar(a="1"))[:-3], FormatError),
        (small_tar(a=bytes(SIZE)[:-1] + b"x" * SIZE), LimitError),
    ],
)
def test_nothing_is_left_of_a_failure(
    tmp_path: Path, tar: bytes, error: type[ObdError]
) -> None:
    (tmp_path / "1.obd").write_text("before")
    with pytest.raises(error):
        put(tar, tmp_path / "1.obd")
    assert [path.name for path in tmp_path.iterdir()] == ["1.obd"]
    assert (tmp_path / "1.obd").read_text() == "before"


def test_source_is_closed(tmp_path: Path) -> None:
    stream = io.BytesIO(small_tar(a="1"))
    put_on_top(
        lambda: closing(stream), tmp_path / "1.obd", name="tar", size=SIZE, base=None
    )
    assert stream.closed
