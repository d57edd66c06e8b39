# SPDX-License-Identifier: Apache-2.0
"""test_folder - a writable image in a folder: made once, opened by one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import Image, resolve
from obdengine.errors import Busy, ConfigError, SourceError, UsageError
from obdengine.layer import UpperOptions, open_upper
from obdengine.ops import image as room
from obdengine.ops.compact import compact
from obdengine.ops.folder import make_or_reopen
from tests.ops import writing
from tests.ops.writing import FORMS


@pytest.mark.parametrize("form", FORMS)
def test_made_and_reopened(tmp_path: Path, form: str) -> None:
    chance = Random(1)
    below = writing.lowers(chance, tmp_path, 2000, 2)
    disk = bytearray(writing.read(*below))
    for _ in range(3):
        with obdengine.open(
            below, readonly=False, upper=tmp_path / "own", form=form
        ) as device:
            assert device.pread(0, device.size) == disk
            writing.write(chance, device, disk, 20)
    assert writing.read(tmp_path / "own" / "config.v1.json") == disk


def test_made_once(tmp_path: Path) -> None:
    """However many come at the same time."""
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(
                lambda _: make_or_reopen(
                    tmp_path / "a" / "b", Image([]), virtual_size=1 << 20
                ),
                range(16),
            )
        )
    assert len(set(made)) == 1
    found = resolve([made[0]]).upper
    assert found
    upper = open_upper(found.data, found.index)
    upper.close()
    assert len(list(made[0].parent.iterdir())) == 3


def test_room_is_kept(tmp_path: Path) -> None:
    options = UpperOptions(max_size=1 << 20, garbage=4096)
    config = make_or_reopen(
        tmp_path / "own", Image([]), virtual_size=1 << 22, options=options
    )
    assert json.loads(config.read_text())["obdengine"] == {
        "maxSize": 1 << 20,
        "garbage": 4096,
    }
    with obdengine.open(config, readonly=False) as device:
        device.pwrite(0, b"x" * (1 << 19))
        with pytest.raises(SourceError, match="no room left"):
            device.pwrite(0, b"x" * (1 << 21))


def test_over_another_image(tmp_path: Path) -> None:
    one = writing.lowers(Random(2), tmp_path / "one", 2000, 2)
    other = writing.lowers(Random(3), tmp_path / "two", 2000, 2)
    obdengine.open(one, upper=tmp_path / "own").close()
    for image in (other, [*one, other[0]]):
        with pytest.raises(ConfigError, match="over another image"):
            obdengine.open(image, upper=tmp_path / "own")
    obdengine.open(one[:1], upper=tmp_path / "own").close()


def test_over_a_writable_image(tmp_path: Path) -> None:
    image = writing.make(Random(4), tmp_path, "append")
    with pytest.raises(UsageError, match="has a writable layer already"):
        obdengine.open(image.config, upper=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_one_writer_or_readers(tmp_path: Path) -> None:
    image = writing.make(Random(5), tmp_path, "append")
    with (
        obdengine.open(image.config),
        obdengine.open(image.config),
        pytest.raises(Busy, match="in use by process"),
    ):
        obdengine.open(image.config, readonly=False)
    with obdengine.open(image.config, readonly=False):
        for readonly in (True, False):
            with pytest.raises(Busy, match="in use by process"):
                obdengine.open(image.config, readonly=readonly)
        obdengine.open(image.config, locked=False).close()
    obdengine.open(image.config, readonly=False).close()


def test_configuration_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has read it before it changed does not write to what was."""
    chance = Random(6)
    image = writing.make(chance, tmp_path, "append")
    image.write(chance, 20)
    layers, times = room.open_layers, []

    def slowly(*args: object) -> object:
        if not times:
            compact(image.config)
            upper = image.config.with_name("upper-1")
            for end in (".data", ".index"):
                # Still there, as it would be for who has opened it before.
                new = image.config.with_name(f"upper-2{end}")
                upper.with_suffix(end).write_bytes(new.read_bytes())
        times.append(1)
        return layers(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "open_layers", slowly)
    with obdengine.open(image.config, readonly=False) as device:
        assert device.upper
        assert device.upper.data.path.name == "upper-2.data"
        writing.write(chance, device, image.disk, 20)
    assert len(times) == 2
    image.check()
