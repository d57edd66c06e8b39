# SPDX-License-Identifier: Apache-2.0
"""test_large_reads - what is read in pieces by several threads is the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.device import Device
from obdengine.errors import FormatError
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB, MIB

SIZE = 6 * MIB


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of pages that compress, with gaps: blocks begin anywhere on it."""
    chance = Random(21)
    path = tmp_path_factory.mktemp("large") / "disk.raw"
    pages = bytearray()
    while len(pages) < SIZE:
        text = bytes(chance.choices(b"abcdefgh", k=3000)).ljust(4096, b".")
        pages += bytes(4096) if chance.random() < 0.1 else text
    path.write_bytes(pages)
    return path


@pytest.fixture(scope="module", params=["lz4-4096", "lz4-65536", "zstd-16384"])
def layer(request: pytest.FixtureRequest, flat: Path) -> Path:
    codec, block = request.param.split("-")
    path = flat.with_name(f"{request.param}.obd")
    to_layer(flat, path, options=LayerOptions(codec=codec, block_size=int(block)))
    return path


@pytest.fixture
def device(layer: Path) -> Iterator[Device]:
    with obdengine.open([layer]) as device:
        yield device


def read_some(device: Device, wanted: bytes, seed: int, count: int = 40) -> None:
    chance = Random(seed)
    for _ in range(count):
        size = chance.randrange(200 * KIB, 3 * MIB)
        offset = chance.randrange(SIZE - size)
        assert device.pread(offset, size) == wanted[offset : offset + size]


def test_same_bytes(device: Device, flat: Path) -> None:
    wanted = flat.read_bytes()
    read_some(device, wanted, 1)
    assert device.pread(0, SIZE) == wanted


def test_from_many_threads(device: Device, flat: Path) -> None:
    wanted = flat.read_bytes()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(read_some, device, wanted, seed, 15) for seed in range(4)]
    for job in jobs:
        job.result()


def test_first_damage_is_named(layer: Path, flat: Path, tmp_path: Path) -> None:
    """However many pieces fail, the error is that of the first."""
    raw = bytearray(layer.read_bytes())
    for part in (3, 5, 7):
        raw[len(raw) * part // 10] ^= 0xFF
    bad = tmp_path / "bad.obd"
    bad.write_bytes(raw)
    with obdengine.open([bad]) as device:
        first = next(at for at in range(0, SIZE, 4096) if fails(device, at))
        wanted = fails(device, first)
        assert wanted
        for _ in range(20):
            with pytest.raises(FormatError) as caught:
                device.pread(0, SIZE)
            assert str(caught.value) == wanted
        assert device.pread(0, first) == flat.read_bytes()[:first]


def fails(device: Device, offset: int) -> str:
    """Return what is said of a page that cannot be read, "" of others."""
    try:
        device.pread(offset, 4096)
    except FormatError as error:
        return str(error)
    return ""


def test_child_of_fork(device: Device, flat: Path) -> None:
    """Its parent's threads are not there, and not waited for."""
    wanted = flat.read_bytes()
    assert device.pread(0, SIZE) == wanted
    child = os.fork()
    if not child:
        same = all(device.pread(0, SIZE) == wanted for _ in range(5))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert device.pread(0, SIZE) == wanted
