# SPDX-License-Identifier: Apache-2.0
"""
building - a container image into layers, beside umoci, mke2fs -d and zstd.

Theirs makes one disk of all layers, whose parts cannot be shared or read
alone; ours makes a layer of each. Both begin with the same image, of Debian's
packages, gzip'd by umoci, and end with files in memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from obdengine.units import MIB
from tests.bench.harness import Table, short
from tests.bench.workshop import Workshop, memory
from tests.containers import debian
from tests.tools import environment, tool

OURS = {
    "ours, lz4 4K": ["--compress", "lz4", "--block-size", "4k"],
    "ours, zstd 4K": ["--compress", "zstd", "--block-size", "4k"],
    "ours, zstd 16K": ["--compress", "zstd", "--block-size", "16k"],
    "ours, zstd 64K": ["--compress", "zstd", "--block-size", "64k"],
    "ours, zstd -3 64K": [
        *("--compress", "zstd", "--block-size", "64k"),
        *("--level", "3"),
    ],
}
THEIRS = "`umoci unpack`, `mke2fs -d`, `zstd -3`"
GZIP = "the image itself, gzip"

# As large as the disk must be: theirs reads all of it.
SIZE = "1G"


class Cost(NamedTuple):
    """What one conversion took: seconds, seconds of CPU, MiB at the peak."""

    wall: float
    cpu: float
    peak: float


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    packages = debian.SMALL if shop.quick else debian.LARGE
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        layout = debian.image(folder, packages)
        tars, packed = image_size(layout)
        shutil.rmtree(folder / "bundle")
        costs: dict[str, list[Cost]] = {}
        sizes = {GZIP: packed}
        for _ in range(shop.rounds):
            for name, options in OURS.items():
                target = folder / "image"
                costs.setdefault(name, []).append(ours(layout, target, options))
                sizes[name] = sum(f.stat().st_size for f in target.glob("*.obd"))
                shutil.rmtree(target)
            costs.setdefault(THEIRS, []).append(theirs(layout, folder))
            sizes[THEIRS] = (folder / "disk.zst").stat().st_size
    return table(costs, sizes, tars)


def ours(layout: Path, target: Path, options: Sequence[str]) -> Cost:
    """Convert into a folder."""
    script = Path(sys.executable).with_name("obd")
    words = ["convert", "--no-cache", "--size", SIZE, *options]
    return measured([str(script), *words, f"oci:{layout}:app", str(target)])


def theirs(layout: Path, folder: Path) -> Cost:
    """Unpack, make a file system of the tree, and compress that."""
    bundle, disk = folder / "theirs", folder / "disk"
    steps = [
        [tool("umoci"), "unpack", "--image", f"{layout}:app", str(bundle)],
        [tool("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal"],
        [tool("zstd"), "-3", "-q", "-f", "-T0", str(disk), "-o", f"{folder}/disk.zst"],
    ]
    steps[1] += ["-d", str(bundle / "rootfs"), str(disk), SIZE]
    taken = [measured(step) for step in steps]
    shutil.rmtree(bundle)
    disk.unlink()
    walls, cpus, peaks = zip(*taken, strict=True)
    return Cost(sum(walls), sum(cpus), max(peaks))


def measured(command: Sequence[str]) -> Cost:
    """Run a command, and return what it and its children took."""
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        # The kernel's ru_maxrss counts what this process had when it forked.
        while not (done := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.005)
        _, status, used = done
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    wall = time.perf_counter() - began
    return Cost(wall, used.ru_utime + used.ru_stime, peak)


def peak_of(pid: int) -> float:
    """Return the most memory that a process has had so far, in MiB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def image_size(layout: Path) -> tuple[int, int]:
    """Return the bytes of the tars of the image, and of its blobs."""

    def read(digest: str) -> bytes:
        return (layout / "blobs" / digest.replace(":", "/")).read_bytes()

    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    blobs = [read(row["digest"]) for row in json.loads(read(entry["digest"]))["layers"]]
    return sum(len(zlib.decompress(blob, 31)) for blob in blobs), sum(map(len, blobs))


def table(costs: dict[str, list[Cost]], sizes: dict[str, int], tars: int) -> str:
    """Return the table: MB of the tars a second, memory, and what came out."""

    def middle(name: str, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in costs[name])

    made = Table(
        [
            f"{tars / MIB:.0f} MiB of tars",
            *("MB/s", "of theirs", "MB/s of CPU time", "of theirs", "peak MiB"),
            *("MiB made", "of gzip"),
        ]
    )
    rates = {
        name: [tars / 1e6 / middle(name, what) for what in ("wall", "cpu")]
        for name in costs
    }
    for name in [THEIRS, *OURS]:
        wall, cpu = rates[name]
        made.add(
            name,
            short(wall),
            f"{wall / rates[THEIRS][0]:.2f}x",
            short(cpu),
            f"{cpu / rates[THEIRS][1]:.2f}x",
            short(middle(name, "peak")),
            short(sizes[name] / MIB),
            f"{sizes[name] / sizes[GZIP]:.2f}x",
        )
    made.add(GZIP, *[""] * 5, short(sizes[GZIP] / MIB), "1.00x")
    return made.markdown()
