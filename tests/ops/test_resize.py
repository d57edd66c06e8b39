# SPDX-License-Identifier: Apache-2.0
"""test_resize - a larger disk has zeros at its end, a smaller one has lost nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.device import Device
from obdengine.errors import Busy, ReadOnly, UsageError
from obdengine.layer import Upper, open_upper
from obdengine.ops.check import check_image
from obdengine.ops.commit import commit
from obdengine.ops.resize import resize
from obdengine.units import SECTOR
from tests.ops import writing
from tests.ops.writing import FORMS, Writable


def change(image: Writable, size: int) -> None:
    """Resize, and do the same to the array."""
    if size < len(image.disk):
        with obdengine.open(image.config, readonly=False) as device:
            device.write_zeroes(size, device.size - size)
    resize(image.config, size)
    if size < len(image.disk):
        del image.disk[size:]
    else:
        image.disk.extend(bytes(size - len(image.disk)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(8))
def test_up_and_down(tmp_path: Path, form: str, seed: int) -> None:
    """What layers below have past the end does not come back."""
    chance = Random(seed)
    image = writing.make(chance, tmp_path, form, 2000, seed % 3)
    for _ in range(8):
        image.write(chance, 15)
        size = chance.choice([chance.randint(1, 4000), chance.randint(1800, 2100)])
        change(image, size * SECTOR)
        image.check()
        found = resolve([image.config])
        assert check_image(found.layers, upper=found.upper).damage == []
    commit(image.config, tmp_path / "x")
    assert writing.read(*image.lowers, tmp_path / "x") == image.disk


@pytest.mark.parametrize("form", FORMS)
def test_an_entry_over_the_new_end_is_cut(tmp_path: Path, form: str) -> None:
    image = writing.make(Random(1), tmp_path, form, 1000, 0)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(490 * SECTOR, b"x" * 10 * SECTOR + bytes(30 * SECTOR))
    image.disk[490 * SECTOR : 500 * SECTOR] = b"x" * 10 * SECTOR
    resize(image.config, 500 * SECTOR)
    del image.disk[500 * SECTOR :]
    image.check()
    resize(image.config, 600 * SECTOR)
    image.disk.extend(bytes(100 * SECTOR))
    image.check()


@pytest.mark.parametrize("form", FORMS)
def test_data_is_not_cut_off(tmp_path: Path, form: str) -> None:
    image = writing.make(Random(2), tmp_path, form, 9000, 0)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(5000 * SECTOR, b"x" + bytes(3 << 20 >> 1) + b"x")
    last = (5000 * SECTOR + (3 << 20 >> 1) + 1) // SECTOR * SECTOR + SECTOR
    before = image.read()
    with pytest.raises(UsageError) as caught:
        resize(image.config, 4000 * SECTOR)
    assert f"past byte {4000 * SECTOR}, from {5000 * SECTOR} to {last}" in str(
        caught.value
    )
    assert "1 KiB that are not zero" in str(caught.value)
    assert image.read() == before
    resize(image.config, last)


def test_data_of_lower_layers_is_not_cut_off(tmp_path: Path) -> None:
    image = writing.make(Random(3), tmp_path, "append", 2000, 2)
    last = len(image.disk.rstrip(b"\0"))
    with pytest.raises(UsageError, match="not zero"):
        resize(image.config, (last - 1) // SECTOR * SECTOR)
    resize(image.config, -(-last // SECTOR) * SECTOR)
    assert image.read() == image.disk[: -(-last // SECTOR) * SECTOR]


@pytest.mark.parametrize("size", [0, -512, 100, 1 << 60])
def test_no_size(tmp_path: Path, size: int) -> None:
    image = writing.make(Random(4), tmp_path, "append")
    with pytest.raises(UsageError):
        resize(image.config, size)
    image.check()


def test_while_somebody_writes(tmp_path: Path) -> None:
    image = writing.make(Random(5), tmp_path, "append")
    with obdengine.open(image.config, readonly=False), pytest.raises(Busy):
        resize(image.config, 1 << 20)
    with pytest.raises(ReadOnly):
        resize(image.lowers[0], 1 << 20)


class _CutError(Exception):
    pass


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("size", [1200, 3000])
def test_cut_off_in_between(
    tmp_path: Path, form: str, steps: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of its steps the disk is the old one or the new one."""
    chance = Random(steps)
    image = writing.make(chance, tmp_path, form, 2000, 2)
    image.write(chance, 30)
    with obdengine.open(image.config, readonly=False) as device:
        if size < 2000:
            device.write_zeroes(size * SECTOR, device.size - size * SECTOR)
            image.disk[size * SECTOR :] = bytes(len(image.disk) - size * SECTOR)
    left = [steps]
    for name in ("compact_index", "_write_size"):
        monkeypatch.setattr(Upper, name, _counted(getattr(Upper, name), left))
    try:
        resize(image.config, size * SECTOR)
        assert steps > 1
    except _CutError:
        assert steps < 3
    monkeypatch.undo()
    wanted = bytes(image.disk).ljust(size * SECTOR, b"\0")[: size * SECTOR]
    assert image.read() in (bytes(image.disk), wanted)
    found = resolve([image.config]).upper
    assert found
    with Device([], "upper", open_upper(found.data, found.index)):
        pass  # repaired
    assert image.read() in (bytes(image.disk), wanted)


def _counted(step: object, left: list[int]) -> object:
    def run(*args: object) -> None:
        if not left[0]:
            raise _CutError
        left[0] -= 1
        step(*args)  # type: ignore[operator]

    return run
