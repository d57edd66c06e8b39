# SPDX-License-Identifier: Apache-2.0
"""
turbo - 4 KiB at random places of a TurboOCI layer, from a kept span and a new one.

The floor is zlib itself inflating a MiB of the same tar from the start of a stream,
which no reader that begins at a point can pass by. Beside it the same disk as an
ordinary lz4 layer.
"""

from __future__ import annotations

import gzip
import random
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import obdengine
from obdengine import _core
from obdengine.blob.indexing import Indexing
from obdengine.device import Device
from obdengine.oci import open_store, parse, resolve_image
from obdengine.ops.convert import to_layer
from obdengine.ops.turbo_build import TurboOptions, build_turbo
from obdengine.ops.turbo_targets import TurboFolder
from obdengine.units import GIB, KIB, MIB
from tests.bench.harness import Figure, Table, in_turn, short, timed
from tests.bench.workshop import Workshop, memory
from tests.oci_images import make_layout, small_tar

SIZE = 4 * KIB
SPAN = MIB
FILE = 8 * MIB
READS = 2000
COLD = 60


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        tar = tar_of(shop.disk)
        packed = gzip.compress(tar, 6, mtime=0)
        image = turbo_of(folder, tar)
        with obdengine.open(image) as device:
            to_layer(device, folder / "lz4.obd")
            with obdengine.open(folder / "lz4.obd") as flat:
                places = places_of(device)
                assert all(device.pread(*p) == flat.pread(*p) for p in places[:99])
                figures = in_turn(
                    {
                        "zlib, a MiB of the tar": floor(tar),
                        "a span that is kept": kept(device, places),
                        "a span that is not": cold(device, places),
                        "the same disk in lz4": kept(flat, places),
                    },
                    shop.rounds,
                )
            facts = words(device, packed)
        rate = in_turn({"ours": timed(lambda: index(packed))}, shop.rounds)["ours"]
        plain = in_turn(
            {"zlib": timed(lambda: zlib.decompress(packed, 31))}, shop.rounds
        )["zlib"]
    return f"{table(figures)}\n\n{facts} {indexing(len(tar), rate, plain)}"


def tar_of(disk: Path) -> bytes:
    """Return a tar of files that are parts of the disk."""
    raw = disk.read_bytes()
    parts = range(0, len(raw), FILE)
    return small_tar(**{f"file{at}": raw[at : at + FILE] for at in parts})


def turbo_of(folder: Path, tar: bytes) -> Path:
    """Return the configuration of a TurboOCI image over one gzip layer."""
    layout = make_layout(folder / "layout", [tar])
    reference = parse(f"oci:{layout}:latest")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        options = TurboOptions(size=GIB)
        build_turbo(store, image, TurboFolder(folder / "turbo"), options=options)
    return folder / "turbo" / "config.v1.json"


def places_of(device: Device) -> list[tuple[int, int]]:
    """Return places of the disk that are in the tar, the same every time."""
    chance = random.Random(5)
    segments = [s for s in device.layers[0].segments if s.in_target and s.length >= 8]
    chosen = chance.choices(segments, [s.length for s in segments], k=READS)
    return [(512 * (s.start + chance.randrange(s.length - 7)), SIZE) for s in chosen]


def kept(device: Device, places: list[tuple[int, int]]) -> Callable[[], float]:
    """Return what gives the seconds of a read whose span is kept."""
    _core.limit_chunks(GIB)

    def sample() -> float:
        _core.limit_chunks(GIB)
        buffer = memoryview(bytearray(SIZE))
        for offset, _ in places:
            device.pread_into(offset, buffer)
        began = time.perf_counter()
        for offset, _ in places:
            device.pread_into(offset, buffer)
        return (time.perf_counter() - began) / len(places)

    return sample


def cold(device: Device, places: list[tuple[int, int]]) -> Callable[[], float]:
    """Return what gives the seconds of a read whose span must be inflated."""

    def sample() -> float:
        buffer, took = memoryview(bytearray(SIZE)), 0.0
        for offset, _ in places[:COLD]:
            _core.limit_chunks(0)
            _core.limit_chunks(GIB)
            began = time.perf_counter()
            device.pread_into(offset, buffer)
            took += time.perf_counter() - began
        return took / COLD

    return sample


def floor(tar: bytes) -> Callable[[], float]:
    """Return what gives the seconds that zlib takes for a MiB, on average."""
    streams = []
    for at in range(0, len(tar) - SPAN, len(tar) // COLD):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        streams.append(deflate.compress(tar[at : at + SPAN]) + deflate.flush())

    def sample() -> float:
        began = time.perf_counter()
        for stream in streams:
            zlib.decompressobj(-15).decompress(stream)
        return (time.perf_counter() - began) / len(streams)

    return sample


def index(packed: bytes) -> None:
    """Index a layer."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        data = packed[at : at + size]
        at += len(data)
        return data

    stream = Indexing(read, "layer")
    while stream.read(MIB):
        pass


def table(figures: dict[str, Figure]) -> str:
    """Return the latencies, beside the floor."""
    base = figures["zlib, a MiB of the tar"]
    found = Table(["4 KiB at random", "us", "of the floor"])
    for name, figure in figures.items():
        times = figure.median / base.median
        found.add(name, short(figure.median * 1e6), f"{short(times)}x")
    return found.markdown()


def words(device: Device, packed: bytes) -> str:
    """Say what the index costs."""
    layer = device.layers[0]
    assert layer.target
    assert layer.target.index
    size = Path(layer.target.index).stat().st_size
    return (
        f"The index over {short(len(packed) / MIB)} MiB of gzip is "
        f"{short(size / MIB)} MiB ({100 * size / len(packed):.1f} %), the metadata "
        f"{short(layer.blob.source.size / KIB)} KiB; in memory all of it takes "
        f"{short(device.memory / KIB)} KiB, besides the kept spans."
    )


def indexing(size: int, ours: Figure, zlibs: Figure) -> str:
    """Say how fast indexing is."""
    rates = [size / MIB / figure.median for figure in (ours, zlibs)]
    return (
        f"Indexing runs at {short(rates[0])} MiB/s of tar, zlib alone at "
        f"{short(rates[1])}."
    )
