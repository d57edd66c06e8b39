# SPDX-License-Identifier: Apache-2.0
"""
test_random - random layers on ext4 against a model, and e2fsck after each.

Names are few, so that layers meet: replace each other's files, hide them,
link to them, go through each other's symbolic links.
"""

from __future__ import annotations

import io
import stat
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine import ext4
from obdengine.device import Device
from obdengine.errors import BadTar
from tests.ext4 import disks, tars
from tests.ext4.model import Model, Node, Refused
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")

IMPLIED = 1_500_000_000

names = st.sampled_from(["a", "b", "c", "dd", "a-long-name" * 20])
paths = st.lists(names, min_size=1, max_size=4)
modes = st.sampled_from([0o644, 0o755, 0o4755, 0o2700, 0o1777, 0])
owners = st.sampled_from([(0, 0), (1000, 100), (70_000, 4_000_000_000)])
times = st.sampled_from([0, 1, 1_600_000_000, 2**31 + 5, 2**33])
contents = st.one_of(
    st.binary(max_size=64),
    st.builds(
        lambda parts: b"".join(bytes([byte]) * size for byte, size in parts),
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 7]),
                st.sampled_from([1, 4095, 4096, 4097, 12288]),
            ),
            max_size=4,
        ),
    ),
)
xattrs = st.dictionaries(
    st.sampled_from(["user.x", "trusted.y", "security.z"]),
    st.binary(min_size=1, max_size=80),
    max_size=2,
)
targets = st.one_of(
    st.sampled_from(["a", "/b", "..", "../c", "/", "dd/a", "/a/../b"]),
    st.just("long/" * 40 + "x"),
)

Step = tuple[list[tars.Member], Callable[[Model], None]]


def dressed(draw: st.DrawFn) -> tuple[dict[str, object], Node]:
    mode, owner, mtime = draw(modes), draw(owners), draw(times)
    values = draw(xattrs)
    fields = {
        "mode": mode,
        "uid": owner[0],
        "gid": owner[1],
        "mtime": mtime,
        "xattrs": values,
    }
    return fields, Node("", mode, owner, mtime, xattrs=values)


def file_of(draw: st.DrawFn, kind: str, name: str) -> tuple[tars.Member, Node]:
    """A file of some kind, as a member and as a node."""
    fields, node = dressed(draw)
    if kind == "file":
        node.kind, node.data = "file", draw(contents)
        member = tars.file(name, node.data, **fields)
    elif kind == "folder":
        node.kind = "directory"
        member = tars.folder(name, **fields)
    elif kind == "symlink":
        node.kind, node.target = "symlink", draw(targets)
        member = tars.symlink(name, node.target, **fields)
    elif kind == "fifo":
        node.kind = "fifo"
        member = tars.member(name, b"6", **fields)
    else:
        node.kind = "char"
        node.rdev = draw(st.sampled_from([(1, 3), (300, 70_000), (4095, 1_048_575)]))
        fields |= {"devmajor": node.rdev[0], "devminor": node.rdev[1]}
        member = tars.member(name, b"3", **fields)
    return member, node


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """One member, and what it does to a model."""
    path = draw(paths)
    name = "/".join(path)
    kind = draw(
        st.sampled_from(
            ["file"] * 4
            + ["folder"] * 3
            + ["symlink", "link", "link", "fifo"]
            + ["char", "white", "white", "opaque"]
        )
    )
    if kind == "link":
        other = draw(paths)
        member = tars.link(name, "/".join(other))
        return [member], lambda model: model.link(path, other)
    if kind == "white":
        return [tars.white(name)], lambda model: model.white_out(path)
    if kind == "opaque":
        return [tars.opaque(name)], lambda model: model.opaque(path)
    member, node = file_of(draw, kind, name)
    return [member], lambda model: model.put(path, node)


KINDS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
}


def compare(device: Device, model: Model) -> None:
    want = model.paths()
    found = {path.decode(): e for path, e in disks.tree(device).items()}
    assert found.keys() == want.keys()
    links = Counter(id(node) for node in want.values())
    inodes: dict[int, int] = {}
    for path, node in want.items():
        entry = found[path]
        assert entry.mode == KINDS[node.kind] | node.mode, path
        assert (entry.uid, entry.gid) == node.owner, path
        if path:
            assert entry.mtime == node.mtime * 10**9, path
        assert entry.target.decode() == node.target, path
        assert entry.rdev == node.rdev, path
        assert entry.xattrs == {k.encode(): v for k, v in node.xattrs.items()}, path
        assert inodes.setdefault(id(node), entry.inode) == entry.inode, path
        if node.kind == "directory":
            below = sum(n.kind == "directory" for n in node.children.values())
            assert entry.links == 2 + below + (not path), path
        else:
            assert entry.links == links[id(node)], path
        if node.kind == "file":
            assert entry.size == len(node.data), path
            assert disks.read(device, path.encode()) == node.data, path
    assert len(set(inodes.values())) == len(inodes)


@given(st.lists(st.lists(steps(), max_size=12), min_size=1, max_size=4))
def test_layers_mean_what_the_model_says(layers: list[list[Step]]) -> None:
    with disks.made(size=16 * 1024 * 1024) as device:
        model = Model(IMPLIED)
        for layer in layers:
            model.begin()
            done: list[tars.Member] = []
            refused = False
            for members, do in layer:
                done += members
                try:
                    do(model)
                except Refused:
                    refused = True
                    break
            stream = io.BytesIO(tars.tar(*done))
            options = ext4.ApplyOptions(time=IMPLIED)
            if refused:
                with pytest.raises(BadTar):
                    ext4.apply_layer(device, stream, options=options)
                return
            ext4.apply_layer(device, stream, options=options)
            disks.check(device)
            compare(device, model)
