# SPDX-License-Identifier: Apache-2.0
"""test_images - an image on a server reads as one on this machine, and once only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import obdengine
from obdengine.errors import BadChecksum, ConfigError, FormatError, SourceError
from obdengine.ops.remote import cache_of
from obdengine.source.fetcher import Fetcher
from tests import stacks
from tests.misbehaving import Misbehaving
from tests.remote.images import configure, service_in, serving
from tests.twins import stack, writer
from tests.twins.writer import Lsmt, Run, ZFile

MIB = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    return stacks.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def blobs(made: stacks.Image) -> list[bytes]:
    return [path.read_bytes() for path in made.layers]


@pytest.fixture
def server(blobs: list[bytes]) -> Iterator[Misbehaving]:
    with serving(blobs) as started:
        yield started


@pytest.fixture
def image(tmp_path: Path, server: Misbehaving, blobs: list[bytes]) -> Path:
    return configure(tmp_path, server.url, blobs)


def test_reads_as_it_is(
    tmp_path: Path, image: Path, made: stacks.Image, server: Misbehaving
) -> None:
    service = service_in(tmp_path)
    with obdengine.open(image, service=service) as device:
        opening = len(server.requests)
        assert device.pread(0, device.size) == made.disk
        asked = len(server.requests)
        assert asked > opening
        assert device.pread(12345, 54321) == made.disk[12345:][:54321]
        assert all(extent.present for extent in device.extents())
        assert len(server.requests) == asked


def test_known_image_needs_no_network(
    tmp_path: Path, image: Path, made: stacks.Image, server: Misbehaving
) -> None:
    service = service_in(tmp_path)
    with obdengine.open(image, service=service) as device:
        device.cache(0, MIB)
    server.stop()
    with obdengine.open(image, service=service) as device:
        assert device.pread(0, MIB) == made.disk[:MIB]
    offline = service_in(tmp_path)
    with obdengine.open(image, service=offline) as device:
        assert device.pread(0, MIB) == made.disk[:MIB]


def test_url_without_a_digest(
    tmp_path: Path, made: stacks.Image, server: Misbehaving
) -> None:
    alone = stack.flat([made.layers[2].read_bytes()])
    server.files["/top.obd"] = made.layers[2].read_bytes()
    service = service_in(tmp_path)
    with obdengine.open([server.url + "/top.obd?signed=1"], service=service) as device:
        assert device.pread(0, device.size) == alone
    other = made.layers[1].read_bytes()
    server.files["/top.obd"] = other
    with obdengine.open([server.url + "/top.obd?signed=2"], service=service) as device:
        assert device.pread(0, device.size) == stack.flat([other])
    server.stop()
    service = service_in(tmp_path, deadline=1)
    with obdengine.open([server.url + "/top.obd?signed=3"], service=service) as device:
        assert device.pread(0, device.size) == stack.flat([other])


def test_absent_bytes_when_offline(tmp_path: Path, image: Path) -> None:
    service = service_in(tmp_path)
    obdengine.open(image, service=service).close()
    raw = {**service.raw, "obdengine": {"offline": True}}
    offline = type(service).from_json(raw)
    with (
        obdengine.open(image, service=offline) as device,
        pytest.raises(SourceError, match="we are offline"),
    ):
        device.pread(2 * MIB, MIB)


def test_nowhere(tmp_path: Path, image: Path) -> None:
    image.write_text(image.read_text().replace("repoBlobUrl", "other"))
    with pytest.raises(ConfigError, match="no repoBlobUrl"):
        obdengine.open(image, service=service_in(tmp_path))


def test_twenty_layers_open_in_few_round_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three, so that with a manifest there are four."""
    blobs = [layer_of(number) for number in range(20)]
    asked: dict[str, list[tuple[float, float]]] = {}
    ask = Fetcher._request

    def timed(self: Fetcher, *words: Any) -> Any:
        before = time.monotonic()
        piece = ask(self, *words)
        asked.setdefault(self.name, []).append((before, time.monotonic()))
        return piece

    monkeypatch.setattr(Fetcher, "_request", timed)
    with serving(blobs) as server:
        image = configure(tmp_path, server.url, blobs)
        server.delay, server.always = 0.05, "slow"
        obdengine.open(image, service=service_in(tmp_path)).close()
    assert len(asked) == 20
    assert max(depth(times) for times in asked.values()) <= 3


