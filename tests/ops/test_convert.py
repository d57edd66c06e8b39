# SPDX-License-Identifier: Apache-2.0
"""test_convert - raw disks to layers and back, and everything that must not matter."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

import obdengine
from obdengine.blob import format, tar
from obdengine.errors import FormatError, SourceError, UsageError
from obdengine.layer import open_layer
from obdengine.ops.convert import LayerOptions, Written, to_layer, to_raw
from obdengine.source.output import Output
from tests.ops import images
from tests.ops.images import GRANULE
from tests.tools import requires
from tests.twins import stack

UUID = "0123abcd-0000-4000-8000-00000000000a"

# 5 MiB and an odd number of sectors: several batches, a short last granule.
DISK = images.random_disk(Random(11), 1300)[:-1536]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"codec": None},
    {"codec": None, "tar": True},
    {"codec": "zstd", "block_size": 16384, "tar": True},
    {"codec": "zstd", "level": 1, "verify": False},
    {"level": 9, "block_size": 32768, "threads": 1},
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.sparse(tmp_path / "disk.raw", DISK)


def convert(src: Any, dst: Path, base: Any = None, **how: Any) -> Written:
    return to_layer(src, dst, base=base, options=LayerOptions(**how))


@pytest.mark.parametrize("how", OPTIONS, ids=str)
def test_there_and_back(raw: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    written = convert(raw, tmp_path / "layer.obd", **how)
    made = (tmp_path / "layer.obd").read_bytes()
    assert stack.flat([made]) == DISK
    assert written.size == len(made)
    assert written.digest == f"sha256:{hashlib.sha256(made).hexdigest()}"
    assert written.virtual_size == len(DISK)
    with obdengine.open(tmp_path / "layer.obd") as device:
        assert device.pread(0, device.size) == DISK
        (layer,) = device.layers
        assert not list(layer.check())
        assert written.entries == layer.entries
        assert written.data_size == layer.data_size
        assert written.zero_size == layer.zero_size == 0
        assert written.block_size == layer.blob.block_size
        to_raw(device, tmp_path / "again.raw")
    assert (tmp_path / "again.raw").read_bytes() == DISK


@pytest.mark.parametrize("how", OPTIONS, ids=str)
def test_same_bytes_however_it_is_done(
    raw: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    first = convert(raw, tmp_path / "a", **(how | {"threads": 1}))
    full = images.full(tmp_path / "full.raw", DISK)
    for threads in (2, 7):
        again = convert(full, tmp_path / "b", **(how | {"threads": threads}))
        assert again.digest == first.digest
    with obdengine.open(tmp_path / "a") as device:
        assert convert(device, tmp_path / "c", **how).digest == first.digest


@pytest.mark.parametrize("seed", range(6))
def test_base(raw: Path, tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    convert(raw, tmp_path / "0.obd", uuid=UUID)
    layers, disk = [tmp_path / "0.obd"], DISK
    for number in range(1, 4):
        disk = images.changed(chance, disk, 20)[: chance.randrange(1000, 10_000) * 512]
        path = images.full(tmp_path / "changed.raw", disk)
        layers.append(tmp_path / f"{number}.obd")
        with obdengine.open(layers[:-1]) as base:
            written = convert(path, layers[-1], base, tar=chance.random() < 0.5)
            assert convert(base, tmp_path / "none.obd", base).entries == 0
        assert written.data_size + written.zero_size <= 20 * 30 * GRANULE + len(disk)
        with obdengine.open(layers) as device:
            assert device.size == len(disk)
            assert device.pread(0, device.size) == disk
    assert stack.flat([path.read_bytes() for path in layers]) == disk


@pytest.mark.parametrize("seed", range(4))
def test_base_whose_end_hides_something(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    long = images.random_disk(chance, 300)
    short = long[: 512 * chance.randrange(1, 2400)]
    noise = Random(7).randbytes(len(long) - len(short))
    disks = {"zeros": bytes(len(noise)), "same": long[len(short) :], "other": noise}
    layers = [tmp_path / "bottom", tmp_path / "shorter"]
    convert(images.full(tmp_path / "0.raw", long), layers[0])
    with obdengine.open(layers[:1]) as base:
        convert(images.full(tmp_path / "1.raw", short), layers[1], base)
    for name, end in disks.items():
        path = images.sparse(tmp_path / "2.raw", short + end)
        with obdengine.open(layers) as base:
            convert(path, tmp_path / name, base)
        with obdengine.open([*layers, tmp_path / name]) as device:
            assert device.pread(0, device.size) == short + end, name


def test_names(raw: Path, tmp_path: Path) -> None:
    convert(raw, tmp_path / "base", uuid=UUID, message="first")
    with obdengine.open(tmp_path / "base") as base:
        convert(raw, tmp_path / "top", base)
        convert(raw, tmp_path / "other", base, parent_uuid=UUID[::-1].replace("-", ""))
        convert(base, tmp_path / "flat")
    layer = open_layer(tmp_path / "base")
    assert (layer.uuid, layer.parent_uuid, layer.message) == (UUID, None, "first")
    layer = open_layer(tmp_path / "top")
    assert (layer.uuid, layer.parent_uuid, layer.message) == (None, UUID, "")
    assert open_layer(tmp_path / "other").parent_uuid not in (None, UUID)
    assert open_layer(tmp_path / "flat").parent_uuid is None


def test_form_of_the_file(raw: Path, tmp_path: Path) -> None:
    """Header rewritten, tar as overlaybd writes it."""
    convert(raw, tmp_path / "layer", tar=True)
    made = (tmp_path / "layer").read_bytes()
    zfile = made[tar.HEAD_SIZE :]
    header = format.unpack_header(zfile)
    assert header.flags == 0x1B
    size = header.index_offset + 4 * header.index_size + 512
    assert made[: tar.HEAD_SIZE] == tar.head(size)
    assert zfile[size:] == tar.tail(size)
    assert format.unpack_header(zfile[size - 512 :]).flags == 0x16


def test_sector_is_completed_with_zeros(tmp_path: Path) -> None:
    path = images.full(tmp_path / "odd.raw", DISK[:-100])
    written = convert(path, tmp_path / "layer")
    assert written.virtual_size == len(DISK)
    with obdengine.open(tmp_path / "layer") as device:
        assert device.pread(0, device.size) == DISK[:-100] + bytes(100)


def test_blocks_of_64k_that_do_not_compress(tmp_path: Path) -> None:
    noise = Random(9).randbytes(3 << 20)
    path = images.full(tmp_path / "noise.raw", noise)
    written = convert(path, tmp_path / "layer", block_size=65536)
    assert written.block_size == 32768
    assert stack.flat([(tmp_path / "layer").read_bytes()]) == noise
    easy = images.full(tmp_path / "easy.raw", b"easy" * (1 << 18))
    assert convert(easy, tmp_path / "layer", block_size=65536).block_size == 65536


def test_empty_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        convert(images.full(tmp_path / "empty.raw", b""), tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


def test_disk_of_zeros(tmp_path: Path) -> None:
    written = convert(
        images.sparse(tmp_path / "zeros.raw", bytes(1 << 20)), tmp_path / "l"
    )
    assert (written.entries, written.data_size, written.zero_size) == (0, 0, 0)
    with obdengine.open(tmp_path / "l") as device:
        assert device.pread(0, 1 << 20) == bytes(1 << 20)
        to_raw(device, tmp_path / "again.raw")
    status = (tmp_path / "again.raw").stat()
    assert (status.st_size, status.st_blocks) == (1 << 20, 0)


def test_raw_is_sparse(raw: Path, tmp_path: Path) -> None:
    convert(raw, tmp_path / "layer", codec=None)
    with obdengine.open(tmp_path / "layer") as device:
        to_raw(device, tmp_path / "again.raw")
    stored = len(
        [at for at in range(0, len(DISK), GRANULE) if any(DISK[at : at + GRANULE])]
    )
    assert (tmp_path / "again.raw").stat().st_blocks * 512 <= (stored + 2) * GRANULE


def test_failure_leaves_the_target_alone(raw: Path, tmp_path: Path) -> None:
    layer, target = tmp_path / "layer", tmp_path / "target"
    convert(raw, layer)
    damaged = bytearray(layer.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    layer.write_bytes(damaged)
    target.write_bytes(b"old")
    before = set(tmp_path.iterdir())
    with obdengine.open(layer) as device:
        with pytest.raises(FormatError):
            to_raw(device, target)
        with pytest.raises(FormatError):
            convert(device, target)
        with pytest.raises(FormatError):
            convert(raw, target, device)
    assert target.read_bytes() == b"old"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "how",
    [
        {"codec": "gzip"},
        {"level": 99},
        {"block_size": 1000},
        {"uuid": "nonsense"},
        {"message": "x" * 300},
    ],
    ids=str,
)
def test_options_that_make_no_sense(
    raw: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        convert(raw, tmp_path / "layer", **how)
    assert set(tmp_path.iterdir()) == {raw}


def test_disk_that_is_full(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        convert(raw, Path("/proc/layer"))


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_disk_that_becomes_full(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str | None
) -> None:
    """Written behind the reader's back, and told all the same."""
    patch = Output.patch

    def fill(self: Output, offset: int, data: bytes | bytearray | memoryview) -> None:
        if offset + len(data) > 1 << 20:
            raise SourceError(f"{self.name}: no room", errno=errno.ENOSPC)
        patch(self, offset, data)

    monkeypatch.setattr(Output, "patch", fill)
    with pytest.raises(SourceError, match="no room"):
        convert(raw, tmp_path / "layer", codec=codec)
    assert set(tmp_path.iterdir()) == {raw}


