# SPDX-License-Identifier: Apache-2.0
"""test_snapshot - the upper becomes a layer, and writing goes on in a new one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import ImageConfig, resolve
from obdengine.device import Device
from obdengine.errors import (
    Closed,
    ConfigError,
    FormatError,
    LimitError,
    ReadOnly,
    SourceError,
)
from obdengine.layer import UpperOptions, create_upper, open_upper
from obdengine.ops import snapshot as room
from obdengine.ops.compact import compact
from obdengine.ops.merge import merge
from obdengine.ops.snapshot import snapshot
from obdengine.ops.traces import pack_acceleration
from obdengine.units import SECTOR
from tests.ops import writing
from tests.ops.test_compact import run_while
from tests.ops.writing import FORMS, Writable
from tests.twins import stack


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_one_after_the_other(tmp_path: Path, form: str, seed: int) -> None:
    chance = Random(seed)
    image = writing.make(chance, tmp_path, form, 3000, seed % 3)
    disks = [bytes(image.disk)]
    with obdengine.open(image.config, readonly=False) as device:
        for number in range(1, 4):
            writing.write(chance, device, image.disk, 30)
            disks.append(bytes(image.disk))
            done = snapshot(device, image.config)
            assert done.layer == image.config.parent / f"upper-{number}.data"
            assert done.upper == image.config.parent / f"upper-{number + 1}.data"
            assert done.layers == len(device.layers) == len(image.lowers) + number
            assert device.pread(0, device.size) == image.disk
            device.check()
        writing.write(chance, device, image.disk, 30)
    image.check()
    found = resolve([image.config]).files
    for number, disk in enumerate(disks):
        files = found[: len(image.lowers) + number]
        if files:
            assert writing.read(*files) == disk
            assert stack.flat([path.read_bytes() for path in files]) == disk
    names = [f"upper-{number}.data" for number in (1, 2, 3, 4)]
    assert sorted(path.name for path in image.config.parent.iterdir()) == sorted(
        ["config.v1.json", *names, "upper-4.index"]
    )


def test_chain_of_uuids(tmp_path: Path) -> None:
    image = writing.make(Random(1), tmp_path, "append")
    with obdengine.open(image.config, readonly=False) as device:
        snapshot(device, image.config)
        snapshot(device, image.config)
        uuids = [layer.uuid for layer in device.layers]
        parents = [layer.parent_uuid for layer in device.layers]
        assert device.upper
        assert [*parents[-2:], device.upper.parent_uuid] == uuids[-3:]
        assert len({*uuids, device.upper.uuid}) == 5


@pytest.mark.parametrize("form", FORMS)
def test_while_it_is_used(tmp_path: Path, form: str) -> None:
    """Reads and writes of three threads go on, and each finds what it wrote."""
    image = writing.make(Random(2), tmp_path, form, 3000, 1)
    with obdengine.open(image.config, readonly=False) as device:
        ended, part = threading.Event(), 1000 * SECTOR

        def busy(number: int) -> None:
            chance, start = Random(number), number * part
            while not ended.is_set():
                size = chance.randint(1, 20) * SECTOR
                offset = start + chance.randrange(part - size)
                data = chance.randbytes(size)
                device.pwrite(offset, data)
                image.disk[offset : offset + size] = data
                if chance.random() < 0.1:
                    device.flush()
                assert device.pread(start, part) == image.disk[start : start + part]

        def action() -> None:
            snapshot(device, image.config)

        run_while(busy, 3, ended, action, 20)
        assert len(device.layers) == 21
        assert device.pread(0, device.size) == image.disk
    image.check()


def test_room_goes_on(tmp_path: Path) -> None:
    image = writing.make(Random(3), tmp_path, "append", 4000, 0)
    options = UpperOptions(max_size=1 << 20, garbage=0)
    with obdengine.open(image.config, readonly=False, options=options) as device:
        device.pwrite(0, b"x" * 900_000)
        snapshot(device, image.config)
        device.pwrite(0, b"y" * 900_000)
        with pytest.raises(SourceError, match="no room left"):
            device.pwrite(900_000, b"z" * 900_000)


def test_sealed_layer_is_not_written_to(tmp_path: Path) -> None:
    """A configuration from before the snapshot cannot harm the layer."""
    image = writing.make(Random(4), tmp_path, "append")
    image.write(Random(4), 20)
    stale = image.config.with_name("stale.json")
    stale.write_text(image.config.read_text())
    index = image.config.with_name("upper-1.index")
    kept = index.read_bytes()
    with obdengine.open(image.config, readonly=False) as device:
        snapshot(device, image.config)
    index.write_bytes(kept)
    with pytest.raises(FormatError):
        obdengine.open(stale, readonly=False)
    image.check()


# -- With a configuration that says how it is to be


def wanted(image: Writable, folder: Path, upper: str = "new") -> Path:
    """Write the configuration of the image after its next snapshot."""
    folder.mkdir(exist_ok=True)
    found = ImageConfig.load(image.config)
    assert found.upper
    files = resolve([image.config]).files
    rows = [{"file": str(file.resolve())} for file in files]
    rows.append({"file": str(found.upper.data.resolve())})
    new = {"data": f"{upper}.data", "index": f"{upper}.index"}
    config = folder / "next.json"
    config.write_text(json.dumps({"lowers": rows, "upper": new}))
    return config


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("there", [True, False])
def test_given(tmp_path: Path, form: str, there: bool) -> None:
    chance = Random(5)
    image = writing.make(chance, tmp_path, form)
    new = wanted(image, tmp_path / "next")
    if there:
        data, index = (new.parent / f"new.{end}" for end in ("data", "index"))
        create_upper(data, index, virtual_size=len(image.disk))
    with obdengine.open(image.config, readonly=False) as device:
        writing.write(chance, device, image.disk, 40)
        snapshot(device, image.config, new)
        writing.write(chance, device, image.disk, 40)
    image.check()
    assert resolve([image.config]) == resolve([new])
    assert writing.read(new) == image.disk
    # Either is the image now, and goes on from here.
    with obdengine.open(new, readonly=False) as device:
        writing.write(chance, device, image.disk, 40)
        snapshot(device, new)
    assert writing.read(new) == image.disk


def test_given_in_place(tmp_path: Path) -> None:
    """The configuration in use has been written over with the next one."""
    chance = Random(6)
    image = writing.make(chance, tmp_path, "append")
    with obdengine.open(image.config, readonly=False) as device:
        writing.write(chance, device, image.disk, 40)
        new = wanted(image, image.config.parent)
        new.rename(image.config)
        snapshot(device, image.config, image.config)
        writing.write(chance, device, image.disk, 40)
    image.check()


def no_upper(said: dict[str, object]) -> None:
    del said["upper"]


def no_index(said: dict[str, object]) -> None:
    said["upper"] = {"data": "new.data"}


def one_less(said: dict[str, list[object]]) -> None:
    said["lowers"].pop()


def one_more(said: dict[str, list[object]]) -> None:
    said["lowers"].append(said["lowers"][0])


def another(said: dict[str, list[object]]) -> None:
    said["lowers"].reverse()


def missing(said: dict[str, list[object]]) -> None:
    said["lowers"][0] = {"file": "nowhere"}


@pytest.mark.parametrize(
    "wrong", [no_upper, no_index, one_less, one_more, another, missing]
)
def test_given_and_wrong(
    tmp_path: Path, wrong: Callable[[dict[str, object]], None]
) -> None:
    chance = Random(7)
    image = writing.make(chance, tmp_path, "append")
    new = wanted(image, tmp_path / "next")
    said = json.loads(new.read_text())
    wrong(said)
    new.write_text(json.dumps(said))
    before = image.config.read_bytes()
    with obdengine.open(image.config, readonly=False) as device:
        with pytest.raises(ConfigError):
            snapshot(device, image.config, new)
        writing.write(chance, device, image.disk, 40)
    assert image.config.read_bytes() == before
    assert [path.name for path in new.parent.iterdir()] == [new.name]
    image.check()


@pytest.mark.parametrize("size", [1 << 20, None])
def test_given_upper_is_not_empty(tmp_path: Path, size: int | None) -> None:
    image = writing.make(Random(8), tmp_path, "append")
    new = wanted(image, tmp_path / "next")
    data, index = (new.parent / f"new.{end}" for end in ("data", "index"))
    create_upper(data, index, virtual_size=size or len(image.disk))
    with Device([], "new", open_upper(data, index)) as device:
        device.pwrite(0, b"x" if size is None else b"")
    with (
        obdengine.open(image.config, readonly=False) as device,
        pytest.raises(ConfigError, match="not an empty layer"),
    ):
        snapshot(device, image.config, new)
    assert data.exists()


# -- What goes wrong


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "where", ["create_upper", "open_upper", "open_layer", "change_config"]
)
def test_one_that_fails(
    tmp_path: Path, form: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk goes on as if nothing had been asked."""
    chance = Random(9)
    image = writing.make(chance, tmp_path, form)

    def fail(*_args: object, **_more: object) -> None:
        raise SourceError("no room", errno=28)

    with obdengine.open(image.config, readonly=False) as device:
        writing.write(chance, device, image.disk, 30)
        with monkeypatch.context() as patch:
            patch.setattr(room, where, fail)
            with pytest.raises(SourceError, match="no room"):
                snapshot(device, image.config)
        writing.write(chance, device, image.disk, 30)
        assert device.pread(0, device.size) == image.disk
    image.check()
    with obdengine.open(image.config, readonly=False) as device:
        assert device.upper
        assert device.upper.form == form
        writing.write(chance, device, image.disk, 30)
        snapshot(device, image.config)
        writing.write(chance, device, image.disk, 30)
    image.check()


