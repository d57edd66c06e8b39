# SPDX-License-Identifier: Apache-2.0
"""test_host_fs - images as XFS and NTFS, written by the host's own tools."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.errors import BadTar, Unsupported, UsageError
from obdengine.ops.build import BuildOptions
from obdengine.ops.convert import to_layer, to_raw
from obdengine.ops.host_fs import HostMake
from obdengine.ops.put import put_on_top
from obdengine.units import GIB, MIB
from tests.nbd import programs, tree
from tests.oci_images import make_layout, small_tar
from tests.ops.test_build import converted
from tests.tools import environment, requires

pytestmark = requires("root", "mount", "loop", "unshare")

MOUNTS = {"xfs": "-t xfs -o loop,ro,norecovery", "ntfs": "-t ntfs-3g -o ro,permissions"}


def put(tar: bytes, dst: Path, *below: Path, kind: str = "xfs") -> list[str]:
    base = resolve(below) if below else None
    size = None if below else 320 * MIB
    make = HostMake(kind, "named")

    def opened() -> Any:
        return nullcontext(io.BytesIO(tar))

    return put_on_top(opened, dst, name="tar", base=base, size=size, make=make)[1]


def mounted(kind: str, folder: Path, *layers: Path) -> dict[str, Any]:
    """Return the facts about each file of a stack, as this host sees it."""
    disk, place = folder / "disk", folder / "mounted"
    with obdengine.open(layers) as device:
        to_raw(device, disk)
    place.mkdir(exist_ok=True)
    script = f'mount {MOUNTS[kind]} "$1" "$2"; "$3" "$4" "$2"; umount "$2"'
    words = ["unshare", "--mount", "sh", "-ec", script, "sh", str(disk), str(place)]
    words += [sys.executable, tree.__file__]
    done = subprocess.run(words, capture_output=True, env=environment(), check=True)
    return {item["path"]: item for item in json.loads(done.stdout)}


@requires("mkfs.xfs", "xfs_repair")
def test_golden_tree_as_xfs(golden: Path, tmp_path: Path) -> None:
    tars = [(golden / "ext4-c" / f"layer{n}.tar").read_bytes() for n in range(3)]
    layout = make_layout(tmp_path / "layout", tars)
    options = BuildOptions(size=GIB, host=HostMake("xfs"))
    built = converted(layout, tmp_path / "image", options)
    assert len(built.layers) == 3
    layers = [tmp_path / "image" / f"layer-{n}.obd" for n in (1, 2, 3)]
    assert layers[2].stat().st_size < MIB
    found = mounted("xfs", tmp_path, *layers)
    programs.output("xfs_repair", "-n", "-f", tmp_path / "disk")
    expected = json.loads((golden / "ext4-c" / "expected.json").read_text())["tree"]
    assert found == {x["path"]: x for x in expected if x["path"] != "lost+found"}


@requires("mkntfs", "ntfs-3g")
def test_ntfs(tmp_path: Path) -> None:
    one, two = tmp_path / "1.obd", tmp_path / "2.obd"
    put(small_tar(a="1" * 5000, b="2"), one, kind="ntfs")
    put(small_tar(**{".wh.a": "", "c": "3"}), two, one)
    found = mounted("ntfs", tmp_path, one, two)
    assert set(found) == {"b", "c"}
    assert {item["mode"] for item in found.values()} == {"0o100644"}


@requires("mkfs.xfs")
def test_nothing_leads_out_of_the_file_system(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spool = io.BytesIO()
    with tarfile.open(fileobj=spool, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name in ("link/a", "../../../../../../b", f"{outside}/c", "link/../d"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    put(spool.getvalue(), tmp_path / "1.obd")
    assert list(outside.iterdir()) == []
    found = mounted("xfs", tmp_path, tmp_path / "1.obd")
    inside = str(outside).lstrip("/")
    assert {"link", "b", "d", f"{inside}/a", f"{inside}/c"} <= set(found)


@requires("mkfs.xfs")
def test_whiteouts(tmp_path: Path) -> None:
    one, two = tmp_path / "1.obd", tmp_path / "2.obd"
    put(small_tar(**{"d/a": "1", "d/b": "1", "e/f/g": "1", "h": "1"}), one)
    upper = {"d/new": "2", "d/.wh..wh..opq": "", ".wh.e": "", ".wh.h": "", "h": "2"}
    put(small_tar(**upper), two, one)
    assert set(mounted("xfs", tmp_path, one, two)) == {"d", "d/new", "h"}


@requires("mkfs.xfs")
def test_what_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadTar):
        put(small_tar(a="1" * 5000)[:3000], tmp_path / "1.obd")
    options = BuildOptions(size=MIB, host=HostMake("xfs"))
    layout = make_layout(tmp_path / "layout", [small_tar(a="1")])
    with pytest.raises(UsageError, match=r"mkfs\.xfs refuses"):
        converted(layout, tmp_path / "image", options)
    (tmp_path / "raw").write_bytes(b"no file system" * 10_000 + bytes(288))
    to_layer(tmp_path / "raw", tmp_path / "raw.obd")
    with pytest.raises(Unsupported, match="what fills the disk"):
        put(small_tar(a="1"), tmp_path / "1.obd", tmp_path / "raw.obd")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["layout", "raw", "raw.obd"]
    mounts = Path("/proc/self/mounts").read_text()
    assert str(tmp_path) not in mounts
