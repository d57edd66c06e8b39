# SPDX-License-Identifier: Apache-2.0
"""
test_hostile - tars that are made to do harm.

Whatever a tar says, either the file system is sound afterwards, or there was a
typed error that names the member. Nothing outside the disk is ever touched.
"""

from __future__ import annotations

import io
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine import ext4
from obdengine.errors import BadTar, LimitError
from obdengine.units import MIB
from tests.ext4 import disks, tars
from tests.ext4.disks import refused
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")

LAYER = (
    tars.tar(
        tars.folder("d", mtime=5.5),
        tars.file("d/a", b"x" * 5000, xattrs={"user.x": b"y" * 50}),
        tars.symlink("s", "d/../d"),
        tars.file("s/b", b"z"),
        tars.link("l", "d/a"),
        tars.member("c", b"3", devmajor=1, devminor=3),
        tars.white("d/old"),
    )[: -20 * tars.BLOCK]
    + tars.raw_records([(b"GNU.sparse.size", b"9000"), (b"GNU.sparse.map", b"0,4")])
    + tars.header(b"sparse", 4)
    + tars.padded(b"data")
    + tars.tar(tars.file("n" * 150, b"q"), tars.folder("d/e"), format=1)
)
INTERESTING = b"\0\1\x7f\x80\xff/.017xgLKS \n="


def mended(raw: bytearray) -> bytes:
    """Give every header block the checksum that it should have."""
    for at in range(0, len(raw) - tars.BLOCK + 1, tars.BLOCK):
        if raw[at + 257 : at + 262] == b"ustar":
            block = raw[at : at + tars.BLOCK]
            block[148:156] = b" " * 8
            raw[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(raw)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(LAYER) - 1),
            st.sampled_from(list(INTERESTING)),
        ),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_changed_bytes(changes: list[tuple[int, int]], mend: bool) -> None:
    raw = bytearray(LAYER)
    for at, value in changes:
        raw[at] = value
    applied_or_refused(mended(raw) if mend else bytes(raw))


def applied_or_refused(raw: bytes) -> None:
    with disks.made(size=8 * MIB) as device:
        disks.apply(device, tars.tar(tars.file("d/old")))
        try:
            ext4.apply_layer(device, io.BytesIO(raw))
        except (BadTar, LimitError):
            return
        disks.check(device)
        disks.tree(device)


@pytest.mark.soak
def test_changed_bytes_for_long() -> None:
    chance = random.Random(os.environ.get("OBD_SEED", "1"))
    headers = range(0, len(LAYER), tars.BLOCK)
    for _ in range(3000):
        raw = bytearray(LAYER)
        for _ in range(chance.randrange(1, 8)):
            at = chance.choice(headers) + chance.randrange(tars.BLOCK)
            raw[min(at, len(raw) - 1)] = chance.choice(INTERESTING)
        applied_or_refused(mended(raw))


def test_nothing_leaves_the_disk() -> None:
    """Absolute names, links up and away, devices of the host: all on the disk."""
    layer = tars.tar(
        tars.symlink("up", "../../../../../../../tmp"),
        tars.file("up/obdengine-was-here", b"x"),
        tars.file("/../../tmp/obdengine-was-here-too", b"x"),
    )
    with disks.made() as device:
        disks.apply(device, layer)
        found = disks.tree(device)
    assert b"tmp/obdengine-was-here" in found
    assert b"tmp/obdengine-was-here-too" in found
    assert not os.path.lexists("/tmp/obdengine-was-here")
    assert not os.path.lexists("/tmp/obdengine-was-here-too")
    assert "not there" in str(refused(tars.tar(tars.link("l", "../../etc/passwd"))))


def test_claims_of_any_size() -> None:
    for size in (1 << 33, 1 << 40, (1 << 62) - 1):
        layer = tars.raw_records([(b"size", b"%d" % size)]) + tars.header(b"f") + b"x"
        assert "ends in the middle" in str(refused(layer))


def test_deep_paths() -> None:
    """As deep as a name can be in a tar; nothing here is recursive."""
    deep = "d/" * 20_000 + "f"
    layer = tars.tar(tars.file(deep))
    options = ext4.MakeOptions(inodes=30_000)
    with disks.made(options, size=256 * MIB) as device:
        disks.apply(device, tars.tar(tars.file(deep), tars.opaque("d")))
        disks.apply(device, layer, tars.tar(tars.white("d")))
        assert disks.tree(device).keys() == {b""}


def test_links_that_lead_to_links() -> None:
    chain = [tars.symlink(f"l{i}", f"l{i + 1}") for i in range(200)]
    short = tars.tar(*chain, tars.folder("l200"), tars.file("l0/f"))
    with disks.made() as device:
        disks.apply(device, short)
        assert b"l200/f" in disks.tree(device)
    blow = [tars.symlink(f"b{i}", f"b{i + 1}/../b{i + 1}") for i in range(20)]
    assert "too many symbolic links" in str(refused(tars.tar(*blow, tars.file("b0/f"))))
