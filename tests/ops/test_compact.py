# SPDX-License-Identifier: Apache-2.0
"""test_compact - the garbage goes, the disk stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.errors import Busy, ReadOnly, SourceError
from obdengine.layer import create_upper
from obdengine.ops import compact as room
from obdengine.ops.compact import compact, compact_live
from obdengine.ops.folder import remove_left_overs
from obdengine.units import SECTOR
from tests.ops import writing
from tests.ops.writing import FORMS, Writable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(6))
def test_reads_as_before(tmp_path: Path, form: str, seed: int) -> None:
    chance = Random(seed)
    image = writing.make(chance, tmp_path, form, 3000, seed % 3)
    for number in range(3):
        image.write(chance, 60)
        done = compact(image.config)
        image.check()
        assert done.after <= done.before
        last = f"upper-{number + 2 if form == 'append' else 1}"
        assert names(image.config.parent) == [
            "config.v1.json",
            f"{last}.data",
            f"{last}.index",
        ]


def test_only_live_data_is_left(tmp_path: Path) -> None:
    image = writing.make(Random(1), tmp_path, "append", 4096, 1)
    with obdengine.open(image.config, readonly=False) as device:
        for number in range(10):
            device.pwrite(0, bytes([number]) * (1 << 20))
        device.write_zeroes(1 << 20, 4096)
        uuid = device.upper.uuid if device.upper else None
    done = compact(image.config)
    assert done.path.stat().st_size == 4096 + (1 << 20)
    with obdengine.open(image.config, readonly=False) as device:
        assert device.upper
        facts = device.upper.facts()
        assert facts.stored == facts.data_end - 8 == 2048
        assert device.upper.uuid == uuid


def test_zeros_without_a_layer_below(tmp_path: Path) -> None:
    image = writing.make(Random(1), tmp_path, "append", 4096, 0)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(0, bytes(1 << 20))
        device.write_zeroes(1 << 20, 4096)
    assert compact(image.config).records_after == 0
    image.check()


def test_sparse_gives_back_what_is_not_used(tmp_path: Path) -> None:
    image = writing.make(Random(2), tmp_path, "sparse", 8192, 1)
    with obdengine.open(image.config, readonly=False) as device:
        assert device.upper
        device.pwrite(0, b"x" * (1 << 20))
        # What a copy without holes does to the file.
        device.upper.data.write(4096 + (1 << 20), bytes(1 << 20))
        image.disk[: 1 << 20] = b"x" * (1 << 20)
    done = compact(image.config)
    assert done.before - done.after >= 1 << 20
    image.check()


@pytest.mark.parametrize("form", FORMS)
def test_files_with_other_names(tmp_path: Path, form: str) -> None:
    """Nothing that is there is written over."""
    chance, size = Random(3), 3000 * SECTOR
    data, index = tmp_path / "vda.data", tmp_path / "vda.idx"
    create_upper(data, index, virtual_size=size, form=form)
    (tmp_path / "vda-2.index").write_text("somebody's")
    config = tmp_path / "vda.json"
    upper = {"data": str(data), "index": str(index)}
    config.write_text(json.dumps({"upper": upper, "resultFile": "r"}))
    image = Writable(config, [], bytearray(size))
    image.write(chance, 40)
    compact(config)
    image.check()
    compact(config)
    image.check()
    assert (tmp_path / "vda-2.index").read_text() == "somebody's"
    assert json.loads(config.read_text())["resultFile"] == "r"
    if form == "append":
        assert not data.exists()
        assert not index.exists()


def fails(*_args: object, **_more: object) -> None:
    raise SourceError("no room", errno=28)


@pytest.mark.parametrize("where", ["change_config", "contents", "_remove"])
def test_one_that_fails(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(4)
    image = writing.make(chance, tmp_path, "append")
    image.write(chance, 40)
    with monkeypatch.context() as patch:
        patch.setattr(room, where, fails)
        with pytest.raises(SourceError, match="no room"):
            compact(image.config)
    image.check()
    image.write(chance, 40)
    compact(image.config)
    image.check()
    assert len(names(image.config.parent)) == 3


def test_left_overs_go_by_name_only(tmp_path: Path) -> None:
    """A configuration from elsewhere cannot have other files removed."""
    image = writing.make(Random(5), tmp_path, "append")
    victim = tmp_path / "upper-9.data"
    victim.write_text("x")
    said = json.loads(image.config.read_text())
    wanted = ["../upper-9.data", str(victim), "upper-1.data", "config.v1.json"]
    own = {"remove": [*wanted, "upper-7.data", 5]}
    left = image.config.parent / "upper-7.data"
    left.write_text("x")
    image.config.write_text(json.dumps({**said, "obdengine": own}))
    assert remove_left_overs(image.config) == [left]
    assert victim.exists()
    assert remove_left_overs(image.config) == []
    image.check()


def test_while_somebody_uses_it(tmp_path: Path) -> None:
    image = writing.make(Random(6), tmp_path, "append")
    for readonly in (True, False):
        with (
            obdengine.open(image.config, readonly=readonly),
            pytest.raises(Busy, match="in use by process"),
        ):
            compact(image.config)
    with pytest.raises(ReadOnly):
        compact(image.lowers[0])


# -- While it is in use


@pytest.mark.parametrize("form", FORMS)
def test_live(tmp_path: Path, form: str) -> None:
    chance = Random(7)
    image = writing.make(chance, tmp_path, form)
    with obdengine.open(image.config, readonly=False) as device:
        for _ in range(5):
            writing.write(chance, device, image.disk, 80)
            done = compact_live(device)
            assert device.upper
            assert done.records_after == device.upper.facts().segments
            assert device.pread(0, device.size) == image.disk
    image.check()


def test_live_while_it_is_written(tmp_path: Path) -> None:
    image = writing.make(Random(8), tmp_path, "append", 4000, 1)
    with obdengine.open(image.config, readonly=False) as device:
        ended = threading.Event()
        size = device.size // 3 // SECTOR * SECTOR

        def busy(number: int) -> None:
            chance = Random(number)
            while not ended.is_set():
                offset = number * size + chance.randrange(size // SECTOR) * SECTOR
                data = chance.randbytes(SECTOR)
                device.pwrite(offset, data)
                image.disk[offset : offset + SECTOR] = data
                if chance.random() < 0.1:
                    device.flush()

        run_while(busy, 3, ended, lambda: compact_live(device), 30)
        assert device.pread(0, device.size) == image.disk
    image.check()


def run_while(
    busy: Callable[[int], None],
    threads: int,
    ended: threading.Event,
    action: Callable[[], object],
    times: int,
) -> None:
    """Do action times times while threads are busy."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            busy(number)
        except BaseException as error:
            failed.append(error)

    started = [threading.Thread(target=run, args=[n]) for n in range(threads)]
    for thread in started:
        thread.start()
    try:
        for _ in range(times):
            action()
    finally:
        ended.set()
        for thread in started:
            thread.join()
    assert failed == []


def test_live_without_an_upper(tmp_path: Path) -> None:
    image = writing.make(Random(9), tmp_path, "append")
    with obdengine.open(image.lowers) as device, pytest.raises(ReadOnly):
        compact_live(device)
    with obdengine.open(image.config) as device, pytest.raises(ReadOnly):
        compact_live(device)
    assert resolve([image.config]).upper
