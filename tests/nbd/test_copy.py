# SPDX-License-Identifier: Apache-2.0
"""test_copy - QEMU's and libnbd's tools write disks into an upper, and read them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.nbd import disks, programs
from tests.nbd.disks import FORMS, MIB
from tests.running import Export, Ran
from tests.tools import requires, tool

Served = Callable[..., Export]
Obd = Callable[..., Ran]

SIZE = 16 * MIB

pytestmark = requires("qemu-img", "qemu-io", "nbdcopy", "nbdinfo")


@pytest.fixture(params=FORMS)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The keys for a new upper, in either form, over a disk that has data."""
    lower = tmp_path / "lower.lsmt"
    disks.lower(lower, SIZE)
    return [f"config={lower}", f"upper={tmp_path / 'upper'}", f"form={request.param}"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A raw disk with data, zeros and holes, that is shorter than the other."""
    chance, path = Random(8), tmp_path / "source.raw"
    with path.open("wb") as file:
        for start in range(0, SIZE - MIB, 3 * MIB // 2):
            file.seek(start)
            file.write(chance.randbytes(300_000) + bytes(200_000))
        file.truncate(SIZE - MIB)
    return path


def holes(export: Export) -> int:
    return sum(length for _, length, kind in programs.holes(export.uri) if kind)


def test_qemu_img_convert(served: Served, keys: list[str], source: Path) -> None:
    """Into the export, whose zeros take no room, and out again."""
    export = served(*keys)
    before = disks.content(export)
    programs.output("qemu-img", "convert", "-n", "-O", "raw", source, export.uri)
    expected = source.read_bytes() + before[SIZE - MIB :]
    assert disks.content(export) == expected
    assert holes(export) > SIZE // 2
    copy = source.with_suffix(".qcow2")
    programs.output("qemu-img", "convert", "-O", "qcow2", export.uri, copy)
    assert export.stop() == 0
    again = served(*keys)
    programs.output("qemu-img", "compare", copy, again.uri)
    assert disks.content(again) == expected


@pytest.mark.parametrize("options", [[], ["--allocated"], ["--destination-is-zero"]])
def test_nbdcopy(
    served: Served, keys: list[str], source: Path, options: list[str]
) -> None:
    export = served(*keys)
    trim = "h.connect_uri(sys.argv[1])\nh.trim(h.get_size(), 0)"
    programs.libnbd(trim, export.uri)
    programs.output("nbdcopy", "--flush", *options, source, export.uri)
    expected = source.read_bytes() + bytes(MIB)
    assert disks.content(export) == expected
    export.kill()
    assert disks.content(served(*keys)) == expected


QEMU_IO = """
write -P 1 0 64k
write -P 2 -f 70k 3k
aio_write -P 3 100k 1M
aio_write -P 4 2M 512
aio_write -z -u 3M 1M
aio_flush
write -z 4M 64k
write -zu 5M 128k
writev -P 5 6M 512 4k 1k
discard 7M 1M
write -P 6 7340544 512
flush
read -P 1 0 64k
read -P 2 70k 3k
read -P 3 100k 1M
read -P 4 2M 512
read -P 0 3M 1M
read -P 0 4M 64k
read -P 0 5M 128k
read -P 5 6M 5632
read -P 0 7M 512
read -P 6 7340544 512
read -P 0 7341056 1047552
"""


@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough"])
def test_qemu_io(served: Served, keys: list[str], cache: str) -> None:
    """In every mode of caching; writethrough is FUA."""
    export = served(*keys)
    done = subprocess.run(
        [tool("qemu-io"), "-f", "raw", "-d", "unmap", "-t", cache, export.uri],
        input=QEMU_IO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout + done.stderr, done.stdout
    content = disks.content(export)
    export.kill()
    assert disks.content(served(*keys)) == content


def test_qcow2_inside(served: Served, keys: list[str], source: Path) -> None:
    """An overlay of QEMU's that lies in the export, as snapshots of guests do."""
    export = served(*keys)
    inner = ["-f", "qcow2", export.uri]
    programs.output("qemu-img", "create", "-q", *inner, "8M")
    programs.output("qemu-io", *inner, "-c", "write -P 9 1M 2M", "-c", "discard 2M 64k")
    programs.output("qemu-img", "check", *inner)
    export.kill()
    again = served(*keys)
    programs.output("qemu-io", "-f", "qcow2", again.uri, "-c", "read -P 9 1M 1M")
    programs.output("qemu-img", "check", "-f", "qcow2", again.uri)


def test_served_by_obd(obd: Obd, tmp_path: Path, source: Path) -> None:
    """`obd serve` with a folder for what is written; then that is the image."""
    lower, upper = tmp_path / "lower.lsmt", tmp_path / "mine"
    before = disks.lower(lower, SIZE)
    command = ["qemu-img", "convert", "-n", "-O", "raw", source, "$uri"]
    obd("serve", lower, "--upper", upper, "--form", "sparse", "--", *command)
    expected = source.read_bytes() + before[SIZE - MIB :]
    config = upper / "config.v1.json"
    assert obd("serve", config, "--", "nbdcopy", "$uri", "-").out == expected
    words = ("-f", "raw", "-c", "write -P 7 0 1M", "$uri")
    obd("serve", "-w", config, "--", "qemu-io", *words)
    found = obd("serve", config, "--", "nbdcopy", "$uri", "-").out
    assert found == b"\7" * MIB + expected[MIB:]
    assert (
        "Permission denied" in obd("serve", config, "--", "qemu-io", *words, code=1).err
    )
