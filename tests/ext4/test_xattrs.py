# SPDX-License-Identifier: Apache-2.0
"""test_xattrs - extended attributes, and access control lists among them."""

from __future__ import annotations

import pytest

from obdengine import ext4
from tests.ext4 import disks, tars
from tests.ext4.disks import applied, one, refused
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")


# -- Extended attributes

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
ACL = bytes.fromhex(
    "02000000 0100 0600 ffffffff 0200 0400 e8030000 0400 0400 ffffffff"
    "1000 0400 ffffffff 2000 0000 ffffffff"
)


def test_extended_attributes() -> None:
    values = {
        "security.capability": CAPABILITY,
        "user.note": b"hello",
        "user.empty": b"",
        "user.bytes": bytes(range(256)),
        "trusted.overlay.x": b"y",
        "system.posix_acl_access": ACL,
    }
    found = one(
        tars.file("f", b"x", xattrs=values),
        tars.folder("d", xattrs={"system.posix_acl_default": ACL}),
        tars.symlink("s", "f", xattrs={"trusted.t": b"1"}),
    )
    assert found[b"f"].xattrs == {key.encode(): value for key, value in values.items()}
    assert found[b"d"].xattrs == {b"system.posix_acl_default": ACL}
    assert found[b"s"].xattrs == {b"trusted.t": b"1"}


@pytest.mark.parametrize("features", [(), ("^extent", "^64bit")])
def test_attributes_outside_the_inode(features: tuple[str, ...]) -> None:
    """They take a block, which counts as one of the file's."""
    values = {"user.a": b"x" * 300}
    layer = tars.tar(
        tars.folder("d", xattrs=values),
        tars.file("d/f", b"data", xattrs=values),
        tars.symlink("s", "t" * 100, xattrs={"trusted.a": b"y" * 300}),
        tars.member("c", b"3", xattrs=values),
    )
    gone = tars.tar(*[tars.white(name) for name in "dsc"])
    with disks.made(ext4.MakeOptions(features=features)) as device:
        disks.apply(device, layer)
        found = disks.tree(device)
        for path, blocks in ((b"d", 16), (b"d/f", 16), (b"s", 16), (b"c", 8)):
            assert found[path].blocks == blocks
            assert len(found[path].xattrs) == 1
        disks.apply(device, gone)
        with ext4.open_file_system(device) as fs:
            assert fs.list() == [b"lost+found"]


def test_attributes_of_a_folder_are_replaced() -> None:
    lower = tars.tar(tars.folder("d", xattrs={"user.a": b"1", "user.b": b"2"}))
    upper = tars.tar(tars.folder("d", xattrs={"user.b": b"3"}))
    assert applied(lower, upper)[b"d"].xattrs == {b"user.b": b"3"}
    assert applied(lower, tars.tar(tars.folder("d")))[b"d"].xattrs == {}


def test_attributes_as_libarchive_writes_them() -> None:
    layer = tars.raw_records([(b"LIBARCHIVE.xattr.user.%C3%A9", b"AAEC/w")])
    found = applied(layer + tars.header(b"f"))
    assert found[b"f"].xattrs == {b"user.\xc3\xa9": b"\0\1\2\xff"}


def test_attributes_that_ext4_has_no_place_for() -> None:
    layer = tars.tar(tars.file("f", xattrs={"com.apple.x": b"1", "user.a": b"2"}))
    with disks.made() as device:
        (done,) = disks.apply(device, layer)
        assert disks.tree(device)[b"f"].xattrs == {b"user.a": b"2"}
    assert done.notes == ["f: ext4 has no place for the extended attribute com.apple.x"]


@pytest.mark.parametrize(
    "value", [b"", b"\2\0\0", ACL[:-1], b"\3" + ACL[1:], ACL[:4] + b"\x07" + ACL[5:]]
)
def test_broken_access_lists(value: bytes) -> None:
    layer = tars.tar(tars.file("f", xattrs={"system.posix_acl_access": value}))
    assert "access control list" in str(refused(layer))


def test_more_attributes_than_there_is_room_for() -> None:
    layer = tars.tar(tars.file("f", xattrs={"user.a": b"x" * 5000}))
    assert "more extended attributes than" in str(refused(layer))


ENTRIES = b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---"


@pytest.mark.parametrize(
    "text",
    [
        ENTRIES,
        ENTRIES.replace(b",", b"\n") + b"\n",
        b"user::rw-,user:lisa:r--:1000,group::r--,mask::r--,other::---",
        b"other::---,mask::r--,group::r--,user:1000:r--,user::rw-",
    ],
)
def test_access_lists_as_text(text: bytes) -> None:
    records = [(b"SCHILY.acl.access", text), (b"SCHILY.acl.default", text)]
    layer = tars.raw_records(records) + tars.header(b"d", kind=b"5")
    assert applied(layer)[b"d"].xattrs == {
        b"system.posix_acl_access": ACL,
        b"system.posix_acl_default": ACL,
    }


def test_access_lists_that_say_what_the_mode_does() -> None:
    text = b"user::rw-,group::r--,other::r--"
    layer = tars.raw_records([(b"SCHILY.acl.access", text)]) + tars.header(b"f")
    assert applied(layer)[b"f"].xattrs == {}


@pytest.mark.parametrize("text", [b"user:lisa:r--", b"", b"user:99999999999:r--", b"x"])
def test_access_lists_of_people_without_numbers(text: bytes) -> None:
    layer = tars.raw_records([(b"SCHILY.acl.access", text)]) + tars.header(b"f")
    with disks.made() as device:
        (done,) = disks.apply(device, layer)
        assert disks.tree(device)[b"f"].xattrs == {}
    assert done.notes == [
        "f: ext4 has no place for the extended attribute SCHILY.acl.access"
    ]
