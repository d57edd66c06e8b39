# SPDX-License-Identifier: Apache-2.0
"""
servers - NBD servers to be compared, and what is a client of all of them.

Servers and client share the same CPUs, as a VM host's do, and each serves
files that are in the page cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdengine.units import KIB, MIB
from tests.bench.workshop import pinned, run
from tests.running import PATIENCE, Export, start_native, start_nbdkit
from tests.tools import environment, nbdkit_filter, tool

CPUS = 2
CONNECTIONS = 8

# From one read to the next where it cannot be drawn by lot: 257 pages, so that
# all of a disk comes up, in an order that no readahead expects.
STEP = 257 * 4 * KIB


@dataclass(frozen=True)
class Job:
    """One thing that fio does: `size` bytes at a time, `depth` in flight on each.

    Attributes:
        flush: whether a flush follows each write.
    """

    pattern: str
    size: int
    depth: int
    connections: int = 1
    flush: bool = False


JOBS = {
    "QD1": Job("randread", 4 * KIB, 1),
    "QD32": Job("randread", 4 * KIB, 32),
    "QD32 x 4": Job("randread", 4 * KIB, 32, 4),
    "1 MiB": Job("read", MIB, 4),
}


@contextmanager
def nbdkit(
    folder: Path,
    *keys: str,
    plugin: Sequence[str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Run nbdkit with our plugin, or another, and yield its URI."""
    with _pinned(start_nbdkit(folder, *keys, plugin=plugin, options=options)) as uri:
        yield uri


@contextmanager
def past_python(folder: Path, *keys: str) -> Iterator[str]:
    """Run nbdkit with our plugin and our filter, as `obd serve` does."""
    with nbdkit(folder, *keys, options=[f"--filter={nbdkit_filter()}"]) as uri:
        yield uri


@contextmanager
def native(folder: Path, *keys: str) -> Iterator[str]:
    """Run the export of our own and yield its URI."""
    with _pinned(start_native(folder, *keys)) as uri:
        yield uri


@contextmanager
def _pinned(export: Export) -> Iterator[str]:
    # Before the first connection, whose threads inherit it.
    cpus = sorted(os.sched_getaffinity(0))[-CPUS:]
    for thread in Path(f"/proc/{export.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)
    try:
        yield export.uri
    finally:
        export.stop()


@contextmanager
def qemu_nbd(
    folder: Path, image: Path, *, readonly: bool = True, form: str = "qcow2"
) -> Iterator[str]:
    """Run qemu-nbd on an image and yield its URI.

    With io_uring, which here reads twice as much at depth 1 as its threads do.
    """
    socket = folder / f"{image.parent.name}-{image.stem}.sock"
    pid = socket.with_suffix(".pid")
    words = [tool("qemu-nbd"), "--persistent", "--fork"]
    words += ["--read-only"] if readonly else []
    words += [f"--shared={CONNECTIONS}", f"--socket={socket}", f"--pid-file={pid}"]
    words += [f"--format={form}", "--aio=io_uring", str(image)]
    subprocess.run(pinned(*words, cpus=CPUS), check=True, env=environment())
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        number = int(pid.read_text())
        ended = os.pidfd_open(number)
        os.kill(number, 15)
        select.select([ended], [], [], PATIENCE)
        os.close(ended)


def digest(uri: str) -> str:
    """Return the SHA-256 of all that a server has."""
    command = [tool("nbdcopy"), uri, "-"]
    with subprocess.Popen(command, env=environment(), stdout=-1) as process:
        found = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    assert process.returncode == 0, uri
    return found


def load(program: Path, uri: str, job: Job, seconds: float) -> float:
    """Do the same with c/load.c, a client that costs as little as one can."""
    how = "rand" if job.pattern == "randread" else "seq"
    numbers = (job.size, job.depth, job.connections, seconds)
    return float(run(program, _socket(uri), how, *map(str, numbers), cpus=CPUS))


def qemu_bench(uri: str, job: Job, count: int) -> float:
    """Have QEMU's block layer read so many times, and return the bytes a second.

    It has no chance in it: each read is a fixed step after the one before.
    """
    step = STEP if job.pattern == "randread" else job.size
    words = ["bench", "-f", "raw", "-U", "-c", str(count), "-d", str(job.depth)]
    words += ["-s", str(job.size), "-S", str(step), uri]
    said = run(tool("qemu-img"), *words, cpus=CPUS)
    found = re.search(r"completed in ([0-9.]+) seconds", said)
    assert found, said
    return count * job.size / float(found[1])


def qemu_convert(uri: str, size: int) -> float:
    """Have QEMU copy a disk of `size` bytes to nowhere; return disks a second."""
    words = ["convert", "-n", "-f", "raw", "--target-image-opts", uri]
    words += [f"driver=null-co,size={size}"]
    began = time.perf_counter()
    run(tool("qemu-img"), *words, cpus=CPUS)
    return 1 / (time.perf_counter() - began)


def _socket(uri: str) -> str:
    return uri.partition("?socket=")[2]


def fio(uri: str, job: Job, seconds: float, log: Path) -> float:
    """Read for that long as a job says, and return the bytes a second."""
    words = ["--norandommap", "--time_based", f"--runtime={round(seconds * 1000)}ms"]
    return _fio(uri, job, words, log)["read"]["bw_bytes"]


def fio_write(uri: str, job: Job, total: int, log: Path) -> float:
    """Write so many bytes as a job says, and return the bytes a second.

    At random no place is written twice; everybody writes the same to the same
    places, however often this is called.
    """
    words = [f"--io_size={total}", "--buffer_pattern=0x0bd5", "--randrepeat=1"]
    words += ["--fsync=1"] if job.flush else []
    written = _fio(uri, job, words, log)["write"]
    assert written["io_bytes"] == total, written
    return written["bw_bytes"]


def _fio(uri: str, job: Job, more: list[str], log: Path) -> dict[str, Any]:
    words = [tool("fio"), "--name=job", "--ioengine=nbd", f"--uri={uri}"]
    words += [f"--rw={job.pattern}", f"--bs={job.size}", f"--iodepth={job.depth}"]
    words += [f"--numjobs={job.connections}", "--thread", "--group_reporting"]
    words += ["--output-format=json", f"--output={log}", *more]
    subprocess.run(
        pinned(*words, cpus=CPUS), check=True, env=environment(), stdout=-3, stderr=-3
    )
    # The engine says that it connected, and says it there.
    (result,) = json.loads(log.read_text()[log.read_text().index("{") :])["jobs"]
    done = result["read"]["total_ios"] + result["write"]["total_ios"]
    moved = result["read"]["io_bytes"] + result["write"]["io_bytes"]
    assert result["error"] == 0, result
    assert moved == done * job.size > 0, result
    return result
