# SPDX-License-Identifier: Apache-2.0
"""test_tree - a directory as a tar: all of it, in one order, judged by GNU tar."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from obdengine.errors import SourceError
from obdengine.ops.tree import Owner, TreeTar
from tests.tools import requires


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"x" * 3000)
    (root / "sub" / "file").chmod(0o4711)
    (root / "empty").touch()
    (root / "link").symlink_to("sub/file")
    (root / "dangling").symlink_to("/no/where")
    os.link(root / "sub" / "file", root / "z")
    os.mkfifo(root / "fifo", 0o640)
    with open(os.fsencode(root) + b"/\xff\xfe name", "wb") as odd:  # noqa: PTH123
        odd.write(b"odd")
    (root / ("n" * 200)).write_bytes(b"long name")
    (root / "sub").chmod(0o1777)
    os.utime(root / "empty", ns=(0, -1))
    os.utime(root / "sub", ns=(0, 10**18 + 123456789))
    return root


def read(path: Path, owner: Owner | None = None, step: int = -1) -> bytes:
    with TreeTar(path, owner) as stream:
        return b"".join(iter(lambda: stream.read(step), b""))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def test_everything_is_in_it(tree: Path) -> None:
    found = members(read(tree))
    assert next(iter(found)) == "."
    assert found["sub/file"].mode == 0o4711
    assert found["sub/file"].size == 3000
    assert (found["z"].type, found["z"].linkname) == (tarfile.LNKTYPE, "sub/file")
    assert found["link"].linkname == "sub/file"
    assert found["dangling"].issym()
    assert found["fifo"].isfifo()
    assert found["sub"].mode == 0o1777
    assert found["sub"].pax_headers["mtime"] == "1000000000.123456789"
    assert found["empty"].pax_headers["mtime"] == "-0.000000001"
    assert "n" * 200 in found
    assert os.fsdecode(b"\xff\xfe name") in found
    assert {member.uid for member in found.values()} == {os.getuid()}


def test_same_tree_same_bytes(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    data = read(tree)
    assert read(copy) == data
    assert read(tree, step=1000) == data
    assert len(data) % 512 == 0


def test_another_owner(tree: Path) -> None:
    found = members(read(tree, Owner(7, 1 << 30))).values()
    assert {(member.uid, member.gid) for member in found} == {(7, 1 << 30)}


@requires("tar", "root")
def test_tar_unpacks_the_same_tree(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree / "z", "user.binary", b"\xff\0\n=")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(tree / "empty", 12345, 54321)
    copy = tmp_path / "copy"
    copy.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "--warning=none", "-xpf", "-"]
    subprocess.run([*command, "-C", str(copy)], input=read(tree), check=True)
    assert read(copy) == read(tree)


def test_sockets_are_left_out_and_named(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tree / "socket"))
    with TreeTar(tree) as stream:
        assert "socket" not in members(stream.read())
    assert stream.notes == [f"{tree}/socket is a socket, and is left out"]


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(SourceError, match=name):
            TreeTar(tmp_path / name)


def test_file_that_shrinks(tree: Path) -> None:
    (tree / "sub" / "file").write_bytes(bytes(5 << 20))
    with TreeTar(tree) as stream:
        while stream.size < 1 << 20:
            stream.read(4096)
        os.truncate(tree / "sub" / "file", 100)
        with pytest.raises(SourceError, match="shorter"):
            stream.read()
