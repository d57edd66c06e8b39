# SPDX-License-Identifier: Apache-2.0
"""
serving - the nbdkit plugin beside nbdkit's file plugin and qemu-nbd on qcow2.

All serve the same disk, which is checked byte by byte before, and run at the
same time; they are asked in turn.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import partial

from tests.bench.harness import Figure, Table, in_turn, ratio, short
from tests.bench.servers import JOBS, digest, fio, nbdkit, qemu_nbd
from tests.bench.stacks import stack
from tests.bench.workshop import Workshop

COUNTS = (1, 8, 32)
BASE = "nbdkit file, flat disk"

Figures = dict[str, dict[str, Figure]]


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with ExitStack() as running:
        uris = start(shop, running)
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
    return table(figures, list(uris)).markdown()


def start(shop: Workshop, running: ExitStack) -> dict[str, str]:
    """Start every server and return their URIs by name."""
    folder = shop.folder / "sockets"
    folder.mkdir(exist_ok=True)
    begin = running.enter_context
    uris = {BASE: begin(nbdkit(folder, str(shop.disk), plugin=["file"]))}
    for count in (1,) if shop.quick else COUNTS:
        made = stack(shop, count)
        for form in ("plain", "lz4"):
            keys = [f"config={path}" for path in made.layers[form]]
            uris[f"ours, {form} x {count}"] = begin(nbdkit(folder, *keys))
        uris[f"qemu-nbd, qcow2 x {count}"] = begin(qemu_nbd(folder, made.chain))
    return uris


def table(figures: Figures, names: list[str]) -> Table:
    """Return a row a server: thousands of reads a second, and GB/s for 1 MiB."""
    made = Table(["thousand reads/s (of the file plugin)", *JOBS])
    for name in names:
        cells = []
        for job, found in figures.items():
            unit = JOBS[job].size * 1000 if job != "1 MiB" else 1e9
            text = short(found[name].median / unit)
            cells.append(f"{text} ({ratio(found[name], found[BASE])})")
        made.add(name, *cells)
    return made
