# SPDX-License-Identifier: Apache-2.0
"""test_upper - the life of a writable layer, as it is typed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import obdengine
from tests.cli.test_main import one_sentence
from tests.running import Ran
from tests.stacks import SIZE, UUIDS, Image

Obd = Callable[..., Ran]


def write(config: Path, offset: int, data: bytes) -> None:
    with obdengine.open(config, readonly=False) as device:
        device.pwrite(offset, data)


def read(*image: Path) -> bytes:
    with obdengine.open(image) as device:
        return device.pread(0, device.size)


@pytest.fixture
def writable(obd: Obd, image: Image, tmp_path: Path) -> Path:
    """The configuration of a writable layer over the image, written to."""
    obd("create", image.config, tmp_path / "vm")
    config = tmp_path / "vm" / "config.v1.json"
    write(config, 1 << 20, b"written" * 1000)
    write(config, 1 << 20, b"WRITTEN" * 1000)
    return config


@pytest.fixture
def disk(image: Image) -> bytes:
    """What the writable image reads as."""
    found = bytearray(image.disk)
    found[1 << 20 : (1 << 20) + 7000] = b"WRITTEN" * 1000
    return bytes(found)


@pytest.mark.parametrize("form", ["append", "sparse"])
def test_create(obd: Obd, image: Image, tmp_path: Path, form: str) -> None:
    words = ("create", "--output=json", "--form", form, "--max-size=2M")
    facts = obd(*words, *image.layers, tmp_path / "vm").json()
    assert facts["virtual-size"] == SIZE
    assert (facts["layers"], facts["form"]) == (3, form)
    assert facts["parent-uuid"] == UUIDS[2]
    said = json.loads(Path(facts["filename"]).read_text())
    assert said["obdengine"] == {"maxSize": 2 << 20}
    assert read(tmp_path / "vm" / "config.v1.json") == image.disk
    one_sentence(obd("create", *image.layers, tmp_path / "vm", code=2))


def test_create_a_disk(obd: Obd, tmp_path: Path) -> None:
    facts = obd("create", "--output=json", "--size=1M", tmp_path / "vm").json()
    assert (facts["virtual-size"], facts["layers"]) == (1 << 20, 0)
    assert facts["parent-uuid"] is None
    assert "--size" in one_sentence(obd("create", tmp_path / "other", code=2))


def test_create_a_larger_disk(obd: Obd, image: Image, tmp_path: Path) -> None:
    obd("create", "--size=8M", image.config, tmp_path / "vm")
    config = tmp_path / "vm" / "config.v1.json"
    assert read(config) == image.disk.ljust(8 << 20, b"\0")
    small = tmp_path / "small"
    said = one_sentence(obd("create", "--size=1M", image.config, small, code=2))
    assert "not zero" in said
    assert list(small.iterdir()) == []


def test_info_and_map(
    obd: Obd, image: Image, writable: Path, disk: bytes, tmp_path: Path
) -> None:
    facts = obd("info", "--output=json", writable).json()
    upper = facts["upper"]
    assert len(facts["layers"]) == 3
    assert upper["filename"] == str(writable.with_name("upper-1.data"))
    assert upper["data-bytes"] == 7168
    assert upper["garbage-bytes"] == 7168
    assert (upper["form"], upper["busy"], upper["state"]) == (
        "append",
        None,
        "writable",
    )
    assert (upper["damaged-records"], upper["segments"]) == (0, 1)
    # A folder means what is in it.
    text = obd("info", writable.parent).text
    assert "3 layers and a writable one" in text
    assert "garbage:       7 KiB" in text
    rows = obd("map", "--output=json", writable).json()
    (row,) = (row for row in rows if row["layer"] == 3)
    assert (row["start"], row["length"], row["depth"]) == (1 << 20, 7168, 0)
    assert min(row["depth"] for row in rows) == 0
    assert str(writable.with_name("upper-1.data")) in obd("map", writable).text
    assert obd("convert", "-O", "raw", writable.parent, "-").out == disk


def test_while_it_is_in_use(obd: Obd, writable: Path, tmp_path: Path) -> None:
    """Facts can be had; what reads or changes it is refused, naming the holder."""
    with obdengine.open(writable, readonly=False):
        upper = obd("info", "--output=json", writable).json()["upper"]
        assert f"in use by process {os.getpid()}" in upper["busy"]
        obd("map", writable)
        assert "not checked" in obd("check", writable).err
        for words in [
            ("commit", writable, tmp_path / "x"),
            ("seal", writable),
            ("resize", writable, "8M"),
            ("compact", writable),
            ("snapshot", writable),
            ("check", "--repair", writable),
            ("merge", writable, tmp_path / "x", "--config", writable),
            ("convert", "-O", "raw", writable, tmp_path / "x"),
        ]:
            said = one_sentence(obd(*words, code=2))
            assert f"process {os.getpid()} (" in said
    assert not (tmp_path / "x").exists()


def test_commit(
    obd: Obd, image: Image, writable: Path, disk: bytes, tmp_path: Path
) -> None:
    new, config = tmp_path / "new.obd", tmp_path / "new.json"
    words = ("commit", "--compress=zstd", "--tar", "--message=m", "--output=json")
    facts = obd(*words, writable, new, "--config", config).json()
    assert facts["digest"] == f"sha256:{hashlib.sha256(new.read_bytes()).hexdigest()}"
    assert facts["file-size"] == new.stat().st_size
    assert facts["parent-uuid"] == UUIDS[2]
    assert facts["data-bytes"] == 7168
    assert read(config) == read(writable) == disk
    layer = obd("info", "--output=json", new).json()["layers"][0]
    assert (layer["uuid"], layer["message"]) == (facts["uuid"], "m")
    assert (layer["codec"], layer["tar"]) == ("zstd", "pax")
    piped = obd("commit", "--uuid", UUIDS[0], writable, "-")
    text = obd("commit", "--uuid", UUIDS[0], writable, new).text
    assert piped.out == new.read_bytes()
    assert f"uuid:          {UUIDS[0]}" in text
    assert "sha256:" in piped.err


def test_seal(obd: Obd, writable: Path, disk: bytes) -> None:
    facts = obd("seal", "--output=json", writable).json()
    assert facts["layer"] == str(writable.with_name("upper-1.data"))
    assert facts["entries"] == 1
    assert read(writable) == disk
    assert "no writable layer" in one_sentence(obd("seal", writable, code=2))


def test_merge(obd: Obd, image: Image, writable: Path, disk: bytes) -> None:
    new = writable.with_name("merged.obd")
    words = ("merge", "--layers=1:3", "--output=json", "--config", writable)
    facts = obd(*words, writable, new).json()
    assert facts["uuid"] == UUIDS[2]
    assert facts["parent-uuid"] == UUIDS[0]
    assert facts["config"] == str(writable)
    assert read(writable) == disk
    assert read(image.layers[0], new) == image.disk
    obd("merge", *image.layers, new.with_name("all.obd"))
    assert read(new.with_name("all.obd")) == image.disk


def test_resize(obd: Obd, writable: Path, disk: bytes) -> None:
    facts = obd("resize", "--output=json", writable, "8M").json()
    assert (facts["virtual-size-before"], facts["virtual-size"]) == (SIZE, 8 << 20)
    assert "9 MiB" in obd("resize", writable, "+1M").text
    assert read(writable) == disk.ljust(9 << 20, b"\0")
    said = one_sentence(obd("resize", writable, "1M", code=2))
    assert "not zero" in said
    assert f"from {1 << 20} to" in said


@pytest.mark.parametrize("form", ["append", "sparse"])
def test_compact(obd: Obd, tmp_path: Path, form: str) -> None:
    obd("create", "--form", form, "--size=4M", tmp_path / "vm")
    config = tmp_path / "vm" / "config.v1.json"
    data = Random(1).randbytes(1 << 20)
    for _ in range(3):
        write(config, 0, data)
    facts = obd("compact", "--output=json", tmp_path / "vm").json()
    assert facts["actual-size"] <= facts["actual-size-before"]
    assert (1 << 20) < facts["actual-size"] < (1 << 20) + 50_000
    assert facts["records"] == 1
    assert "after:" in obd("compact", tmp_path / "vm").text
    assert read(config) == data.ljust(4 << 20, b"\0")


def test_snapshot(obd: Obd, writable: Path, disk: bytes, tmp_path: Path) -> None:
    facts = obd("snapshot", "--output=json", writable).json()
    assert facts["layer"] == str(writable.with_name("upper-1.data"))
    assert facts["data"] == str(writable.with_name("upper-2.data"))
    assert facts["layers"] == 4
    assert read(writable) == disk
    # As overlaybd's users ask for it.
    said = json.loads(writable.read_text())
    names = [*(row["file"] for row in said["lowers"]), said["upper"]["data"]]
    rows = [{"file": str(writable.parent / name)} for name in names]
    new = tmp_path / "new.json"
    upper = {"data": "new.data", "index": "new.index"}
    new.write_text(json.dumps({"lowers": rows, "upper": upper}))
    obd("snapshot", writable, "--config", new)
    assert read(writable) == read(new) == disk


def test_check_and_repair(obd: Obd, writable: Path, disk: bytes) -> None:
    index = writable.with_name("upper-1.index")
    with index.open("ab") as opened:
        opened.write(bytes(16) + b"half")
    facts = obd("check", "--output=json", writable, code=3).json()
    assert facts["corruptions"] == 2
    assert {row["kind"] for row in facts["damage"]} == {"BadIndex"}
    assert "1 damaged" in obd("info", writable).text
    text = obd("check", "--repair", writable).text
    assert text.count("repaired: ") == 2
    assert "no errors" in text
    facts = obd("check", "--output=json", "--repair", writable).json()
    assert (facts["corruptions"], facts["corruptions-fixed"]) == (0, 0)
    assert read(writable) == disk


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("commit", "{layer}", "x"), "no writable layer"),
        (("commit", "{config}", "{config}"), "cannot be the result"),
        (("commit", "{config}", "{data}"), "cannot be the result"),
        (("commit", "{config}", "x", "--config", "{data}"), "cannot be the result"),
        (("commit", "{config}", "-", "--config", "x"), "standard output"),
        (("commit", "{config}", "x", "--compress=none", "--level=3"), "--level"),
        (("seal", "docker://host/repo"), "only an image of this machine"),
        (("merge", "{config}", "x", "--layers", "1"), "1:3"),
        (("merge", "{config}", "x", "--layers", "3:4"), "there are no layers"),
        (("merge", "{config}", "{layer}"), "cannot be the result"),
        (("resize", "{config}", "large"), "not a size"),
        (("resize", "{layer}", "1M"), "no writable layer"),
        (("compact",), "--control"),
        (("compact", "{config}", "--control", "x"), "--control"),
        (("compact", "{config}", "--export", "x"), "--export"),
        (("snapshot",), "--control"),
        (("snapshot", "{config}", "--export", "x"), "--export"),
        (("snapshot", "{config}", "--config", "{layer}"), "JSON"),
        (("check", "--repair", "{layer}", "{layer}"), "--repair"),
        (("create", "--size=1M", "{config}", "vm2"), "writable layer already"),
    ],
)
def test_refused(
    obd: Obd, image: Image, writable: Path, words: tuple[str, ...], said: str
) -> None:
    before = {path: path.read_bytes() for path in writable.parent.iterdir()}
    names = {
        "config": writable,
        "data": writable.with_name("upper-1.data"),
        "layer": image.layers[0],
    }
    filled = [word.format(**names) for word in words]
    ran = obd(*filled, cwd=writable.parent, code=2)
    assert said in one_sentence(ran)
    assert {path: path.read_bytes() for path in writable.parent.iterdir()} == before


def test_nobody_at_the_socket(obd: Obd, tmp_path: Path) -> None:
    for command in ("snapshot", "compact"):
        ran = obd(command, "--control", tmp_path / "socket", code=1)
        assert "nobody answers" in one_sentence(ran)
