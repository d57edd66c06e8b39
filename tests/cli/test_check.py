# SPDX-License-Identifier: Apache-2.0
"""test_check - `obd check` finds damage, says where, and exits with 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import Ran
from tests.stacks import Image, block_offset

Obd = Callable[..., Ran]


def test_clean(obd: Obd, image: Image) -> None:
    ran = obd("check", image.config)
    assert "no errors" in ran.text
    assert ran.err == ""
    facts = obd("check", "--output=json", image.config).json()
    assert facts["damage"] == []
    assert facts["corruptions"] == 0
    assert facts["layers"] == 3
    assert facts["blocks"] > 0
    assert facts["checked-bytes"] > 0


def test_flipped_byte(obd: Obd, image: Image, damaged: Path) -> None:
    files = [image.layers[0], damaged, image.layers[2]]
    text = obd("check", *files, code=3).text
    assert str(damaged) in text
    assert "1 error found" in text
    facts = obd("check", "--output", "json", *files, code=3).json()
    assert facts["corruptions"] == 1
    (damage,) = facts["damage"]
    assert damage["filename"] == str(damaged)
    assert damage["kind"] == "BadChecksum"
    assert damage["offset"] == block_offset(image)
    assert damage["message"] in text


def test_every_damaged_layer_is_listed(obd: Obd, image: Image, damaged: Path) -> None:
    facts = obd("check", "--output=json", damaged, damaged, code=3).json()
    assert facts["corruptions"] == 2


def test_unreadable_layer_is_damage_too(obd: Obd, image: Image, tmp_path: Path) -> None:
    cut = tmp_path / "cut.obd"
    cut.write_bytes(image.layers[1].read_bytes()[:-5000])
    facts = obd("check", "--output=json", image.layers[0], cut, code=3).json()
    assert facts["corruptions"] >= 1
    assert {damage["filename"] for damage in facts["damage"]} == {str(cut)}


@pytest.mark.parametrize("name", ["blocks-a", "ext4-c"])
def test_golden_is_clean(obd: Obd, golden: Path, name: str) -> None:
    folder = golden / name
    layers = sorted([*folder.glob("layer?.lsmt"), *folder.glob("layer?.obd")])
    assert "no errors" in obd("check", *layers).text


@pytest.mark.parametrize("name", ["layer1.sealed", "merged.zfile"])
def test_other_golden_forms_are_clean(obd: Obd, golden: Path, name: str) -> None:
    assert "no errors" in obd("check", golden / "blocks-a" / name).text
