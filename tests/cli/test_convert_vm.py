# SPDX-License-Identifier: Apache-2.0
"""test_convert_vm - `obd convert` with image files of virtual machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.test_main import OBD, one_sentence
from tests.nbd import programs
from tests.ops import images, vm_files
from tests.ops.vm_files import MIB, qemu_img, qemu_io
from tests.running import PATIENCE, Ran
from tests.stacks import Image
from tests.tools import environment, requires, tool

pytestmark = vm_files.NEEDED

Obd = Callable[..., Ran]

DISK = images.random_disk(Random(41), 800)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.sparse(tmp_path / "disk.raw", DISK)


@pytest.fixture
def chain(raw: Path, tmp_path: Path) -> list[Path]:
    """A raw disk and two qcow2 files over it."""
    files = [raw]
    for number, form in enumerate(["raw", "qcow2"], 1):
        path = tmp_path / f"top{number}.qcow2"
        vm_files.overlay(path, Path(files[-1].name), form)
        qemu_io(path, f"write -P {number} {number}M 100k", "write -z 64k 64k")
        files.append(path)
    return files


def read_back(obd: Obd, *image: Path) -> bytes:
    return obd("convert", "-O", "raw", *image, "-").out


def flat(path: Path, form: str = "qcow2") -> bytes:
    return vm_files.flat(path, path.with_suffix(".flat"), form)


# -- In


def test_chain_into_a_folder(obd: Obd, chain: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "image"
    facts = obd("convert", "--verify", "--output=json", chain[-1], folder).json()
    config = folder / "config.v1.json"
    assert facts["filename"] == str(config)
    assert facts["virtual-size"] == len(DISK)
    assert [one["source"] for one in facts["layers"]] == [str(path) for path in chain]
    assert read_back(obd, config) == flat(chain[-1])
    for number in (1, 2):
        layers = [Path(one["filename"]) for one in facts["layers"][: number + 1]]
        assert read_back(obd, *layers) == flat(chain[number])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.v1.json", "layer0.obd", "layer1.obd", "layer2.obd"]
    assert obd("check", config).code == 0


@pytest.mark.parametrize("words", [(), ("--flatten",)])
def test_chain_into_a_file(
    obd: Obd, chain: list[Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = tmp_path / "layer.obd"
    ran = obd("convert", *words, "--output=json", chain[-1], target)
    assert ("3 files as one layer" in ran.err) == (not words)
    assert ran.json()["filename"] == str(target)
    assert read_back(obd, target) == flat(chain[-1])


def test_flatten_into_a_folder(obd: Obd, chain: list[Path], tmp_path: Path) -> None:
    obd("convert", "--flatten", chain[-1], tmp_path / "a")
    obd("convert", chain[-1], tmp_path / "b.obd")
    made = (tmp_path / "a" / "layer0.obd").read_bytes()
    assert made == (tmp_path / "b.obd").read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("slash", ["", "/"])
def test_raw_disk_into_a_folder(
    obd: Obd, raw: Path, tmp_path: Path, slash: str
) -> None:
    folder = tmp_path / "image"
    if not slash:
        folder.mkdir()
    obd("convert", "--verify", raw, f"{folder}{slash}")
    assert read_back(obd, folder / "config.v1.json") == DISK


def test_odd_raw_disk_into_a_folder(obd: Obd, tmp_path: Path) -> None:
    raw = images.full(tmp_path / "disk.raw", b"x" * 1000)
    ran = obd("convert", raw, f"{tmp_path}/image/")
    assert "1000 bytes are not whole sectors" in ran.err
    made = read_back(obd, tmp_path / "image" / "config.v1.json")
    assert made == b"x" * 1000 + bytes(24)


def test_stack_into_a_folder(obd: Obd, image: Image, tmp_path: Path) -> None:
    obd("convert", "--verify", image.config, f"{tmp_path}/image/")
    assert read_back(obd, tmp_path / "image" / "config.v1.json") == image.disk


def test_same_layer_from_every_format(obd: Obd, raw: Path, tmp_path: Path) -> None:
    made = set()
    for form in ("raw", "qcow2", "vmdk", "vdi"):
        path = raw
        if form != "raw":
            path = vm_files.write(raw, tmp_path / f"disk.{form}", form)
        for words in ((), ("-f", form)):
            target = tmp_path / "layer.obd"
            facts = obd("convert", "--output=json", *words, path, target).json()
            made.add(facts["digest"])
    assert len(made) == 1


def test_options_of_the_layer(obd: Obd, raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    words: list[str] = ["--compress", "zstd", "--block-size", "32k", "--tar"]
    obd("convert", *words, "--message", "hello", path, tmp_path / "image")
    config = tmp_path / "image" / "config.v1.json"
    (layer,) = obd("info", "--output=json", config).json()["layers"]
    assert (layer["codec"], layer["block-size"], layer["tar"]) == ("zstd", 32768, "pax")
    assert layer["message"] == "hello"


def test_base(obd: Obd, chain: list[Path], tmp_path: Path) -> None:
    base, layer = tmp_path / "base.obd", tmp_path / "layer.obd"
    obd("convert", chain[0], base)
    words = ("convert", "--base", base, "--verify", "--output=json")
    facts = obd(*words, chain[-1], layer).json()
    assert facts["data-bytes"] < MIB
    assert read_back(obd, base, layer) == flat(chain[-1])


def test_snapshot(obd: Obd, raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    qemu_img("snapshot", "-c", "before", path)
    qemu_io(path, "write -P 9 0 1M")
    target = tmp_path / "layer.obd"
    for word in ("before", "1"):
        obd("convert", "--verify", "--snapshot", word, path, target)
        assert read_back(obd, target) == DISK
    ran = obd("convert", "--snapshot", "never", path, target, code=2)
    assert "it has 1 (before)" in one_sentence(ran)


def test_secret(obd: Obd, raw: Path, tmp_path: Path) -> None:
    key = vm_files.secret(tmp_path / "key")
    path = vm_files.encrypted(tmp_path / "disk", raw, key, "qcow2", vm_files.LUKS)
    target = tmp_path / "layer.obd"
    assert "encrypted with LUKS" in one_sentence(obd("convert", path, target, code=3))
    obd("convert", "--secret", f"file={key}", path, target)
    assert read_back(obd, target) == DISK


@requires("sfdisk", "mke2fs")
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_partitions(obd: Obd, tmp_path: Path, form: str) -> None:
    disk, tree = tmp_path / "disk.raw", tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "usr").mkdir()
    ext4 = tmp_path / "root.ext4"
    subprocess.run(
        [tool("mke2fs"), "-q", "-t", "ext4", "-d", tree, ext4, "8M"], check=True
    )
    disk.write_bytes(bytes(MIB) + Random(1).randbytes(MIB) + ext4.read_bytes())
    script = "label: dos\nsize=1M, type=82\nsize=8M, type=83\n"
    subprocess.run([tool("sfdisk"), "-q", disk], input=script.encode(), check=True)
    raw = disk.read_bytes()
    path = disk if form == "raw" else vm_files.write(disk, tmp_path / "d.qcow2", form)
    target = tmp_path / "layer.obd"
    for word, part in [
        ("1", raw[MIB : 2 * MIB]),
        ("2", raw[2 * MIB :]),
        ("root", raw[2 * MIB :]),
    ]:
        obd("convert", "--verify", "--partition", word, path, target)
        assert read_back(obd, target) == part
    ran = obd("convert", "--partition", "3", path, target, code=2)
    assert "1 (1 MiB, type 0x82), 2 (8 MiB, type 0x83)" in one_sentence(ran)


def test_relative_names_and_odd_characters(obd: Obd, raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'a, "b" {c}: d'
    folder.mkdir()
    raw = raw.rename(folder / "disk,x.raw")
    vm_files.write(raw, folder / "base,1.qcow2", "qcow2")
    vm_files.overlay(folder / "ü.qcow2", Path("base,1.qcow2"), "qcow2")
    obd("convert", "--verify", "ü.qcow2", "image", cwd=folder)
    assert read_back(obd, folder / "image" / "config.v1.json") == DISK


# -- Out


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("qcow2", ()),
        ("qcow2", ("-c", "-o", "compression_type=zstd", "-o", "cluster_size=32k")),
        ("vmdk", ()),
        ("vmdk", ("-c",)),
        ("vhdx", ()),
        ("vdi", ()),
        ("vpc", ()),
    ],
)
def test_there_and_back(
    obd: Obd, image: Image, tmp_path: Path, form: str, words: tuple[str, ...]
) -> None:
    path, layer = tmp_path / f"disk.{form}", tmp_path / "layer.obd"
    how = ("convert", "-O", form, *words, "--verify", "--output=json")
    facts = obd(*how, image.config, path).json()
    assert facts["format"] == form
    assert facts["virtual-size"] == len(image.disk)
    assert flat(path, form) == image.disk
    obd("convert", "--verify", path, layer)
    assert read_back(obd, layer) == image.disk


def test_raw_that_is_compared(obd: Obd, image: Image, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    obd("convert", "-O", "raw", "--verify", image.config, target)
    assert target.read_bytes() == image.disk
    assert target.stat().st_blocks * 512 < len(image.disk)


def test_chain_out(obd: Obd, image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "chain"
    how = ("convert", "-O", "qcow2", "--chain", "--verify", "--output=json")
    facts = obd(*how, image.config, folder).json()
    assert facts["filename"] == str(folder / "layer2.qcow2")
    assert [row["source"] for row in facts["files"]] == [str(p) for p in image.layers]
    assert flat(folder / "layer2.qcow2") == image.disk


def test_writable_image_out(obd: Obd, image: Image, tmp_path: Path) -> None:
    """Whole it has what was written; a chain is of layers only."""
    obd("create", image.config, tmp_path / "vm")
    config = tmp_path / "vm" / "config.v1.json"
    script = "qemu-io -f raw -c 'write -P 7 1M 64k' $uri"
    obd("serve", "--read-write", config, "--", "sh", "-c", script)
    expected = bytearray(image.disk)
    expected[MIB : MIB + 65536] = b"\7" * 65536
    obd("convert", "-O", "qcow2", "--verify", config, tmp_path / "disk.qcow2")
    assert flat(tmp_path / "disk.qcow2") == expected
    how = ("convert", "-O", "qcow2", "--chain", config, tmp_path / "chain")
    assert "obd commit" in one_sentence(obd(*how, code=2))


# -- Refused


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--flatten", "disk.raw", "x"), 2, "--flatten"),
        (("--snapshot", "1", "disk.raw", "x"), 2, "--snapshot"),
        (("--secret", "file=disk.raw", "disk.raw", "x"), 2, "--secret"),
        (("--secret", "disk.raw", "disk.qcow2", "x"), 2, "file=PATH"),
        (("--secret", "file=gone", "disk.qcow2", "x"), 2, "gone"),
        (("--partition", "one", "disk.qcow2", "x"), 2, "neither"),
        (("--partition", "1", "disk.qcow2", "x.obd"), 3, "no partition table"),
        (("--verify", "disk.qcow2", "-"), 2, "--verify"),
        (("--verify", "-", "x"), 2, "--verify"),
        (("--base", "{layer}", "disk.qcow2", "x/"), 2, "--base"),
        (("disk.qcow2", "disk.qcow2"), 2, "read as well"),
        (("top.qcow2", "disk.qcow2"), 2, "read as well"),
        (("--compress=none", "--level=1", "disk.qcow2", "x"), 2, "--level"),
        (("-f", "qcow2", "disk.raw", "x"), 3, "not in qcow2 format"),
        (("-f", "vmdk", "disk.qcow2", "x"), 3, "disk.qcow2"),
        (("-f", "qcow2", "gone", "x"), 1, "no such file"),
        (("disk.qcow2", "no/such/folder/x.obd"), 1, "no/such/folder"),
        (("disk.qcow2", "no/such/folder/x"), 1, "no/such/folder"),
        (("-O", "qcow2", "disk.raw", "x"), 2, "qemu-img convert"),
        (("-O", "vmdk", "disk.qcow2", "x"), 2, "qemu-img convert"),
        (("-O", "raw", "disk.qcow2", "x"), 2, "qemu-img convert"),
        (("-O", "qcow2", "{layer}", "-"), 2, "pipe"),
        (("-O", "qcow2", "-", "x"), 2, "-"),
        (("-O", "vdi", "-c", "{layer}", "x"), 2, "no compressed"),
        (("-O", "vdi", "--chain", "{layer}", "x"), 2, "--chain"),
        (("-O", "qcow2", "--chain", "-c", "{layer}", "x"), 2, "compressed"),
        (("-O", "qcow2", "--flatten", "{layer}", "x"), 2, "--flatten"),
        (("-O", "qcow2", "--tar", "{layer}", "x"), 2, "--tar"),
        (("-O", "qcow2", "-o", "cluster_size=1", "{layer}", "x"), 2, "luster size"),
        (("-c", "disk.qcow2", "x"), 2, "--compressed"),
        (("-o", "a=b", "disk.qcow2", "x"), 2, "--create-options"),
    ],
)
def test_refused(
    obd: Obd, image: Image, raw: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    folder = raw.parent
    vm_files.write(raw, folder / "disk.qcow2", "qcow2")
    vm_files.overlay(folder / "top.qcow2", Path("disk.qcow2"), "qcow2")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    filled = [word.format(layer=image.layers[0]) for word in words]
    ran = obd("convert", *filled, cwd=folder, code=code)
    lines = [line for line in ran.err.splitlines() if "note:" not in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_without_qemu(obd: Obd, raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    for name in ("QEMU_IMG", "QEMU_NBD"):
        ran = obd(
            "convert", path, tmp_path / "x.obd", code=1, env={name: "/no/such/program"}
        )
        assert "apt-get install qemu-utils" in one_sentence(ran)


# -- Interrupted


def slow_tool(path: Path, name: str) -> dict[str, str]:
    """Return variables with which `name` says that it runs and then never ends."""
    script = path / name
    script.write_text(f"#!/bin/sh\ntouch {path}/running\nexec sleep 1000\n")
    script.chmod(0o755)
    return {name.upper().replace("-", "_"): str(script)}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["qemu-img", "qemu-nbd"])
def test_signals(raw: Path, tmp_path: Path, name: str, signum: int) -> None:
    """The tool ends with us, and nothing is left."""
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    tools = tmp_path / "tools"
    tools.mkdir()
    variables = environment(**slow_tool(tools, name), TMPDIR=str(tools))
    before = set(tmp_path.iterdir())
    with subprocess.Popen(
        [OBD, "convert", str(path), str(tmp_path / "image")],
        env=variables,
        start_new_session=True,
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not (tools / "running").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (child,) = (os.pidfd_open(int(pid)) for pid in children.read_text().split())
        process.send_signal(signum)
        assert process.wait(PATIENCE) == -signum
        assert process.stderr is not None
        assert process.stderr.read() == b""
    programs.wait_for_end(child)
    assert set(tmp_path.iterdir()) == before
    assert {one.name for one in tools.iterdir()} == {name, "running"}


def test_server_that_dies(obd: Obd, raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    script = tmp_path / "nbd"
    script.write_text("#!/bin/sh\necho 'qemu-nbd: cannot do that today' >&2\nexit 1\n")
    script.chmod(0o755)
    env = {"QEMU_NBD": str(script)}
    ran = obd("convert", path, tmp_path / "x.obd", code=3, env=env)
    assert "cannot do that today" in one_sentence(ran)


def test_facts_are_stable(obd: Obd, chain: list[Path], tmp_path: Path) -> None:
    ran = obd("convert", "--output=json", chain[-1], tmp_path / "image")
    facts: dict[str, Any] = json.loads(ran.out)
    assert set(facts) == {"filename", "format", "virtual-size", "layers"}
    keys = {"source", "filename", "digest", "virtual-size", "data-bytes", "zero-bytes"}
    assert all(keys <= set(layer) for layer in facts["layers"])
    text = obd("convert", chain[-1], tmp_path / "again").text
    assert "layer2.obd:" in text
    assert f"from {chain[-1]}" in text
