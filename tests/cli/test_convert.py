# SPDX-License-Identifier: Apache-2.0
"""test_convert - `obd convert`: what goes in comes out, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.test_main import OBD, one_sentence
from tests.running import Ran
from tests.stacks import SIZE, UUIDS, Image
from tests.tools import environment, requires, tool

Obd = Callable[..., Ran]


@pytest.fixture
def raw(image: Image, tmp_path: Path) -> Path:
    """The disk of the image as a file."""
    path = tmp_path / "disk.raw"
    path.write_bytes(image.disk)
    return path


def read_back(obd: Obd, *image: Path) -> bytes:
    return obd("convert", "-O", "raw", *image, "-").out


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_flatten_to_raw(obd: Obd, image: Image, tmp_path: Path) -> None:
    target = tmp_path / "flat.raw"
    words = ("convert", "-O", "raw", "--output=json")
    facts = obd(*words, image.config, target).json()
    assert target.read_bytes() == image.disk
    assert facts["format"] == "raw"
    assert facts["virtual-size"] == SIZE
    assert facts["actual-size"] == target.stat().st_blocks * 512 < SIZE / 2


def test_flatten_to_layer(obd: Obd, image: Image, tmp_path: Path) -> None:
    target = tmp_path / "flat.obd"
    obd("convert", *image.layers, target)
    assert read_back(obd, target) == image.disk


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--compress=none",),
        ("--compress=zstd", "--level=9", "--block-size=64k"),
        ("--compress=lz4", "--block-size=16384", "--tar"),
    ],
)
def test_raw_to_layer_and_back(
    obd: Obd, image: Image, raw: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = tmp_path / "layer.obd"
    facts = obd("convert", "--output=json", *words, raw, target).json()
    assert facts["virtual-size"] == SIZE
    assert facts["file-size"] == target.stat().st_size
    assert facts["digest"] == f"sha256:{digest(target)}"
    assert facts["ratio"] == round(facts["data-bytes"] / facts["file-size"], 3)
    assert read_back(obd, target) == image.disk


def test_options_reach_the_layer(obd: Obd, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "layer.obd"
    words: list[str] = ["--compress", "zstd", "--block-size", "32k", "--tar"]
    words += ["--uuid", UUIDS[0], "--parent-uuid", UUIDS[1], "--message", "Grüße"]
    obd("convert", *words, raw, target)
    (layer,) = obd("info", "--output=json", target).json()["layers"]
    assert layer["codec"] == "zstd"
    assert layer["block-size"] == 32 << 10
    assert layer["tar"] == "pax"
    assert (layer["uuid"], layer["parent-uuid"]) == (UUIDS[0], UUIDS[1])
    assert layer["message"] == "Grüße"


def test_threads_do_not_show(obd: Obd, raw: Path, tmp_path: Path) -> None:
    made = {
        obd("convert", "--threads", n, "--output=json", raw, tmp_path / n).json()[
            "digest"
        ]
        for n in ("1", "2", "7")
    }
    assert len(made) == 1


@pytest.mark.parametrize("by_config", [True, False])
def test_base(obd: Obd, image: Image, tmp_path: Path, by_config: bool) -> None:
    disk = bytearray(image.disk)
    disk[1 << 20 : (1 << 20) + 5000] = Random(1).randbytes(5000)
    disk[2 << 20 : (2 << 20) + 65536] = bytes(65536)
    raw, target = tmp_path / "changed.raw", tmp_path / "layer.obd"
    raw.write_bytes(disk)
    bases = [image.config] if by_config else image.layers
    words: list[Any] = [word for base in bases for word in ("--base", base)]
    facts = obd("convert", "--output=json", *words, raw, target).json()
    assert 5000 < facts["data-bytes"] <= 3 * 4096
    assert 0 < facts["zero-bytes"] <= 65536
    assert read_back(obd, *image.layers, target) == disk
    (layer,) = obd("info", "--output=json", target).json()["layers"]
    assert layer["parent-uuid"] == UUIDS[2]


def test_pipes(obd: Obd, image: Image, raw: Path, tmp_path: Path) -> None:
    piped = obd("convert", "--output=json", "-", "-", stdin=image.disk)
    target = tmp_path / "layer.obd"
    target.write_bytes(piped.out)
    assert json.loads(piped.err)["digest"] == f"sha256:{digest(target)}"
    obd("convert", raw, tmp_path / "other.obd")
    assert target.read_bytes() == (tmp_path / "other.obd").read_bytes()
    assert read_back(obd, target) == image.disk


def test_golden_digests(obd: Obd, golden: Path) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())
    layers = [folder / f"layer{number}.lsmt" for number in range(6)]
    for number, layer in enumerate(known["layers"]):
        alone = hashlib.sha256(read_back(obd, layers[number])).hexdigest()
        assert alone == layer["alone_sha256"]
        stack = hashlib.sha256(read_back(obd, *layers[: number + 1])).hexdigest()
        assert stack == known["stacks"][str(number + 1)]["sha256"]
    for name, expected in [
        ("layer1.sealed", known["layers"][1]["alone_sha256"]),
        ("merged.zfile", known["disk_sha256"]),
    ]:
        assert hashlib.sha256(read_back(obd, folder / name)).hexdigest() == expected


@pytest.mark.parametrize("height", [1, 2, 3])
def test_golden_file_system(
    obd: Obd, golden: Path, tmp_path: Path, height: int
) -> None:
    folder, target = golden / "ext4-c", tmp_path / "disk.raw"
    known = json.loads((folder / "expected.json").read_text())["layers"]
    layers = [folder / f"layer{number}.obd" for number in range(height)]
    obd("convert", "-O", "raw", *layers, target)
    with target.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    assert found == known[height - 1]["device_sha256"]
    assert target.stat().st_blocks * 512 < 64 << 20


@requires("qemu-img")
@pytest.mark.parametrize("size", [512, 4608, 1 << 20, 5 * 512 + 7])
def test_odd_sizes_as_qemu_has_them(obd: Obd, tmp_path: Path, size: int) -> None:
    raw, layer, back = (tmp_path / name for name in ("a.raw", "a.obd", "b.raw"))
    raw.write_bytes(Random(size).randbytes(size))
    ran = obd("convert", raw, layer)
    assert ("not whole sectors" in ran.err) == (size % 512 != 0)
    obd("convert", "-O", "raw", layer, back)
    command = [tool("qemu-img"), "compare", "-f", "raw", "-F", "raw", raw, back]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "identical" in done.stdout, done


def test_incompressible_blocks_of_64k(obd: Obd, tmp_path: Path) -> None:
    raw, layer = tmp_path / "a.raw", tmp_path / "a.obd"
    raw.write_bytes(Random(1).randbytes(1 << 20))
    ran = obd("convert", "--block-size=64k", "--output=json", raw, layer)
    assert ran.json()["block-size"] == 32768
    assert ran.err.startswith("obd: note: ")
    assert read_back(obd, layer) == raw.read_bytes()


def test_target_is_replaced_in_one_step(obd: Obd, raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "layer.obd"
    target.write_bytes(b"before")
    with target.open("rb") as before:
        obd("convert", raw, target)
        assert before.read() == b"before"
    assert target.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "layer.obd"]


def test_failure_leaves_the_target_alone(
    obd: Obd, image: Image, damaged: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    target = folder / "disk.raw"
    target.write_bytes(b"before")
    ran = obd("convert", "-O", "raw", damaged, target, code=3)
    assert str(damaged) in one_sentence(ran)
    assert target.read_bytes() == b"before"
    assert list(folder.iterdir()) == [target]


def test_target_that_is_read_as_well(obd: Obd, image: Image, raw: Path) -> None:
    before = [path.read_bytes() for path in image.layers]
    for words in [
        (raw, raw),
        (*image.layers, image.layers[0]),
        (image.config, image.layers[2]),
        (image.config, image.config),
        ("--base", image.config, raw, image.layers[1]),
        ("--base", image.layers[0], raw, image.layers[0]),
    ]:
        one_sentence(obd("convert", *words, code=2))
    assert [path.read_bytes() for path in image.layers] == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("a.raw", "b.raw", "c.obd", "-f", "raw"), 2),
        (("-O", "raw", "disk.raw", "x"), 2),
        (("-O", "raw", "--level", "3", "{layer}", "x"), 2),
        (("-O", "raw", "--base", "{layer}", "{layer}", "x"), 2),
        (("--compress=none", "--block-size=8k", "disk.raw", "x"), 2),
        (("--block-size", "5k", "disk.raw", "x"), 2),
        (("--block-size", "128k", "disk.raw", "x"), 2),
        (("--level", "99", "disk.raw", "x"), 2),
        (("--uuid", "no-uuid", "disk.raw", "x"), 2),
        (("--message", "m" * 300, "disk.raw", "x"), 2),
        (("--threads", "0", "disk.raw", "x"), 2),
        (("-O", "qcow2", "disk.raw", "x"), 2),
        (("-f", "obd", "-", "x"), 2),
        (("disk.raw", "no/such/folder/x"), 1),
        (("missing.raw", "x"), 1),
        (("-O", "raw", "missing.obd", "x"), 1),
        (("-f", "obd", "disk.raw", "x"), 3),
    ],
)
def test_refused(
    obd: Obd, image: Image, raw: Path, words: tuple[str, ...], code: int
) -> None:
    filled = [word.format(layer=image.layers[0]) for word in words]
    one_sentence(obd("convert", *filled, cwd=raw.parent, code=code))
    assert list(raw.parent.iterdir()) == [raw]


def test_other_formats_are_not_taken_for_raw(obd: Obd, tmp_path: Path) -> None:
    disk, target = tmp_path / "disk.qcow2", tmp_path / "layer.obd"
    disk.write_bytes(b"QFI\xfb" + bytes(9 * 512 - 4))
    assert "qcow2" in one_sentence(obd("convert", disk, target, code=3))
    obd("convert", "-f", "raw", disk, target)
    assert read_back(obd, target) == disk.read_bytes()


def on_a_terminal(*words: str) -> bytes:
    """Run obd with a terminal as standard error, and return what it showed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        [OBD, *words], stdout=subprocess.DEVNULL, stderr=theirs, env=environment()
    ) as process:
        os.close(theirs)
        shown = b""
        # The terminal gives EIO when nobody has it open any more.
        while (data := _read(ours)) is not None:
            shown += data
    os.close(ours)
    assert process.returncode == 0
    return shown


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, 4096)
    except OSError:
        return None


def test_progress_on_a_terminal_only(image: Image, raw: Path, tmp_path: Path) -> None:
    for words in (
        ["convert", str(raw), str(tmp_path / "x")],
        ["convert", "-O", "raw", str(image.config), str(tmp_path / "y")],
        ["check", str(image.config)],
    ):
        assert words[0].encode() in on_a_terminal(*words)
        assert on_a_terminal(*words, "--no-progress") == b""
