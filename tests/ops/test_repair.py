# SPDX-License-Identifier: Apache-2.0
"""test_repair - what a crash leaves in a log is found, and can be taken out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.errors import Busy, ReadOnly
from obdengine.ops.check import Report, check_image, repair
from obdengine.segment import Segment
from tests.ops import writing
from tests.ops.writing import FORMS, Writable
from tests.twins.record import pack_one


def checked(image: Writable) -> Report:
    found = resolve([image.config])
    return check_image(found.layers, upper=found.upper)


def index_of(image: Writable) -> Path:
    found = resolve([image.config]).upper
    assert found
    assert found.index
    return found.index


def far(image: Writable) -> int:
    """Return a sector that is not in the data file."""
    return len(image.disk) // 512 * 50


DAMAGE: dict[str, Callable[[Writable], bytes]] = {
    "were never written": lambda _: bytes(32),
    "past the end of the disk": lambda image: pack_one(
        Segment(len(image.disk) // 512 - 1, 2, 8)
    ),
    "not in the data file": lambda image: pack_one(Segment(0, 8, far(image))),
    "half a record": lambda _: b"\1\2\3\4\5\6\7",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind(tmp_path: Path, form: str, kind: str) -> None:
    chance = Random(len(kind))
    image = writing.make(chance, tmp_path, form)
    image.write(chance, 30)
    assert checked(image).damage == []
    with index_of(image).open("ab") as index:
        index.write(DAMAGE[kind](image))
    (damage,) = checked(image).damage
    assert kind in str(damage)
    assert damage.name == str(index_of(image))
    image.check()
    # Looking has changed nothing.
    assert len(checked(image).damage) == 1
    (repaired,) = repair(image.config).repaired
    assert repaired.what == damage.what
    assert checked(image).damage == []
    assert repair(image.config).repaired == []
    image.check()
    image.write(chance, 30)
    image.check()


def test_all_at_once(tmp_path: Path) -> None:
    chance = Random(1)
    image = writing.make(chance, tmp_path, "append")
    image.write(chance, 30)
    with index_of(image).open("ab") as index:
        for make in DAMAGE.values():
            index.write(make(image))
    assert len(checked(image).damage) == len(repair(image.config).repaired) == 4
    image.check()


def test_damaged_layer_below(tmp_path: Path) -> None:
    """The log can be repaired, a layer cannot."""
    chance = Random(2)
    image = writing.make(chance, tmp_path, "append")
    raw = bytearray(image.lowers[0].read_bytes())
    raw[-2000] ^= 255
    image.lowers[0].write_bytes(raw[:-1000])
    assert checked(image).damage
    assert repair(image.config).repaired == []
    assert checked(image).damage


def test_no_upper_at_all(tmp_path: Path) -> None:
    image = writing.make(Random(3), tmp_path, "append")
    index_of(image).write_bytes(b"x" * 5000)
    assert [type(error).__name__ for error in checked(image).damage] == ["BadMagic"]


def test_sparse_without_a_map(tmp_path: Path) -> None:
    """It is read by its holes, as overlaybd does, and that is said."""
    chance = Random(4)
    image = writing.make(chance, tmp_path, "sparse", 4096, 0)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(1 << 20, data := chance.randbytes(8192))
    image.disk[1 << 20 : (1 << 20) + 8192] = data
    index_of(image).unlink()
    (note,) = checked(image).notes
    assert "without a map file" in note
    image.check()
    repair(image.config)
    assert checked(image).notes == []
    image.check()


def test_in_use(tmp_path: Path) -> None:
    image = writing.make(Random(5), tmp_path, "append")
    with obdengine.open(image.config, readonly=False):
        report = checked(image)
        assert "in use by process" in report.notes[0]
        assert report.damage == []
        with pytest.raises(Busy):
            repair(image.config)
    with pytest.raises(ReadOnly):
        repair(image.lowers[0])


def test_golden_upper(golden: Path, tmp_path: Path) -> None:
    """Groups of padding are no damage."""
    for end in ("data", "index"):
        name = f"layer1.{end}"
        shutil.copyfile(golden / "blocks-a" / name, tmp_path / name)
    config = tmp_path / "config.v1.json"
    upper = '{"data": "layer1.data", "index": "layer1.index"}'
    config.write_text(f'{{"upper": {upper}}}')
    found = resolve([config])
    assert check_image(found.layers, upper=found.upper).damage == []
    assert repair(config).repaired == []