def depth(times: list[tuple[float, float]]) -> int:
    """Return how many requests had to wait for each other."""
    deep, last = 0, 0.0
    for start, end in sorted(times, key=lambda one: one[1]):
        if start >= last:
            deep, last = deep + 1, end
    return deep


def layer_of(number: int) -> bytes:
    chance = Random(number)
    runs = [
        Run(start, chance.randbytes(8 * 512))
        for start in range(16 * number, 1 << 16, 1 << 9)
    ]
    stream = writer.lsmt(runs, 32 * MIB, Lsmt())
    form = ZFile(block_size=4096 if number % 2 else 65536)
    return writer.tar(writer.zfile(stream, form), "pax")


def test_wrong_bytes_are_fetched_again(
    tmp_path: Path, image: Path, made: stacks.Image, server: Misbehaving
) -> None:
    with obdengine.open(image, service=service_in(tmp_path)) as device:
        server.faults = ["garbage"] * 3
        found = device.pread(0, device.size)
        # The bottom layer is plain: nothing in it can tell that it is wrong.
        layers = [extent for extent in device.extents() if extent.layer]
        for extent in layers:
            part = slice(extent.offset, extent.end)
            assert found[part] == made.disk[part]


def test_headers_that_make_no_sense_are_fetched_again(
    tmp_path: Path, image: Path, made: stacks.Image, server: Misbehaving
) -> None:
    server.faults = ["garbage"] * 4
    with obdengine.open(image, service=service_in(tmp_path)) as device:
        assert device.size == len(made.disk)


def test_wrong_bytes_for_ever(tmp_path: Path, image: Path, server: Misbehaving) -> None:
    with obdengine.open(image, service=service_in(tmp_path)) as device:
        server.always = "garbage"
        before = len(server.requests)
        with pytest.raises(FormatError) as raised:
            device.pread(0, device.size)
        assert isinstance(raised.value, BadChecksum)
        assert len(server.requests) - before < 100


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "slow", "login"])
def test_outage_is_only_latency(
    tmp_path: Path, image: Path, made: stacks.Image, server: Misbehaving, fault: str
) -> None:
    server.faults = [fault] * 3
    with obdengine.open(image, service=service_in(tmp_path)) as device:
        server.faults = [fault] * 3
        assert device.pread(0, device.size) == made.disk


def test_deadline_is_kept(tmp_path: Path, image: Path, server: Misbehaving) -> None:
    # What opening needs is here from now on.
    obdengine.open(image, service=service_in(tmp_path)).close()
    service = service_in(tmp_path, deadline=1.5, silence=0.5)
    with obdengine.open(image, service=service) as device:
        server.always = "silent"
        before = time.monotonic()
        with pytest.raises(SourceError):
            device.pread(0, device.size)
        # The server would be silent for a minute.
        assert time.monotonic() - before < 30


def test_write_over_a_remote_image(
    tmp_path: Path, image: Path, made: stacks.Image
) -> None:
    flat = bytearray(made.disk)
    service = service_in(tmp_path)
    with obdengine.open(
        image, readonly=False, upper=tmp_path / "upper", service=service
    ) as device:
        for at in range(100, len(flat) - 1000, 54321):
            device.pwrite(at, b"new bytes" * 30)
            flat[at : at + 270] = b"new bytes" * 30
        assert device.pread(0, len(flat)) == flat


def test_cache_that_is_damaged_and_emptied_underneath(
    tmp_path: Path, image: Path, made: stacks.Image
) -> None:
    service = service_in(tmp_path)
    cache = cache_of(service)
    chance = Random(11)
    with obdengine.open(image, service=service) as device:
        folder = tmp_path / "cache" / "blobs"
        for step in range(300):
            offset = chance.randrange(device.size)
            size = chance.randrange(min(200_000, device.size - offset))
            assert device.pread(offset, size) == made.disk[offset:][:size]
            files = sorted(folder.iterdir())
            if step % 5 == 0 and files:
                spoil(chance, chance.choice(files))
            if step % 50 == 7:
                cache.shrink(0)


def spoil(chance: Random, path: Path) -> None:
    with path.open("r+b") as opened:
        if chance.random() < 0.1:
            opened.truncate(chance.randrange(path.stat().st_size + 1))
            return
        for _ in range(20):
            opened.seek(chance.randrange(path.stat().st_size + 1))
            opened.write(chance.randbytes(chance.randrange(1, 300)))


def test_model(made: stacks.Image) -> None:
    assert stack.flat([path.read_bytes() for path in made.layers]) == made.disk
