# SPDX-License-Identifier: Apache-2.0
"""test_merge_live - lowers become one under a disk that is read and written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.device import Device
from obdengine.device.recorder import Recorder
from obdengine.errors import Busy, ConfigError, SourceError, UsageError
from obdengine.ops import merge_live as module
from obdengine.ops.merge_live import merge_live
from obdengine.ops.snapshot import snapshot
from tests.ops import writing
from tests.ops.writing import FORMS, Writable


@contextmanager
def nothing_changes(image: Writable, device: Device, target: Path) -> Iterator[None]:
    """The block leaves the disk, its configuration, and no file."""
    before = image.config.read_bytes()
    yield
    assert image.config.read_bytes() == before
    assert not target.exists()
    assert device.pread(0, device.size) == image.disk


@pytest.mark.parametrize("form", FORMS)
def test_while_it_is_read_and_written(tmp_path: Path, form: str) -> None:
    image = writing.make(Random(1), tmp_path, form, 2000, 5)
    image.write(Random(2), 20)
    over = threading.Event()
    wrong: list[int] = []
    with obdengine.open(image.config, readonly=False) as device:

        def use() -> None:
            value = 0
            while not over.is_set():
                value = (value + 1) % 256
                device.pwrite(512, bytes([value]) * 512)
                device.flush()
                found = device.pread(0, device.size)
                image.disk[512:1024] = bytes([value]) * 512
                if found != image.disk:
                    wrong.append(value)

        user = threading.Thread(target=use)
        user.start()
        try:
            for number, (first, end) in enumerate([(1, 3), (0, 2), (1, 3), (0, 2)]):
                place = tmp_path / f"{number}.obd"
                merge_live(device, image.config, place, first=first, end=end)
        finally:
            over.set()
            user.join()
        assert [layer.name for layer in device.layers] == [str(place)]
    assert not wrong
    image.check()


def test_layers_that_were_changed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot in between is none of its business, another merge is."""
    image = writing.make(Random(3), tmp_path, "append", 2000, 4)
    real = module.merge
    with obdengine.open(image.config, readonly=False) as device:

        def slow(*words: object, **more: object) -> object:
            monkeypatch.undo()
            snapshot(device, image.config)
            merge_live(device, image.config, tmp_path / "a.obd", first=3)
            return real(*words, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "merge", slow)
        merge_live(device, image.config, tmp_path / "b.obd", end=2)
        assert len(device.layers) == 3

        def slower(*words: object, **more: object) -> object:
            monkeypatch.undo()
            merge_live(device, image.config, tmp_path / "c.obd", first=1)
            return real(*words, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "merge", slower)
        with pytest.raises((Busy, UsageError)):
            merge_live(device, image.config, tmp_path / "d.obd", end=2)
        assert not (tmp_path / "d.obd").exists()
    image.check()


def test_what_is_refused(tmp_path: Path) -> None:
    image = writing.make(Random(4), tmp_path, "append", 2000, 3)
    target = tmp_path / "x.obd"
    other = tmp_path / "other.json"
    other.write_text(image.config.read_text().replace("upper-1", "upper-2"))
    with obdengine.open(image.config, readonly=False) as device:
        for options, error in (
            ({"first": 3}, UsageError),
            ({"first": 1, "end": 1}, UsageError),
            ({"end": 9}, UsageError),
        ):
            with nothing_changes(image, device, target), pytest.raises(error):
                merge_live(device, image.config, target, **options)
        target.write_bytes(b"mine")
        with pytest.raises(UsageError, match="is there already"):
            merge_live(device, image.config, target)
        assert target.read_bytes() == b"mine"
        target.unlink()
        with nothing_changes(image, device, target), pytest.raises(ConfigError):
            merge_live(device, other, target)
        device.recorder = Recorder()
        with (
            nothing_changes(image, device, target),
            pytest.raises(Busy, match="recorded"),
        ):
            merge_live(device, image.config, target)


@pytest.mark.parametrize("placed", [False, True])
def test_configuration_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    """Whether it is in its place decides which layers the disk goes on with."""
    image = writing.make(Random(5), tmp_path, "append", 2000, 3)
    target, real = tmp_path / "x.obd", module.change_config

    def fails(*words: object, **more: object) -> None:
        if placed:
            real(*words, **more)  # type: ignore[arg-type]
        raise SourceError("no luck")

    monkeypatch.setattr(module, "change_config", fails)
    with obdengine.open(image.config, readonly=False) as device:
        with pytest.raises(SourceError, match="no luck"):
            merge_live(device, image.config, target)
        assert len(device.layers) == (1 if placed else 3)
        assert target.exists() == placed
        device.pwrite(0, b"n" * 512)
    image.disk[:512] = b"n" * 512
    assert len(resolve([image.config]).layers) == (1 if placed else 3)
    image.check()
