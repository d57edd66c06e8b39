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
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from tests.bench.harness import Figure, Table, in_turn, ratio, short
from tests.bench.servers import (
    JOBS,
    digest,
    fio,
    native,
    nbdkit,
    past_python,
    qemu_nbd,
)
from tests.bench.stacks import stack
from tests.bench.workshop import Workshop, pinned, settle
from tests.tools import environment, tool

COUNTS = (1, 32)
BASE = "nbdkit file, flat disk"

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
        log = shop.folder / "fio.json"
        seconds = 0.2 if shop.quick else 1.0
        figures = {
            job: in_turn(
                {
                    name: partial(fio, uri, JOBS[job], seconds, log)
                    for name, uri in uris.items()
                },
                shop.rounds,
            )
            for job in JOBS
        }
        copies = in_turn(
            {name: partial(copy, uri) for name, uri in uris.items()},
            shop.rounds,
        )
    figures["nbdcopy"] = copies
    return table(figures, list(uris)).markdown()


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
