# SPDX-License-Identifier: Apache-2.0
"""test_layers - what one layer does to those below: links, whiteouts."""

from __future__ import annotations

import stat

import pytest

from obdengine import ext4
from tests.ext4 import disks, tars
from tests.ext4.disks import applied, one, refused
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")


# -- Hard links


def test_links_within_and_across_layers() -> None:
    found = applied(
        tars.tar(tars.file("a", b"1"), tars.link("b", "a"), tars.symlink("s", "a")),
        tars.tar(tars.link("d/c", "/b"), tars.link("s2", "s")),
    )
    assert found[b"a"].inode == found[b"b"].inode == found[b"d/c"].inode
    assert found[b"a"].links == 3
    assert found[b"s2"].target == b"a"
    assert found[b"s"].links == 2


def test_link_to_what_this_layer_has_replaced() -> None:
    lower = tars.tar(tars.file("a", b"old"), tars.link("b", "a"))
    upper = tars.tar(tars.file("a", b"new"), tars.link("c", "a"), tars.link("d", "b"))
    with disks.made() as device:
        disks.apply(device, lower, upper)
        assert disks.read(device, "c") == b"new"
        assert disks.read(device, "d") == b"old"
        assert {disks.tree(device)[name].links for name in (b"a", b"b")} == {2}


def test_link_over_the_folder_that_holds_its_target() -> None:
    found = one(tars.file("d/f", b"x"), tars.link("d", "d/f"))
    assert found[b"d"].links == 1
    assert b"d/f" not in found


def test_links_that_cannot_be_made() -> None:
    assert "not there" in str(refused(tars.tar(tars.link("b", "a"))))
    assert "a directory" in str(
        refused(tars.tar(tars.folder("d"), tars.link("b", "d")))
    )
    assert "itself" in str(refused(tars.tar(tars.file("a"), tars.link("a", "./a"))))
    gone = tars.tar(tars.white("a"), tars.link("b", "a"))
    assert "not there" in str(refused(tars.tar(tars.file("a")), gone))


@pytest.mark.soak
def test_too_many_hard_links() -> None:
    many = [tars.link(f"l{i}", "a") for i in range(65_000)]
    assert "too many hard links" in str(refused(tars.tar(tars.file("a"), *many)))


# -- Whiteouts


def test_whiteout() -> None:
    lower = tars.tar(tars.file("d/a"), tars.file("d/b"), tars.file("e/f/g/h"))
    upper = tars.tar(tars.white("d/a"), tars.white("e"), tars.white("none/x"))
    assert applied(lower, upper).keys() == {b"", b"d", b"d/b"}


def test_whiteout_below_what_is_a_file_now() -> None:
    lower = tars.tar(tars.file("d/a"))
    upper = tars.tar(tars.file("d", b"new"), tars.white("d/a"))
    assert applied(lower, upper).keys() == {b"", b"d"}


def test_whiteout_hides_nothing_of_its_own_layer() -> None:
    lower = tars.tar(tars.file("a", b"old"), tars.file("d/old"), tars.file("e/old"))
    upper = tars.tar(
        tars.file("a", b"new"),
        tars.white("a"),
        tars.file("d/new"),
        tars.white("d"),
        tars.white("e"),
        tars.file("e/new"),
    )
    with disks.made() as device:
        disks.apply(device, lower, upper)
        expected = {b"", b"a", b"d", b"d/new", b"e", b"e/new"}
        assert disks.tree(device).keys() == expected
        assert disks.read(device, "a") == b"new"


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_opaque_folder_wherever_the_marker_is(place: int) -> None:
    lower = tars.tar(tars.file("d/old"), tars.file("d/sub/old"), tars.file("d/gone/x"))
    members = [tars.folder("d", mode=0o700), tars.file("d/new"), tars.file("d/sub/new")]
    members.insert(place, tars.opaque("d"))
    found = applied(lower, tars.tar(*members))
    assert found.keys() == {b"", b"d", b"d/new", b"d/sub", b"d/sub/new"}
    assert found[b"d"].mode == stat.S_IFDIR | 0o700


def test_opaque_root_keeps_what_e2fsck_needs() -> None:
    layer = tars.tar(
        tars.file("b"), tars.file(".wh..wh..opq"), tars.white("lost+found")
    )
    with disks.made() as device:
        disks.apply(device, tars.tar(tars.file("a")), layer)
        with ext4.open_file_system(device) as fs:
            assert fs.list() == [b"b", b"lost+found"]


def test_aufs_leaves_no_traces() -> None:
    assert one(tars.file(".wh..wh.plnk/1.2"), tars.file("d/.wh..wh.aufs")).keys() == {
        b""
    }


@pytest.mark.parametrize("name", [".wh.", "d/.wh..", "d/.wh..."])
def test_whiteout_of_nothing(name: str) -> None:
    assert "whiteout" in str(refused(tars.tar(tars.folder("d"), tars.file(name))))
