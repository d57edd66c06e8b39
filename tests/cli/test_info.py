# SPDX-License-Identifier: Apache-2.0
"""test_info - `obd info` against what is known about images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import Ran
from tests.stacks import SIZE, UUIDS, Image
from tests.twins import writer

Obd = Callable[..., Ran]

# What the names of the golden variants mean.
VARIANTS = {
    "plain": (None, None, None),
    "lz4-4k": ("lz4", 4096, None),
    "lz4-64k-tar": ("lz4", 65536, "pax"),
    "zstd-16k": ("zstd", 16384, None),
    "lz4-4k-tar": ("lz4", 4096, "pax"),
    "zstd-4k-tar-mt": ("zstd", 4096, "pax"),
}


def test_json(obd: Obd, image: Image) -> None:
    facts = obd("info", "--output", "json", image.config).json()
    assert facts["virtual-size"] == SIZE
    assert facts["format"] == "obd"
    assert facts["filename"] == str(image.config)
    layers = facts["layers"]
    assert [layer["uuid"] for layer in layers] == UUIDS
    assert [layer["parent-uuid"] for layer in layers[1:]] == UUIDS[:2]
    assert [layer["message"] for layer in layers] == ["layer 0", "layer 1", "layer 2"]
    assert [Path(layer["filename"]) for layer in layers] == image.layers
    assert [layer["codec"] for layer in layers] == [None, "lz4", "zstd"]
    assert [layer["block-size"] for layer in layers] == [None, 65536, 16384]
    assert [layer["tar"] for layer in layers] == [None, "pax", None]
    assert [layer["crc"] for layer in layers] == [False, True, True]
    assert layers[2]["entries"] == 3
    assert layers[2]["data-bytes"] == 64 * 512
    assert layers[2]["zero-bytes"] == 56 * 512
    sizes = [path.stat().st_size for path in image.layers]
    assert [layer["file-size"] for layer in layers] == sizes
    assert facts["actual-size"] == sum(layer["actual-size"] for layer in layers)
    assert facts["index"]["entries"] > 0
    assert facts["index"]["memory"] >= 16 * facts["index"]["entries"]


def test_config_and_files_are_the_same_image(obd: Obd, image: Image) -> None:
    by_config = obd("info", "--output=json", image.config).json()
    by_files = obd("info", "--output=json", *image.layers).json()
    assert by_config["layers"] == by_files["layers"]


def test_human_form_is_readable(obd: Obd, image: Image) -> None:
    folder = image.config.parent
    text = obd("info", "config.v1.json", cwd=folder).text
    for word in (
        "4 MiB (4194816 bytes)",
        "lz4, 64 KiB blocks with crc",
        "layer 2",
        "zstd",
    ):
        assert word in text
    lines = [line for line in text.splitlines() if str(folder) not in line]
    assert max(map(len, lines)) < 80


def test_message_cannot_steer_the_terminal(obd: Obd, tmp_path: Path) -> None:
    raw = writer.lsmt([], SIZE, writer.Lsmt(message=b"\x1b]0;x\x07\r\nlayer"))
    path = tmp_path / "layer.obd"
    path.write_bytes(raw)
    assert "\x1b" not in obd("info", path).text
    assert obd("info", "--output=json", path).json()["layers"][0]["message"]


@pytest.mark.parametrize("number", range(6))
def test_golden(obd: Obd, golden: Path, number: int) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())["layers"][number]
    facts = obd("info", "--output=json", folder / known["committed"]).json()
    (layer,) = facts["layers"]
    codec, block_size, tar = VARIANTS[known["variant"]]
    assert facts["virtual-size"] == 64 << 20
    assert layer["uuid"].lower() == known["uuid"]
    assert layer["entries"] == known["index_entries"]
    assert (layer["codec"], layer["block-size"], layer["tar"]) == (
        codec,
        block_size,
        tar,
    )


def test_golden_stack(obd: Obd, golden: Path) -> None:
    layers = [golden / "blocks-a" / f"layer{n}.lsmt" for n in range(6)]
    facts = obd("info", "--output=json", *layers).json()
    assert len(facts["layers"]) == 6
    # Another merge may cut runs differently; it cannot need more than all cuts.
    known = json.loads((golden / "blocks-a" / "expected.json").read_text())
    assert (
        0
        < facts["index"]["entries"]
        <= 2 * sum(layer["index_entries"] for layer in known["layers"])
    )
