# SPDX-License-Identifier: Apache-2.0
"""
writing - a writable layer in nbdkit beside a raw file and qcow2, over NBD.

Each has a fresh disk for each job and round, does the job, and does it again
over what it wrote. All must then have the same disk.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from obdengine.units import KIB, MIB
from tests.bench.harness import Figure, Table, ratio, short
from tests.bench.servers import (
    Job,
    digest,
    fio_write,
    native,
    nbdkit,
    past_python,
    qemu_nbd,
)
from tests.bench.stacks import stack
from tests.bench.workshop import Workshop, settle
from tests.tools import environment, tool

# What each job does, and how many bytes it writes.
JOBS = {
    "QD1": (Job("randwrite", 4 * KIB, 1), 32 * MIB),
    "QD32": (Job("randwrite", 4 * KIB, 32), 64 * MIB),
    "1 MiB": (Job("write", MIB, 4), 256 * MIB),
    "write + flush": (Job("randwrite", 4 * KIB, 1, flush=True), 4 * MIB),
}
BASE = "nbdkit file, raw"
EMPTY = "qemu-nbd, qcow2"

Server = Callable[[Path], AbstractContextManager[str]]
Samples = dict[str, list[float]]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    tables = {
        "To a fresh disk:": Table(HEADER),
        "The same again, over what was written:": Table(HEADER),
    }
    passes = measure(shop)
    for made, samples in zip(tables.values(), passes, strict=True):
        fill(made, samples)
    return "\n\n".join(f"{text}\n\n{made.markdown()}" for text, made in tables.items())


HEADER = ["thousand writes/s (of the raw file)", *JOBS]


def rivals(shop: Workshop) -> dict[str, Server]:
    """Return how to serve a fresh disk, by name."""
    layer, chain = stack(shop, 1).layers["lz4"][0], stack(shop, 1).chain
    return {
        BASE: partial(raw, shop.disk),
        EMPTY: partial(qcow2, shop.disk.stat().st_size, None),
        "qemu-nbd, qcow2 over qcow2": partial(qcow2, None, chain),
        "obd.py, append over lz4": partial(ours, nbdkit, layer, "append", []),
        "with the filter": partial(ours, past_python, layer, "append", []),
        "the same, garbage=0": partial(
            ours, past_python, layer, "append", ["garbage=0"]
        ),
        "with the filter, sparse": partial(ours, past_python, layer, "sparse", []),
        "native, append": partial(ours, native, layer, "append", []),
        "native, sparse": partial(ours, native, layer, "sparse", []),
    }


@contextmanager
def raw(disk: Path, folder: Path) -> Iterator[str]:
    """Serve a copy of the disk with nbdkit's file plugin."""
    copy = Path(shutil.copyfile(disk, folder / "disk.raw"))
    settle(copy)
    with nbdkit(folder, str(copy), plugin=["file"]) as uri:
        yield uri


@contextmanager
def qcow2(size: int | None, backing: Path | None, folder: Path) -> Iterator[str]:
    """Serve an empty qcow2 of that size, or one over another, with qemu-nbd."""
    image = folder / "disk.qcow2"
    words = [tool("qemu-img"), "create", "-q", "-f", "qcow2"]
    words += ["-b", str(backing), "-F", "qcow2"] if backing else []
    words += [str(image), *([str(size)] if size else [])]
    subprocess.run(words, check=True, env=environment())
    with qemu_nbd(folder, image, readonly=False) as uri:
        yield uri


@contextmanager
def ours(
    server: Callable[..., AbstractContextManager[str]],
    layer: Path,
    form: str,
    keys: list[str],
    folder: Path,
) -> Iterator[str]:
    """Serve an upper of that form over a layer."""
    words = [f"config={layer}", f"upper={folder / 'upper'}", f"form={form}"]
    with server(folder, *words, *keys) as uri:
        yield uri


def measure(shop: Workshop) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Return the bytes a second of the first and the second pass: by job and rival."""
    servers = rivals(shop)
    first: dict[str, Samples] = {job: {name: [] for name in servers} for job in JOBS}
    again: dict[str, Samples] = {job: {name: [] for name in servers} for job in JOBS}
    for number in range(shop.rounds):
        for job in JOBS:
            disks = {}
            for name, server in servers.items():
                rates, disks[name] = write_twice(shop, server, job, number == 0)
                first[job][name].append(rates[0])
                again[job][name].append(rates[1])
            # What lies beside the writes differs on this one.
            del disks[EMPTY]
            assert len(set(disks.values())) == 1, (job, disks)
    return first, again


def write_twice(
    shop: Workshop, server: Server, name: str, checked: bool
) -> tuple[list[float], str]:
    """Do a job twice on a fresh disk: the rates, and if checked, the disk's digest."""
    job, total = JOBS[name]
    total //= 16 if shop.quick else 1
    with tempfile.TemporaryDirectory(dir=shop.folder) as folder:
        log = Path(folder, "fio.json")
        with server(Path(folder)) as uri:
            rates = [fio_write(uri, job, total, log) for _ in range(2)]
            return rates, digest(uri) if checked else ""


def fill(made: Table, samples: dict[str, Samples]) -> None:
    """Add a row a server: thousands of writes a second, and GB/s for 1 MiB."""
    figures = {
        job: {name: Figure(tuple(rates)) for name, rates in by_name.items()}
        for job, by_name in samples.items()
    }
    for name in figures["QD1"]:
        cells = []
        for job, found in figures.items():
            unit = JOBS[job][0].size * 1000 if job != "1 MiB" else 1e9
            text = short(found[name].median / unit)
            cells.append(f"{text} ({ratio(found[name], found[BASE])})")
        made.add(name, *cells)
