# SPDX-License-Identifier: Apache-2.0
"""
test_random_stacks - stacks by two writers, read as one flat array, from 8 threads.

Layers come from our own writer and from the twin's, in every form that either
knows, and the array is painted beside them. A failure names its seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.blob import PlainWriter, ZWriter, tar
from obdengine.device import Device
from obdengine.layer import open_layer
from obdengine.layer.writer import LayerWriter
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.segment import Segment
from obdengine.source import MemorySource
from obdengine.source.output import Output
from tests.twins import invent, stack, writer
from tests.twins.writer import SECTOR, Run

THREADS = 8

Cells = list[tuple[int | None, bool]]


class Model:
    """The flat disk, and for each sector the layer that it is from."""

    def __init__(self, sectors: int) -> None:
        self.disk = bytearray(sectors * SECTOR)
        self.cells: Cells = [(None, True)] * sectors

    def paint(self, number: int, runs: list[Run]) -> None:
        """Put what a layer says over what is below it."""
        for run in runs:
            for sector in range(run.start, run.start + run.length):
                self.cells[sector] = (number, run.zeroed > 0)
            where = slice(run.start * SECTOR, (run.start + run.length) * SECTOR)
            self.disk[where] = run.data or bytes(run.zeroed * SECTOR)

    def paint_entries(self, number: int, entries: list[Segment], path: Path) -> None:
        """Do the same with the entries of a layer's file, as the twin has them."""
        lsmt = stack.open_stream(path.read_bytes()).lsmt
        self.paint(number, [run_of(entry, lsmt) for entry in entries])


def run_of(entry: Segment, lsmt: bytes) -> Run:
    if entry.zeroed:
        return Run(entry.start, zeroed=entry.length)
    at = entry.moffset * SECTOR
    return Run(entry.start, lsmt[at : at + entry.length * SECTOR])


def ours(chance: Random, path: Path, runs: list[Run], size: int) -> None:
    """Write runs as a layer with the engine's writer."""
    packed = chance.random() < 0.7
    wrapped = chance.random() < 0.5
    with Output(path) as out:
        if wrapped:
            out.append(bytes(tar.HEAD_SIZE))
        start = out.position
        stream = zwriter(chance, out) if packed else PlainWriter(out)
        layer = LayerWriter(stream, virtual_size=size)
        for run in runs:
            if run.zeroed:
                layer.zero(run.start, run.zeroed)
            else:
                layer.data(run.start, run.data)
        layer.finish()
        payload = out.position - start
        if wrapped:
            out.patch(0, tar.head(payload))
            out.append(tar.tail(payload))
        out.commit()


def zwriter(chance: Random, out: Output) -> ZWriter:
    return ZWriter(
        out,
        codec=chance.choice(["lz4", "zstd"]),
        # 64 KiB blocks must not grow, and ours refuses those that do.
        block_size=chance.choice([4096, 8192, 16384, 32768]),
        threads=chance.randint(1, 3),
        verify=chance.random() < 0.75,
        rewrite_header=chance.random() < 0.5,
    )


def make(chance: Random, folder: Path) -> tuple[list[Path], Model]:
    """Write a stack of 1 to 8 layers and return its files and what it is."""
    sectors = chance.randint(1, 3000)
    model = Model(sectors)
    paths = []
    for number in range(chance.randint(1, 8)):
        path = folder / f"{number}.obd"
        runs = invent.runs(chance, sectors, chance.choice([0, 3, 30, 100]))
        if chance.random() < 0.5:
            ours(chance, path, runs, sectors * SECTOR)
        else:
            stream = writer.lsmt(runs, sectors * SECTOR, invent.lsmt_form(chance))
            path.write_bytes(invent.wrapped(chance, stream))
        model.paint(number, runs)
        paths.append(path)
    return paths, model


def read_some(device: Device, disk: bytes, seed: int, count: int) -> None:
    """Read and compare at random places, with lengths from none to all."""
    chance = Random(seed)
    for _ in range(count):
        offset = chance.randint(0, len(disk))
        longest = chance.choice([1, 600, 5000, 70000, len(disk)])
        length = chance.randint(0, min(longest, len(disk) - offset))
        assert device.pread(offset, length) == disk[offset : offset + length]


