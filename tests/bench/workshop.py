# SPDX-License-Identifier: Apache-2.0
"""
workshop - what every bench needs: a folder, the disk, compiled C, the machine.

The disk is made of this machine's own files, so its bytes differ from one
machine to the next; figures are only compared within one run.
"""

from __future__ import annotations

import functools
import os
import platform
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from obdengine import _core
from obdengine.units import KIB, MIB, round_up
from tests.bench.harness import ROUNDS, Figure, parse_samples
from tests.tools import ROOT, environment, tool

CORE = ROOT / "obdengine" / "_core"
PROGRAMS = Path(__file__).parent / "c"

# As the extension is compiled, see _core/ffi_build.py.
CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-DNDEBUG", f"-I{CORE}"]

PAGE = 4 * KIB
TEXTS = ("/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3.11")
BINARIES = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/gcc")


@dataclass(frozen=True)
class Workshop:
    """Where a bench works and how long it may take.

    Attributes:
        folder: for files, on one file system, removed afterwards.
        quick: a run that shows that everything works, not how fast.
    """

    folder: Path
    quick: bool = False

    @property
    def rounds(self) -> int:
        """How often every rival is measured."""
        return 2 if self.quick else ROUNDS

    @functools.cached_property
    def disk(self) -> Path:
        """A flat disk: text, programs, and one page in sixteen of zeros."""
        path = self.folder / "disk.raw"
        if not path.exists():
            make_disk(path, (64 if self.quick else 256) * MIB)
        return path

    def compiled(
        self, name: str, *, libraries: Sequence[str] = (), core: bool = True
    ) -> Path:
        """Return the program made of c/`name`.c, and the core's C if it needs that."""
        program = self.folder / name
        if not program.exists():
            parts = sorted(map(str, CORE.glob("*.c"))) if core else []
            sources = [p for p in parts if not Path(p).name.startswith("_")]
            command = [os.environ.get("CC", "cc"), *CFLAGS, "-o", str(program)]
            command += [str(PROGRAMS / f"{name}.c"), *sources]
            subprocess.run([*command, *(f"-l{lib}" for lib in libraries)], check=True)
        return program


def memory() -> str | None:
    """Return a folder in memory, if there is one: no disk shall be measured."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def pinned(*words: str | Path, cpus: int = 1) -> list[str]:
    """Return a command that runs on the last CPU only, or on the last few.

    Everybody who is compared runs on the same ones.
    """
    usable = sorted(os.sched_getaffinity(0))[-cpus:]
    which = ",".join(map(str, usable))
    return [tool("taskset"), "-c", which, *map(str, words)]


def run(*words: str | Path, cpus: int = 1) -> str:
    """Run a command pinned and return its output; CalledProcessError if it fails."""
    done = subprocess.run(
        pinned(*words, cpus=cpus), check=True, stdout=-1, text=True, env=environment()
    )
    return done.stdout


def run_samples(*words: str | Path) -> dict[str, dict[str, Figure]]:
    """Run a C program on one CPU and return the figures that it prints."""
    return parse_samples(run(*words))


def make_disk(path: Path, size: int) -> None:
    """Write a disk of `size` bytes from files of this machine, page-aligned."""
    chance = random.Random(size)
    # Whatever file comes first must not make the disk look like its kind.
    disk = bytearray(b"a disk of files of this machine\n".ljust(PAGE, b"\0"))
    for file in _files(chance):
        raw = file.read_bytes()[: 4 * MIB]
        if compresses(raw):
            zeros = PAGE * chance.randrange(1, 9) if chance.random() < 0.1 else 0
            disk += raw.ljust(round_up(len(raw), PAGE) + zeros, b"\0")
        if len(disk) >= size:
            break
    path.write_bytes(memoryview(disk)[:size])
    settle(path)


def settle(path: Path) -> None:
    """Bring a file into the page cache by reading it, whoever wrote it and how.

    What was written stays cached in pieces as large as the writes were, and
    large ones are read up to twice as fast: that must not decide anything.
    """
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(MIB):
            pass


def compresses(raw: bytes) -> bool:
    """Tell whether every part of raw gets a little smaller.

    A layer with one 64 KiB block that does not is written in 32 KiB blocks,
    and would not be what it is measured for.
    """
    block = 16 * KIB
    _, lengths = _core.encode_blocks(
        raw, algo=_core.ALGO_LZ4, level=1, block_size=block, verify=False
    )
    whole = lengths[: len(raw) // block]
    return max(whole, default=0) < block - 512


def _files(chance: random.Random) -> Iterator[Path]:
    pools = [_regular(TEXTS), _regular(BINARIES)]
    for pool in pools:
        chance.shuffle(pool)
    while True:
        # Binaries are far larger: one of them for eight texts.
        for texts in range(0, len(pools[0]) - 8, 8):
            yield from pools[0][texts : texts + 8]
            yield pools[1][texts // 8 % len(pools[1])]


def _regular(folders: Sequence[str]) -> list[Path]:
    found = (path for folder in folders for path in sorted(Path(folder).rglob("*")))
    return [
        path
        for path in found
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 0
    ]


def machine() -> str:
    """Return one line about this machine."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = f"{pages * page / 2**30:.0f} GiB"
    cpus = len(os.sched_getaffinity(0))
    return f"{model}, {cpus} CPUs, {memory}, Linux {platform.release()}"
