# SPDX-License-Identifier: Apache-2.0
"""test_turbo - TurboOCI layers that overlaybd wrote, read as it reads them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from obdengine import _core, ext4
from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.errors import (
    BadHeader,
    BadIndex,
    BadMagic,
    DigestMismatch,
    FormatError,
    Unsupported,
)
from obdengine.layer import open_layer
from obdengine.ops.layers import open_file, open_layers
from obdengine.units import MIB


@pytest.fixture
def facts(golden: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (golden / "turbo-c" / "expected.json").read_bytes()
    )
    return found


def lowers(golden: Path) -> list[LayerFile]:
    folder = golden / "turbo-c"
    return [
        LayerFile(
            path=folder / f"layer{number}.ext4.fs.meta",
            target=folder / f"layer{number}.tar{end}",
            gzip_index=folder / f"layer{number}.gzip.meta" if end else None,
            where=f"layer {number}",
        )
        for number, end in enumerate((".gz", "", ".gz"))
    ]


@contextmanager
def opened(files: list[LayerFile]) -> Iterator[Device]:
    with ExitStack() as stack:
        device = Device(open_layers(files, stack), "turbo")
        stack.callback(device.close)
        yield device


def digest(device: Device, order: list[int] | None = None) -> str:
    """Return the hash of the disk; in another order its parts are put right."""
    parts = dict.fromkeys(order or range(0, device.size, 4 * MIB), b"")
    for at in parts:
        parts[at] = device.pread(at, min(4 * MIB, device.size - at))
    return hashlib.sha256(b"".join(parts[at] for at in sorted(parts))).hexdigest()


def forget_chunks() -> None:
    _core.limit_chunks(0)
    assert _core.chunk_memory()[0] == 0
    _core.limit_chunks(64 * MIB)


def test_each_disk(golden: Path, facts: dict[str, Any]) -> None:
    for count in (1, 2, 3):
        with opened(lowers(golden)[:count]) as device:
            assert digest(device) == facts["layers"][count - 1]["device_sha256"]
            device.check()
            for layer in device.layers:
                assert list(layer.check()) == []


def test_files(golden: Path, facts: dict[str, Any]) -> None:
    forget_chunks()
    with opened(lowers(golden)) as device, ext4.open_file_system(device) as volume:
        found = {}
        for entry in volume.walk():
            if entry.mode & 0o170000 == 0o100000:
                name = entry.path.decode().lstrip("/")
                content = volume.read_file(entry.path)
                found[name] = hashlib.sha256(content).hexdigest()
    assert found == facts["tree_sha256"]


def test_in_any_order_by_many_with_little_kept(
    golden: Path, facts: dict[str, Any]
) -> None:
    with opened(lowers(golden)) as device, ThreadPoolExecutor(8) as pool:
        stored = [e for e in device.extents() if e.data]
        size = max(e.offset + e.length for e in stored)
        whole = device.pread(0, size)
        forget_chunks()
        _core.limit_chunks(1 << 20)

        def some(seed: int) -> bool:
            chance = Random(seed)
            for _ in range(80):
                extent = chance.choice(stored)
                at = extent.offset + chance.randrange(extent.length)
                length = min(chance.choice([1, 512, 4096, 70_000]), size - at)
                if device.pread(at, length) != whole[at : at + length]:
                    return False
            return True

        assert all(pool.map(some, range(8)))
        _core.limit_chunks(64 * MIB)
        order = [at * 4 * MIB for at in range(device.size // (4 * MIB))]
        Random(3).shuffle(order)
        assert digest(device, order) == facts["layers"][2]["device_sha256"]


def test_memory_does_not_hold_windows(golden: Path) -> None:
    with opened(lowers(golden)) as device:
        assert device.memory < 30_000
        assert device.layers[0].core.memory > device.layers[0].blob.core.memory


def test_name_without_a_target(golden: Path) -> None:
    with pytest.raises(Unsupported, match="targetFile"):
        open_layer(golden / "turbo-c" / "layer0.ext4.fs.meta")


def copied(golden: Path, tmp_path: Path) -> LayerFile:
    one = lowers(golden)[0]
    files = [Path(shutil.copy(path, tmp_path)) for path in one.files]
    return LayerFile(*files[:1], target=files[1], gzip_index=files[2])


def test_target_of_another_size(golden: Path, tmp_path: Path) -> None:
    one = copied(golden, tmp_path)
    assert one.target
    with one.target.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BadHeader, match=r"target_size.*another file"):
        open_file(one)


def test_target_without_its_index(golden: Path, tmp_path: Path) -> None:
    one = copied(golden, tmp_path)
    with pytest.raises(BadMagic, match="gzipIndex"):
        open_file(LayerFile(one.path, target=one.target))


def test_target_that_is_too_short(golden: Path, tmp_path: Path) -> None:
    tar = lowers(golden)[1]
    assert tar.target
    short = tmp_path / "tar"
    short.write_bytes(tar.target.read_bytes()[:-20_000])
    with pytest.raises(BadIndex, match="points past the data"):
        open_file(LayerFile(tar.path, target=short))


def test_target_that_was_changed(golden: Path, tmp_path: Path) -> None:
    """Gzip's crc is that of all: only check finds the right name by its digest."""
    one = copied(golden, tmp_path)
    assert one.target
    known = f"sha256:{hashlib.sha256(one.target.read_bytes()).hexdigest()}"
    raw = bytearray(one.target.read_bytes())
    raw[700_000] ^= 4
    one.target.write_bytes(raw)
    layer = open_file(
        LayerFile(
            one.path,
            target=one.target,
            gzip_index=one.gzip_index,
            target_digest=known,
        )
    )
    found = list(layer.check())
    layer.close()
    assert isinstance(found[-1], DigestMismatch)
    assert all(isinstance(error, FormatError) for error in found)
    assert all(error.name.endswith(one.target.name) for error in found)


def test_errors_name_the_file(golden: Path, tmp_path: Path) -> None:
    one = copied(golden, tmp_path)
    assert one.target
    with one.target.open("r+b") as file:
        file.seek(300_000)
        file.write(bytes(600_000))
    forget_chunks()
    with opened([one]) as device, pytest.raises(FormatError) as caught:
        device.pread(0, 8 * MIB)
    assert caught.value.name == str(one.target)
    assert caught.value.offset is not None
    assert caught.value.offset < one.target.stat().st_size