def same_extents(device: Device, model: Model) -> None:
    """Compare what the device says of every sector with the model."""
    at, last = 0, None
    for extent in device.extents():
        assert extent.offset == at
        assert extent.length > 0
        assert extent[2:] != last, "two extents that should be one"
        for sector in range(at // SECTOR, extent.end // SECTOR):
            layer, zero = model.cells[sector]
            assert (extent.layer, extent.zero) == (layer, zero)
            assert extent.data == (not zero)
        assert extent.present
        at, last = extent.end, extent[2:]
    assert at == device.size


def compare(device: Device, model: Model, seed: int, reads: int) -> None:
    disk = bytes(model.disk)
    assert device.size == len(disk)
    device.check()
    assert device.pread(0, len(disk)) == disk
    same_extents(device, model)
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [
            pool.submit(read_some, device, disk, seed * THREADS + number, reads)
            for number in range(THREADS)
        ]
        for job in jobs:
            job.result()


@pytest.mark.parametrize("seed", range(40))
def test_stack_equals_flat_array(tmp_path: Path, seed: int) -> None:
    paths, model = make(Random(seed), tmp_path)
    assert stack.flat([path.read_bytes() for path in paths]) == model.disk
    with obdengine.open(paths) as device:
        compare(device, model, seed, reads=40)


# From memory nothing is resident: every read fetches first, or waits for it.
@pytest.mark.parametrize("seed", range(100, 115))
def test_stack_that_has_to_be_fetched(tmp_path: Path, seed: int) -> None:
    paths, model = make(Random(seed), tmp_path)
    disk = bytes(model.disk)

    def device() -> Device:
        sources = [MemorySource(path.read_bytes(), path.name) for path in paths]
        return Device([open_layer(s) for s in sources], "memory")

    with device() as fresh, ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(read_some, fresh, disk, n, 30) for n in range(THREADS)]
        for job in jobs:
            job.result()
    with device() as fresh:
        fresh.cache(0, fresh.size)
        compare(fresh, model, seed, reads=10)


def converted(chance: Random, paths: list[Path], disk: bytes, path: Path) -> None:
    """Make the layer that turns the stack of paths into disk, with `obd convert`."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(disk)
    options = LayerOptions(
        codec=chance.choice([None, "lz4", "zstd"]),
        block_size=chance.choice([4096, 16384, 65536]),
        threads=chance.randint(1, 3),
        tar=chance.random() < 0.3,
        verify=chance.random() < 0.75,
    )
    with ExitStack() as opened:
        base = opened.enter_context(obdengine.open(paths)) if paths else None
        to_layer(raw, path, base=base, options=options)
    raw.unlink()


@pytest.mark.parametrize("seed", range(200, 215))
def test_converted_layers_among_others(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    sectors = chance.randint(9, 3000)
    model, paths = Model(sectors), []
    for number in range(chance.randint(1, 6)):
        path = tmp_path / f"{number}.obd"
        runs = invent.runs(chance, sectors, 30)
        wanted = None
        if chance.random() < 0.6:
            wanted = Model(sectors)
            wanted.disk[:] = model.disk
            wanted.paint(number, runs)
            converted(chance, paths, bytes(wanted.disk), path)
        else:
            stream = writer.lsmt(runs, sectors * SECTOR, invent.lsmt_form(chance))
            path.write_bytes(invent.wrapped(chance, stream))
        written = stack.open_stream(path.read_bytes()).segments
        model.paint_entries(number, written, path)
        paths.append(path)
        assert wanted is None or model.disk == wanted.disk
    with obdengine.open(paths) as device:
        compare(device, model, seed, reads=20)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", range(1000, 5000, 500))
def test_many_stacks(tmp_path: Path, start: int) -> None:
    for seed in range(start, start + 100):
        folder = tmp_path / str(seed)
        folder.mkdir()
        paths, model = make(Random(seed), folder)
        with obdengine.open(paths) as device:
            compare(device, model, seed, reads=100)


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([40, 20], 20),
        ([20, 40], 40),
        ([20, 40, 0], 40),
        ([0, 40], 40),
        ([40, 0, 0], 40),
        ([90, 7, 50], 50),
    ],
)
def test_topmost_size_counts(tmp_path: Path, sizes: list[int], size: int) -> None:
    """What a lower layer has past the end of the disk is not there."""
    paths, model = [], Model(100)
    for number, sectors in enumerate(sizes):
        start = (sectors or 10) - 2 * number - 3
        runs = [Run(start, bytes([65 + number]) * SECTOR * 2)]
        model.paint(number, runs)
        paths.append(tmp_path / f"{number}.obd")
        paths[-1].write_bytes(writer.lsmt(runs, sectors * SECTOR))
    with obdengine.open(paths) as device:
        assert device.size == size * SECTOR
        assert device.pread(0, device.size) == bytes(model.disk[: device.size])
        assert sum(extent.length for extent in device.extents()) == device.size
