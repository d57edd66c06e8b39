# SPDX-License-Identifier: Apache-2.0
"""
attaching - many devices at once, what each costs, and a machine's way to its disk.

The first table is about `obd attach` as a person runs it, each one a process
of its own; the second about the demo's machine, whose disk is layers, the
same disk as a raw file, and as qcow2, one after the other in each round.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.harness import Table, in_turn, ratio
from tests.bench.workshop import Workshop
from tests.host import rig
from tests.running import run_obd
from tests.tools import ROOT, environment, tool

COUNT = 200
IMAGES = ROOT / "images"


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    return f"{devices(shop)}\n\n{boots(shop)}"


def devices(shop: Workshop) -> str:
    """Attach many devices, two at a time, and detach them; return a table."""
    count = 6 if shop.quick else COUNT
    image = rig.layer(shop.folder, "ext4")
    with rig.host(shop.folder) as host:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = list(pool.map(lambda _: _attach(host, image), range(count)))
        states = [item["state"] for item in host.ps()]
        assert states == ["up"] * count, states
        memory = [_memory(item) for item in host.ps()]
        began = time.monotonic()
        host.obd("detach", *(item["name"] for item in host.ps()))
        gone = time.monotonic() - began
    table = Table(["obd attach", "devices", "p50", "p99", "memory: own", "with shared"])
    seconds = sorted(made)
    cells = [f"{count}", _ms(seconds, 50), _ms(seconds, 99)]
    private = statistics.median(own for own, _ in memory) / 1024
    whole = statistics.median(part for _, part in memory) / 1024
    table.add(made_by(), *cells, f"{private:.1f} MiB", f"{whole:.1f} MiB")
    return f"{table.markdown()}\n\nAll detached in {gone:.1f} s, by one command."


def made_by() -> str:
    """Return how devices are made here."""
    return "by the kernel" if Path("/sys/module/nbd").exists() else "by FUSE and loop"


def _attach(host: rig.Host, image: Path) -> float:
    began = time.monotonic()
    found = host.attach(image)
    with Path(found["device"]).open("rb") as device:  # it is usable
        assert len(device.read(4096)) == 4096
    return time.monotonic() - began


def _ms(seconds: list[float], percent: int) -> str:
    at = min(len(seconds) - 1, len(seconds) * percent // 100)
    return f"{seconds[at] * 1000:.0f} ms"


def _memory(item: dict[str, object]) -> tuple[int, int]:
    """Return KiB of a device: its processes' own, and with its part of the shared."""
    pids = [item["server-pid"], *item["bridge-pids"]]  # type: ignore[misc]
    own = whole = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = {k: int(v) for k, v in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
        own += found["Private_Dirty"] + found["Private_Clean"]
        whole += found["Pss"]
    return own, whole


# -- A machine


def boots(shop: Workshop) -> str:
    """Boot the demo's machine from each kind of disk; return a table."""
    folder = shop.folder / "machine"
    words = [IMAGES / "build.sh", ROOT / ".demo" / "cache", folder]
    subprocess.run(words, check=True)
    layers, raw, qcow2 = _disks(folder)
    rivals = {
        "raw file": lambda: _boot_served(folder, ["qemu-nbd", "-f", "raw", str(raw)]),
        "qcow2": lambda: _boot_served(folder, ["qemu-nbd", "-f", "qcow2", str(qcow2)]),
        "three layers, lz4": lambda: _boot_layers(folder, layers),
        "a raw file without NBD": lambda: _boot(folder, f"{raw}"),
    }
    figures = in_turn(rivals, 2 if shop.quick else min(shop.rounds, 3))
    table = Table(["boot to power off, emulated", "seconds", "of the raw file"])
    for name, found in figures.items():
        cell = f"{found.median:.1f} ({found.spread:.0%})"
        table.add(name, cell, ratio(found, figures["raw file"]))
    return table.markdown()


def _disks(folder: Path) -> tuple[list[Path], Path, Path]:
    layers: list[Path] = []
    for number in range(3):
        base = [w for path in layers for w in ("--base", str(path))]
        layers.append(folder / f"layer{number}.obd")
        run_obd("convert", *base, folder / f"disk{number}.raw", layers[-1])
    qcow2 = folder / "disk.qcow2"
    words = [tool("qemu-img"), "convert", "-O", "qcow2", folder / "disk2.raw", qcow2]
    subprocess.run(words, check=True)
    return layers, folder / "disk2.raw", qcow2


def _boot(folder: Path, uri: str) -> float:
    """Boot from a URI, or a file; return the seconds of all of it."""
    began = time.monotonic()
    more = environment(uri=uri, OBD_ACCEL="tcg")
    words = [IMAGES / "boot.sh", folder]
    done = subprocess.run(words, env=more, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began


def _boot_served(folder: Path, server: list[str]) -> float:
    socket = folder / "nbd.sock"
    socket.unlink(missing_ok=True)
    words = [tool(server[0]), "--read-only", "-k", str(socket), *server[1:]]
    process = subprocess.Popen(words, env=environment())
    try:
        while not socket.exists():
            time.sleep(0.01)
        return _boot(folder, f"nbd+unix:///?socket={socket}")
    finally:
        process.kill()
        process.wait()


def _boot_layers(folder: Path, layers: list[Path]) -> float:
    began = time.monotonic()
    more = {"OBD_ACCEL": "tcg"}
    run_obd("serve", *layers, "--", IMAGES / "boot.sh", folder, env=more)
    return time.monotonic() - began
