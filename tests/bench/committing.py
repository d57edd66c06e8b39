# SPDX-License-Identifier: Apache-2.0
"""
committing - a writable layer into a read-only one, beside lz4 and zstd.

The disk was written in pieces at random, so a log has to be read out of its
order. The programs compress the same bytes in one stream, from a flat file;
a commit also finds zeros, makes an index, checksums blocks, and hashes. On
several CPUs sha256sum hashes what the programs make.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import obdengine
from obdengine.ops.commit import commit
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB
from tests.bench.converting import (
    OURS,
    THEIRS,
    check,
    cpus,
    many,
    only_cpus,
    their,
    their_hashed,
)
from tests.bench.harness import Figure, Table, in_turn, ratio, short, timed
from tests.bench.uppers import empty_disk
from tests.bench.workshop import Workshop, memory

KINDS = ("plain", "lz4 4K", "lz4 64K", "zstd 16K")
PIECE = 16 * KIB

# A layer's uuid is new each time: this one makes them comparable.
UUID = "6d1c4f0e-59a4-4d6e-9f0b-0c7b2f8f8f01"


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        out = Path(folder)
        images = {
            form: written(shop, out / form, form) for form in ("append", "sparse")
        }
        rivals = {codec: timed(partial(their, shop, codec, out)) for codec in THEIRS}
        for codec in THEIRS:
            rivals[many(codec)] = timed(partial(their_hashed, shop, codec, out))
        for kind in KINDS:
            for column, (form, threads) in COLUMNS.items():
                options = replace(OURS[kind], threads=threads, uuid=UUID)
                target = out / f"{kind}-{form}"
                work = partial(our, images[form], target, options)
                rivals[f"{kind}, {column}"] = timed(work)
        figures = in_turn(rivals, shop.rounds)
        for kind in KINDS:
            one, other = (out / f"{kind}-{form}" for form in images)
            assert one.read_bytes() == other.read_bytes(), kind
            check(shop, one)
    size = shop.disk.stat().st_size
    return table({name: each.inverted(size / 1e9) for name, each in figures.items()})


COLUMNS = {
    "append, 1 CPU": ("append", 1),
    "sparse, 1 CPU": ("sparse", 1),
    f"append, {cpus()} CPUs": ("append", cpus()),
}


def written(shop: Workshop, folder: Path, form: str) -> Path:
    """Return an image whose writable layer has the disk, written at random."""
    size = shop.disk.stat().st_size
    image = empty_disk(folder, size, form)
    offsets = list(range(0, size, PIECE))
    random.Random(size).shuffle(offsets)
    with (
        obdengine.open(image, readonly=False) as device,
        shop.disk.open("rb", buffering=0) as disk,
    ):
        for offset in offsets:
            disk.seek(offset)
            device.pwrite(offset, disk.read(PIECE))
    return image


def our(image: Path, target: Path, options: LayerOptions) -> None:
    """Commit on as many CPUs as threads."""
    with only_cpus(options.threads):
        commit(image, target, options=options)


def table(rates: dict[str, Figure]) -> str:
    """Return the table: GB of the disk a second."""
    made = Table(["GB/s (of the program)", *COLUMNS])
    for codec, (words, _) in THEIRS.items():
        one, all_of_them = (short(rates[n].median) for n in (codec, many(codec)))
        made.add(words, one, "", all_of_them)
    for kind in KINDS:
        codec, cells = kind.split()[0], []
        for column, (_, threads) in COLUMNS.items():
            rate = rates[f"{kind}, {column}"]
            rival = many(codec) if threads > 1 else codec
            times = f" ({ratio(rate, rates[rival])})" if codec in THEIRS else ""
            cells.append(f"{short(rate.median)}{times}")
        made.add(kind, *cells)
    return made.markdown()
