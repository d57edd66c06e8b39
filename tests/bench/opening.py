# SPDX-License-Identifier: Apache-2.0
"""
opening - how soon the first bytes of an image of 40 layers come, and at what cost.

Beside it a qcow2 chain of as many files with the same data, read by qemu-io.
Each starts in a process of its own and must read the same 4 KiB.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import obdengine
from obdengine.units import KIB, MIB
from tests.bench.harness import Figure, Table, in_turn, ratio, short, timed
from tests.bench.stacks import stack
from tests.bench.workshop import Workshop, pinned, run
from tests.tools import environment, tool

LAYERS = 40
SIZE = 4 * KIB
AT = MIB

# Prints what it read, then waits until it has been looked at.
OURS = f"""
import sys, obdengine
print(obdengine.open(sys.argv[1:]).pread({AT}, {SIZE}).hex(" "), "done", flush=True)
sys.stdin.read()
"""


# What of that is Python's own and our modules'.
IMPORT = """
import sys
from obdengine import open
print("done", flush=True)
sys.stdin.read()
"""


# Opens the same many times, and prints the bytes that each of them takes of its
# own, having been read from, and those of the index, an entry.
MANY = f"""
import sys, obdengine
from pathlib import Path

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    found = [line.split() for line in lines if line.startswith("Private_")]
    return sum(int(words[1]) for words in found) * 1024

def disk():
    device = obdengine.open(sys.argv[2:])
    device.pread({AT}, {SIZE})
    return device

count = int(sys.argv[1])
some = [disk() for _ in range(20)]
before = own()
more = [disk() for _ in range(count)]
print((own() - before) / count, some[0]._table.memory / some[0].entries)
"""


class Start:
    """A program that opens an image and prints bytes of it, started anew each time.

    Attributes:
        read: the bytes that it printed last.
        memory: the most memory that it held until then, in bytes.
    """

    def __init__(self, *words: str, request: str = "", done: str = "done") -> None:
        """Start `words`, send the request, wait for a line with the word `done`."""
        self._words = pinned(*words)
        self._request = request.encode()
        self._done = done.encode()
        self.read = b""
        self.memory = 0

    def seconds(self) -> float:
        """Return the seconds from the start until the bytes were there."""
        began = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(self._words, env=environment(), **pipes) as process:
            process.stdin.write(self._request)
            process.stdin.flush()
            lines = []
            for line in process.stdout:
                lines.append(line)
                if self._done in line:
                    break
            took = time.perf_counter() - began
            self.memory = peak_memory(process.pid)
            process.communicate()
        self.read = printed_bytes(b"".join(lines).decode())
        return took


def peak_memory(pid: int) -> int:
    """Return the most bytes of memory that a live process has held at once."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) * KIB


def printed_bytes(text: str) -> bytes:
    """Return the bytes in a hex dump, with or without offsets before them."""
    runs = re.findall(r"(?:^|:  )((?:[0-9a-f]{2} ){16,})", text, re.MULTILINE)
    return bytes.fromhex("".join(runs))


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    stacks = {count: stack(shop, count) for count in (1, LAYERS)}
    layers = {count: one.layers["lz4"] for count, one in stacks.items()}
    ours = {count: start_ours(paths) for count, paths in layers.items()}
    qemu = {count: start_qemu_io(one.chain) for count, one in stacks.items()}
    rivals = {f"ours {count}": start.seconds for count, start in ours.items()}
    rivals |= {f"qemu {count}": start.seconds for count, start in qemu.items()}
    bare = Start(sys.executable, "-c", IMPORT)
    rivals["import"] = bare.seconds
    rivals |= {
        f"open {count}": timed(partial(open_and_read, paths))
        for count, paths in layers.items()
    }
    figures = in_turn(rivals, shop.rounds)
    read = {start.read for start in (*ours.values(), *qemu.values())}
    assert len(read) == 1, "they read different bytes"
    assert len(read.pop()) == SIZE
    tables = [times(figures), memory(ours, qemu, bare), together(layers)]
    return "\n\n".join(made.markdown() for made in tables)


def start_ours(layers: list[Path]) -> Start:
    """Return what opens the layers in a Python of its own."""
    return Start(sys.executable, "-c", OURS, *map(str, layers))


def start_qemu_io(image: Path) -> Start:
    """Return what opens a qcow2 chain in qemu-io."""
    request = f"read -v {AT} {SIZE}\n"
    return Start(
        tool("qemu-io"), "-r", str(image), request=request, done="bytes at offset"
    )


def open_and_read(layers: list[Path]) -> None:
    """Open, read and close in this process."""
    with obdengine.open(layers) as device:
        device.pread(AT, SIZE)


def times(figures: dict[str, Figure]) -> Table:
    """Return the times until the first bytes."""
    table = Table(["milliseconds to the first 4 KiB", "1 file", f"{LAYERS} files"])
    for rival, words in (
        ("qemu", "`qemu-io` on qcow2, new process"),
        ("ours", "Python with `obdengine`, new process"),
        ("open", "`obdengine.open` alone"),
    ):
        cells = []
        for count in (1, LAYERS):
            mine, base = figures[f"{rival} {count}"], figures[f"qemu {count}"]
            # Only processes are compared with processes.
            times = f" ({ratio(mine, base)})" if rival == "ours" else ""
            cells.append(short(mine.median * 1e3) + times)
        table.add(words, *cells)
    started = short(figures["import"].median * 1e3)
    table.add("Python that only imports `obdengine`", started, "")
    return table


def memory(ours: dict[int, Start], qemu: dict[int, Start], bare: Start) -> Table:
    """Return the memory of those processes."""
    table = Table(["MiB held at most", "1 file", f"{LAYERS} files", "each file more"])
    for words, starts in (("`qemu-io`", qemu), ("Python with `obdengine`", ours)):
        held = {count: start.memory / MIB for count, start in starts.items()}
        more = (held[LAYERS] - held[1]) / (LAYERS - 1)
        table.add(words, short(held[1]), short(held[LAYERS]), short(more))
    table.add("Python that only imports `obdengine`", short(bare.memory / MIB), "", "")
    return table


def together(layers: dict[int, list[Path]]) -> Table:
    """Return the memory of many disks over the same layers in one process."""
    words = "a Python with 200 disks over the same files"
    table = Table([words, "1 file", f"{LAYERS} files"])
    found = {
        count: run(sys.executable, "-c", MANY, "200", *paths).split()
        for count, paths in layers.items()
    }
    each, entry = zip(*(found[count] for count in (1, LAYERS)), strict=True)
    table.add("each disk more, KiB", *(short(float(text) / KIB) for text in each))
    table.add("index, bytes an entry", *(short(float(text)) for text in entry))
    return table
