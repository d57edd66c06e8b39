# SPDX-License-Identifier: Apache-2.0
"""test_read - bytes that NBD clients get: golden digests, odd sizes, odd reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.nbd import programs
from tests.running import Export
from tests.stacks import SIZE, Image
from tests.tools import requires
from tests.twins import writer
from tests.twins.writer import Lsmt, Run, ZFile

Served = Callable[..., Export]

pytestmark = requires("nbdcopy", "nbdinfo")


def keys(*layers: Path) -> list[str]:
    return [f"config={path}" for path in layers]


def expected(golden: Path, name: str) -> dict[str, object]:
    return dict(json.loads((golden / name / "expected.json").read_text()))


@pytest.mark.parametrize("number", range(6))
def test_golden_layer_alone(served: Served, golden: Path, number: int) -> None:
    known = expected(golden, "blocks-a")["layers"][number]  # type: ignore[index]
    path = golden / "blocks-a" / known["committed"]
    assert programs.sha256(served(*keys(path)).uri) == known["alone_sha256"]


@pytest.mark.parametrize("height", range(1, 7))
def test_golden_stack(served: Served, golden: Path, height: int) -> None:
    folder = golden / "blocks-a"
    known = expected(golden, "blocks-a")["stacks"][str(height)]  # type: ignore[index]
    layers = [folder / f"layer{number}.lsmt" for number in range(height)]
    assert programs.sha256(served(*keys(*layers)).uri) == known["sha256"]


def test_golden_sealed(served: Served, golden: Path) -> None:
    folder = golden / "blocks-a"
    known = expected(golden, "blocks-a")["layers"][1]  # type: ignore[index]
    uri = served(*keys(folder / "layer1.sealed")).uri
    assert programs.sha256(uri) == known["alone_sha256"]


def test_golden_merged(served: Served, golden: Path) -> None:
    uri = served(*keys(golden / "blocks-a" / "merged.zfile")).uri
    assert programs.sha256(uri) == expected(golden, "blocks-a")["disk_sha256"]


@pytest.mark.parametrize("height", [1, 2, 3])
def test_golden_file_system(served: Served, golden: Path, height: int) -> None:
    known = expected(golden, "ext4-c")["layers"][height - 1]  # type: ignore[index]
    layers = [golden / "ext4-c" / f"layer{number}.obd" for number in range(height)]
    assert programs.sha256(served(*keys(*layers)).uri) == known["device_sha256"]


def test_config_file(served: Served, image: Image) -> None:
    uri = served(f"config={image.config}", "readonly=true").uri
    assert programs.output("nbdcopy", uri, "-") == image.disk


@requires("qemu-img")
@pytest.mark.parametrize("size", [512, 1536, 4096, 65536 + 512, SIZE])
def test_qemu_sees_the_same_disk(served: Served, tmp_path: Path, size: int) -> None:
    disk = Random(size).randbytes(size)
    layer, raw = tmp_path / "layer.obd", tmp_path / "disk.raw"
    layer.write_bytes(writer.zfile(_layer(disk), ZFile(block_size=8192)))
    raw.write_bytes(disk)
    uri = served(*keys(layer)).uri
    words = ["compare", "-f", "raw", "-F", "raw", str(raw), uri]
    assert b"identical" in programs.output("qemu-img", *words)
    assert int(programs.output("nbdinfo", "--size", uri)) == size


def _layer(disk: bytes) -> bytes:
    step = 16383 * 512
    runs = [Run(at // 512, disk[at : at + step]) for at in range(0, len(disk), step)]
    return writer.lsmt(runs, len(disk), Lsmt())


@requires("qemu-io")
def test_unaligned_reads_by_qemu_io(served: Served, image: Image) -> None:
    uri = served(f"config={image.config}").uri
    commands = []
    for offset, length in [(0, 1), (511, 2), (4095, 4099), (SIZE - 1, 1)]:
        pattern = image.disk[offset]
        if image.disk[offset : offset + length] == bytes([pattern]) * length:
            commands += ["-c", f"read -P {pattern} {offset} {length}"]
        commands += ["-c", f"read {offset} {length}"]
    out = programs.output("qemu-io", "-r", "-f", "raw", *commands, uri)
    assert b"failed" not in out


@requires("python3-libnbd")
def test_any_offset_and_length(served: Served, image: Image, tmp_path: Path) -> None:
    truth = tmp_path / "disk.raw"
    truth.write_bytes(image.disk)
    script = (
        "import random\n"
        "disk = open(sys.argv[2], 'rb').read()\n"
        "h.connect_uri(sys.argv[1])\n"
        "chance = random.Random(1)\n"
        "for _ in range(2000):\n"
        "    at = chance.randrange(len(disk))\n"
        "    n = min(chance.choice([1, 511, 513, 4097, 70001]), len(disk) - at)\n"
        "    assert h.pread(n, at) == disk[at:at + n], (at, n)\n"
        "h.cache(len(disk), 0)\n"
    )
    programs.libnbd(script, served(f"config={image.config}").uri, str(truth))


@requires("python3-libnbd")
def test_reads_past_the_end_and_writes_are_refused(
    served: Served, image: Image
) -> None:
    script = (
        "h.set_strict_mode(0)\n"
        "h.connect_uri(sys.argv[1])\n"
        "size = h.get_size()\n"
        "for call in (lambda: h.pread(512, size), lambda: h.pread(1024, size - 512),\n"
        "             lambda: h.pwrite(bytes(512), 0), lambda: h.zero(512, 0)):\n"
        "    try:\n"
        "        call()\n"
        "    except nbd.Error as error:\n"
        "        print(error.errno)\n"
    )
    said = programs.libnbd(script, served(f"config={image.config}").uri)
    assert said.split() == [b"EINVAL", b"EINVAL", b"EPERM", b"EPERM"]


@requires("python3-libnbd")
def test_many_connections_read_at_once(served: Served, image: Image) -> None:
    export = served(f"config={image.config}", options=["--threads", "8"])
    script = (
        "import hashlib, threading\n"
        "want, seen = sys.argv[2], []\n"
        "def read():\n"
        "    h = nbd.NBD()\n"
        "    h.connect_uri(sys.argv[1])\n"
        "    size, disk = h.get_size(), bytearray()\n"
        "    for at in range(0, size, 65536):\n"
        "        disk += h.pread(min(65536, size - at), at)\n"
        "    seen.append(hashlib.sha256(disk).hexdigest() == want)\n"
        "threads = [threading.Thread(target=read) for _ in range(32)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "assert seen == [True] * 32, seen\n"
    )
    programs.libnbd(script, export.uri, _digest(image.disk))
    assert export.stop() == 0


def test_many_requests_and_connections_by_nbdcopy(served: Served, image: Image) -> None:
    uri = served(f"config={image.config}").uri
    words = ("--connections=4", "--requests=64", "--request-size=4096")
    assert programs.sha256(uri, *words) == _digest(image.disk)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@requires("python3-libnbd")
def test_one_extent_goes_through_all_layers(served: Served, tmp_path: Path) -> None:
    """Which layer bytes are of does not matter to who asks what is data."""
    layers = [tmp_path / "below.obd", tmp_path / "above.obd"]
    for number, layer in enumerate(layers):
        starts = range(8 * number, 1600, 16)
        runs = [Run(start, bytes([1]) * 4096) for start in starts]
        layer.write_bytes(writer.lsmt(runs, 3200 * 512))
    script = (
        "h.add_meta_context('base:allocation')\n"
        "h.connect_uri(sys.argv[1])\n"
        "def show(context, offset, entries, error):\n"
        "    print(offset, *entries[:2])\n"
        "for at in (0, 1600 * 512):\n"
        "    size = h.get_size() - at\n"
        "    h.block_status(size, at, show, flags=nbd.CMD_FLAG_REQ_ONE)\n"
    )
    uri = served(*keys(*layers)).uri
    data, hole = programs.libnbd(script, uri).decode().splitlines()
    assert data.split() == ["0", str(1600 * 512), "0"]
    assert hole.split() == [str(1600 * 512), str(1600 * 512), "3"]