def test_ctrl_c_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        to_layer(raw, tmp_path / "layer", progress=stop)
    assert set(tmp_path.iterdir()) == {raw}
    assert threading.active_count() == before


def test_progress(raw: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    to_layer(raw, tmp_path / "layer", progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (len(DISK), len(DISK))
    del seen[:]
    with obdengine.open(tmp_path / "layer") as device:
        to_raw(device, tmp_path / "r", progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (len(DISK), len(DISK))


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """64 times the disk, and within the same bound."""
    script = tmp_path / "measure.py"
    script.write_text(
        "import re, sys\n"
        "from pathlib import Path\n"
        "from obdengine.ops.convert import LayerOptions, to_layer\n"
        "options = LayerOptions(threads=2)\n"
        "to_layer(sys.argv[1], sys.argv[2], options=options)\n"
        # Of getrusage() it would be ours, if we are larger.
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
    )
    small, large = (_peak(tmp_path, script, mib) for mib in (4, 256))
    assert large < small + 24 * 1024  # KiB; batches in flight


def _peak(folder: Path, script: Path, mib: int) -> int:
    """Return the most KiB of memory that converting mib MiB takes."""
    piece = b"".join(Random(n).randbytes(8) * (1 << 17) for n in range(4))
    with (folder / "disk.raw").open("wb") as file:
        for _ in range(mib // 4):
            file.write(piece)
    ran = subprocess.run(
        [sys.executable, script, folder / "disk.raw", folder / "layer"],
        check=True,
        capture_output=True,
    )
    return int(ran.stdout)


def test_golden_stacks_flatten(golden: Path, tmp_path: Path) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())
    layers = [folder / layer["committed"] for layer in known["layers"]]
    for count in range(1, 7):
        with obdengine.open(layers[:count]) as device:
            to_raw(device, tmp_path / "flat.raw")
            convert(device, tmp_path / "flat.obd")
        digest = hashlib.sha256((tmp_path / "flat.raw").read_bytes()).hexdigest()
        assert digest == known["stacks"][str(count)]["sha256"]
        with obdengine.open(tmp_path / "flat.obd") as device:
            again = hashlib.sha256(device.pread(0, device.size)).hexdigest()
        assert again == digest


@requires("root", "loop")
def test_block_device_is_written_whole(raw: Path, tmp_path: Path) -> None:
    convert(raw, tmp_path / "layer")
    disk = tmp_path / "device"
    disk.write_bytes(b"\xff" * (len(DISK) + GRANULE))
    name = subprocess.check_output(["losetup", "-f", "--show", disk], text=True).strip()
    try:
        with obdengine.open(tmp_path / "layer") as device:
            to_raw(device, name)
        with open(name, "rb") as written:  # noqa: PTH123 - a device, not a path
            assert written.read(len(DISK)) == DISK
            assert written.read(1) == b"\xff"
        assert convert(name, tmp_path / "again").virtual_size == disk.stat().st_size
    finally:
        subprocess.run(["losetup", "-d", name], check=True)
