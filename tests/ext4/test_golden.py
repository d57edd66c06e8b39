# SPDX-License-Identifier: Apache-2.0
"""test_golden - the layers that overlaybd's own tools were given, by ours."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

from obdengine import ext4
from obdengine.device import Device
from obdengine.units import GIB
from tests.ext4 import disks
from tests.tools import requires

pytestmark = requires("mke2fs", "e2fsck")


def described(device: Device) -> dict[str, dict[str, object]]:
    """Return the tree in the words of expected.json."""
    found = {}
    with ext4.open_file_system(device) as fs:
        for entry in fs.walk():
            row: dict[str, object] = {
                "path": entry.path.decode(),
                "mode": oct(entry.mode),
                "uid": entry.uid,
                "gid": entry.gid,
                "nlink": entry.links,
            }
            if stat.S_ISLNK(entry.mode):
                row["link"] = entry.target.decode()
            if stat.S_ISREG(entry.mode):
                row["size"] = entry.size
                data = fs.read_file(entry.path)
                row["sha256"] = hashlib.sha256(data).hexdigest()
            if entry.xattrs:
                row["xattr"] = {k.decode(): v.hex() for k, v in entry.xattrs.items()}
            found[entry.path.decode()] = row
    del found[""]
    return found


def test_tree_is_that_of_overlaybd(golden: Path) -> None:
    home = golden / "ext4-c"
    expected = json.loads((home / "expected.json").read_text())
    layers = [(home / row["tar"]).read_bytes() for row in expected["layers"]]
    digests = set()
    for _ in range(2):
        with disks.made(size=GIB) as device:
            disks.apply(device, *layers)
            assert described(device) == {row["path"]: row for row in expected["tree"]}
            digests.add(disks.digest(device))
    assert len(digests) == 1