def test_change_that_is_there_and_not_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way back then: the device goes where the configuration says."""
    chance = Random(10)
    image = writing.make(chance, tmp_path, "append")
    change = room.change_config

    def late(*args: object, **more: object) -> None:
        change(*args, **more)  # type: ignore[arg-type]
        raise SourceError("cannot be completed", errno=5)

    with obdengine.open(image.config, readonly=False) as device:
        writing.write(chance, device, image.disk, 30)
        with monkeypatch.context() as patch:
            patch.setattr(room, "change_config", late)
            with pytest.raises(SourceError, match="completed"):
                snapshot(device, image.config)
        assert device.upper
        assert device.upper.data.path.name == "upper-2.data"
        writing.write(chance, device, image.disk, 30)
    image.check()


def test_configuration_of_another_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = writing.make(Random(11), tmp_path / "a", "append")
    other = writing.make(Random(12), tmp_path / "b", "append")
    with obdengine.open(one.config, readonly=False) as device:
        with pytest.raises(ConfigError):
            snapshot(device, other.config)
        said = json.loads(one.config.read_text())
        said["upper"] = {"data": str(other.config.with_name("upper-1.data"))}
        one.config.write_text(json.dumps(said))
        with pytest.raises(ConfigError, match="upper"):
            snapshot(device, one.config)


def test_too_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = writing.make(Random(13), tmp_path, "append")
    with obdengine.open(image.config, readonly=False) as device:
        for name in ("MAX_LAYERS", "MAX_STACK_ENTRIES"):
            with monkeypatch.context() as patch:
                patch.setattr(room, name, 2)
                with pytest.raises(LimitError, match="obd merge"):
                    snapshot(device, image.config)


def test_not_writable(tmp_path: Path) -> None:
    image = writing.make(Random(14), tmp_path, "append")
    with obdengine.open(image.config) as device, pytest.raises(ReadOnly):
        snapshot(device, image.config)
    with obdengine.open(image.lowers) as device, pytest.raises(ReadOnly):
        snapshot(device, image.config)
    device = obdengine.open(image.config, readonly=False)
    device.close()
    with pytest.raises(Closed):
        snapshot(device, image.config)


def test_left_overs_of_a_lost_attempt(tmp_path: Path) -> None:
    image = writing.make(Random(15), tmp_path, "append")
    for end in ("data", "index"):
        (image.config.parent / f"upper-2.{end}").write_bytes(b"lost" * 5000)
    with obdengine.open(image.config, readonly=False) as device:
        snapshot(device, image.config)
        writing.write(Random(1), device, image.disk, 10)
    image.check()


def test_what_is_read_first_stays_on_top(tmp_path: Path) -> None:
    chance = Random(5)
    image = writing.make(chance, tmp_path, "append")
    said = json.loads(image.config.read_bytes())
    said["lowers"].append({"file": "trace.tar"})
    (image.config.parent / "trace.tar").write_bytes(pack_acceleration([]))
    image.config.write_text(json.dumps({**said, "accelerationLayer": True}))
    for count in (3, 4):
        with obdengine.open(image.config, readonly=False) as device:
            writing.write(chance, device, image.disk, 20)
            snapshot(device, image.config)
            assert device.pread(0, device.size) == image.disk
        said = json.loads(image.config.read_bytes())
        assert said["lowers"][-1] == {"file": "trace.tar"}
        assert said["accelerationLayer"] is True
        assert len(said["lowers"]) == count + 1
    assert writing.read(image.config) == image.disk


def test_both_configurations_go_on(tmp_path: Path) -> None:
    """Whichever is used later, and whatever it is changed by."""
    image = writing.make(Random(12), tmp_path, "append")
    image.write(Random(12), 20)
    new = wanted(image, tmp_path / "other")
    with obdengine.open(image.config, readonly=False) as device:
        snapshot(device, image.config, new)
        device.pwrite(0, b"n" * 512)
        image.disk[:512] = b"n" * 512
        snapshot(device, image.config)
    for config in (new, image.config):
        assert resolve([config]).layers == resolve([image.config]).layers
        with obdengine.open(config, readonly=False) as device:
            device.pwrite(512, b"o" * 512)
            image.disk[512:1024] = b"o" * 512
            snapshot(device, config)
        compact(config)
        merge(config, tmp_path / f"{config.stem}.obd", first=1, config=config)
        assert resolve([new]).upper == resolve([image.config]).upper
        assert writing.read(new) == writing.read(image.config) == image.disk
    third = wanted(image, tmp_path / "third", "third")
    with obdengine.open(image.config, readonly=False) as device:
        snapshot(device, image.config, third)
    image.check()
    assert writing.read(third) == image.disk
    with pytest.raises(FormatError):  # two are told, the last that was named
        obdengine.open(new, readonly=False)


def test_only_who_agrees_is_told(tmp_path: Path) -> None:
    """A configuration cannot have another one changed that knows nothing of it."""
    image = writing.make(Random(13), tmp_path, "append")
    other = tmp_path / "mine.json"
    other.write_text(json.dumps({"lowers": [{"file": str(image.lowers[0])}]}))
    before = other.read_bytes()
    found = json.loads(image.config.read_bytes())
    for name in (str(other), "/etc/passwd", 7, str(image.config)):
        found = json.loads(image.config.read_bytes())
        found["obdengine"] = {"same": name}
        image.config.write_text(json.dumps(found))
        with obdengine.open(image.config, readonly=False) as device:
            snapshot(device, image.config)
    assert other.read_bytes() == before
    image.check()
