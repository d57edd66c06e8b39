# SPDX-License-Identifier: Apache-2.0
"""
serving - what serves layers beside nbdkit's file plugin and qemu-nbd.

All serve the same disk, which is checked byte by byte before, and run at the
same time; they are asked in turn.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from tests.bench.harness import Figure, Table, in_turn, ratio, short
from tests.bench.servers import (
    JOBS,
    digest,
    fio,
    load,
    native,
    nbdkit,
    past_python,
    qemu_bench,
    qemu_convert,
    qemu_nbd,
)
from tests.bench.stacks import stack
from tests.bench.workshop import Workshop, pinned, settle
from tests.tools import environment, tool

COUNTS = (1, 32)
BASE = "nbdkit file, flat disk"

# How often QEMU reads; it takes no time limit.
QEMU_READS = {"QD1": 20_000, "QD32": 60_000, "1 MiB": 1500}

Figures = dict[str, dict[str, Figure]]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with ExitStack() as running:
        uris = {
            name: running.enter_context(server)
            for name, server in servers(shop).items()
        }
        with shop.disk.open("rb") as disk:
            wanted = hashlib.file_digest(disk, "sha256").hexdigest()
        for name, uri in uris.items():
            assert digest(uri) == wanted, name
        tables = {
            title: {
                job: in_turn(
                    {n: partial(work, u) for n, u in uris.items()}, shop.rounds
                )
                for job, work in works.items()
            }
            for title, works in clients(shop).items()
        }
    return "\n\n".join(
        f"{title}:\n\n{table(figures, list(uris)).markdown()}"
        for title, figures in tables.items()
    )


def clients(shop: Workshop) -> dict[str, dict[str, Callable[[str], float]]]:
    """Return what each client does with a server, by the client and the job."""
    seconds, log = 0.2 if shop.quick else 1.0, shop.folder / "fio.json"
    program = shop.compiled("load", core=False)
    size, fewer = shop.disk.stat().st_size, 20 if shop.quick else 1
    return {
        "fio, and nbdcopy of the whole disk": {
            **{
                name: partial(fio, job=job, seconds=seconds, log=log)
                for name, job in JOBS.items()
            },
            "nbdcopy": copy,
        },
        "A client that costs as little as one can (`tests/bench/c/load.c`)": {
            name: partial(load, program, job=job, seconds=seconds)
            for name, job in JOBS.items()
        },
        "QEMU's block layer (`qemu-img bench`, and `convert` to nowhere)": {
            **{
                name: partial(qemu_bench, job=JOBS[name], count=count // fewer)
                for name, count in QEMU_READS.items()
            },
            "convert": partial(qemu_convert, size=size),
        },
    }


def servers(shop: Workshop) -> dict[str, AbstractContextManager[str]]:
    """Return all that serve, by name."""
    folder = shop.folder / "sockets"
    folder.mkdir(exist_ok=True)
    found: dict[str, AbstractContextManager[str]] = {
        BASE: nbdkit(folder, str(shop.disk), plugin=["file"])
    }
    for count in COUNTS[:1] if shop.quick else COUNTS:
        made = stack(shop, count)
        for form in ("plain", "lz4"):
            keys = [f"config={path}" for path in made.layers[form]]
            name = f"{form} x {count}"
            if count == 1:
                found[f"obd.py in nbdkit, {name}"] = nbdkit(folder, *keys)
            found[f"with the filter, {name}"] = past_python(folder, *keys)
            found[f"native, {name}"] = native(folder, *keys)
        found[f"qemu-nbd, qcow2 x {count}"] = qemu_nbd(folder, made.chain)
    found["qemu-nbd, raw"] = qemu_nbd(folder, shop.disk, form="raw")
    for codec in ("zlib",) if shop.quick else ("zlib", "zstd"):
        image = compressed(shop, codec)
        found[f"qemu-nbd, qcow2 in {codec}"] = qemu_nbd(folder, image)
    return found


def compressed(shop: Workshop, codec: str) -> Path:
    """Return the disk as a compressed qcow2."""
    image = shop.folder / f"{codec}.qcow2"
    if not image.exists():
        words = [tool("qemu-img"), "convert", "-c", "-f", "raw", "-O", "qcow2"]
        words += ["-o", f"compression_type={codec}", str(shop.disk), str(image)]
        subprocess.run(words, check=True, env=environment())
        settle(image)
    return image


def copy(uri: str) -> float:
    """Have nbdcopy read all of a disk; return disks a second."""
    words = pinned(tool("nbdcopy"), uri, "null:", cpus=2)
    began = time.perf_counter()
    subprocess.run(words, check=True, env=environment())
    return 1 / (time.perf_counter() - began)


def table(figures: Figures, names: list[str]) -> Table:
    """Return a row a server: thousands of reads a second, GB/s, and disks/s."""
    made = Table(["thousand reads/s (of the file plugin)", *figures])
    for name in names:
        cells = []
        for job, found in figures.items():
            unit = 1.0
            if job in JOBS:
                unit = JOBS[job].size * 1000 if job != "1 MiB" else 1e9
            text = short(found[name].median / unit)
            cells.append(f"{text} ({ratio(found[name], found[BASE])})")
        made.add(name, *cells)
    return made
