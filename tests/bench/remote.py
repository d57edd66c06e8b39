# SPDX-License-Identifier: Apache-2.0
"""
remote - images that stay in a registry: what a miss costs, and how a program starts.

The registry is Debian's docker-registry. A miss is compared with the request
for the same bytes alone; a start, over a slow line, with what others do first:
`skopeo copy` and `umoci unpack` of the whole image.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import obdengine
from obdengine import oci
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.service import Service
from obdengine.source.transport import Transport
from obdengine.units import KIB, MIB
from tests.bench.harness import Table
from tests.bench.link import Link
from tests.bench.workshop import Workshop, memory
from tests.containers import debian
from tests.registries import Registry
from tests.tools import environment, tool

LINES = ((100.0, 10.0), (25.0, 10.0))  # megabits a second, milliseconds a way

PACKAGES = [
    [*debian.LARGE[0], "libllvm14", "libclang-cpp14", "libicu72", "libz3-4"],
    [*debian.LARGE[1], "gcc-12", "cpp-12", "libgcc-12-dev", "git", "vim-runtime"],
]

PROGRAM = (
    "import json, re, email.message, http.client, decimal, tarfile, asyncio\n"
    "print('started', flush=True)\n"
)

MISS = 64 * KIB

_MISS = (
    "the request to the registry",
    "the whole miss",
    "the miss without the request: added by us",
    "the same read again: a hit",
)


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        with Registry(folder / "registry") as registry:
            parts = [misses(shop, folder, registry), streams(shop, folder, registry)]
            parts.append(layers(folder, registry))
            if not shop.quick:
                parts.append(starts(folder, registry))
    return "\n\n".join(parts)


def service_in(folder: Path) -> Service:
    """Return a service with a cache that is empty."""
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    return Service.from_json(
        {
            "cacheConfig": {"cacheDir": str(cache), "cacheSizeGB": 8},
            "prefetchConfig": {"concurrency": 0},
            "obdengine": {"registry": {"plainHttp": ["*"]}},
        }
    )


def obd(*words: str | Path, **env: str) -> None:
    """Run `obd`."""
    script = str(Path(sys.executable).with_name("obd"))
    command = [script, *map(str, words)]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=environment(**env)
    )


# -- What a miss costs


def misses(shop: Workshop, folder: Path, registry: Registry) -> str:
    """Compare reads of bytes that are not here with requests for them alone."""
    size = (16 if shop.quick else 128) * MIB
    raw, layer = folder / "noise.raw", folder / "noise.obd"
    raw.write_bytes(random.Random(1).randbytes(size))
    to_layer(raw, layer, options=LayerOptions(codec="lz4", block_size=16384))
    raw.unlink()
    name = f"docker://{registry.host}/noise:latest"
    obd("push", layer, name)
    service = service_in(folder)
    found: dict[str, list[float]] = {name: [] for name in _MISS}
    request, miss, added, hit = found.values()
    with obdengine.open([name], service=service) as device:
        origin = device.layers[0].blob.resident.fetcher.origin()
        ask = origin.read
        origin.read = lambda *a, **k: took(request, lambda: ask(*a, **k))
        offsets = list(range(MISS * 8, size - MISS * 8, MISS * 2))
        random.Random(2).shuffle(offsets)
        for at in offsets[: 100 if shop.quick else 900]:
            took(miss, lambda at=at: device.pread(at, 4096))
            added.append(miss[-1] - request[-1])
            took(hit, lambda at=at: device.pread(at, 4096))
    table = Table(["", "p50", "p99"])
    for what, seconds in found.items():
        table.add(what, *(f"{1e3 * q:.2f} ms" for q in quantiles(seconds)))
    head = "**A miss**: 4 KiB of which nothing is here, 64 KiB are fetched.\n\n"
    return head + table.markdown()


def took(seconds: list[float], work: Callable[[], Any]) -> Any:
    """Add the time that work takes, and return what it does."""
    before = time.perf_counter()
    done = work()
    seconds.append(time.perf_counter() - before)
    return done


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


# -- Reading on and on


def streams(shop: Workshop, folder: Path, registry: Registry) -> str:
    """Read what misses() has pushed in order, with what comes next asked for or not."""
    size = (4 if shop.quick else 64) * MIB
    table = Table(["MB/s, 128 KiB after 128 KiB", "only what is read", "and ahead"])
    for megabits in (100, 1000):
        rates = []
        for ahead in (False, True):
            with Link(registry.port, megabits, 10.0) as line:
                name = f"docker://127.0.0.1:{line.port}/noise:latest"
                with obdengine.open([name], service=service_in(folder)) as device:
                    if not ahead:
                        device.layers[0].blob.resident.ahead.most = 0
                    seconds: list[float] = []
                    took(seconds, lambda disk=device: read_through(disk, size))
            rates.append(f"{size / seconds[0] / 1e6:.1f}")
        table.add(f"{megabits} Mbit/s, 20 ms", *rates)
    head = "**Reading on and on** what is not here, in order, one read at a time.\n\n"
    return head + table.markdown()


def read_through(device: obdengine.Device, size: int) -> None:
    """Read size bytes from the start."""
    for at in range(0, size, 128 * KIB):
        device.pread(at, 128 * KIB)


# -- Opening


def layers(folder: Path, registry: Registry) -> str:
    """Count how long opening takes over a line, in its round trips."""
    push_twenty(folder, registry)
    milliseconds = 50.0
    head = ["20 layers, 100 ms a round trip", "time", "requests deep", "fetched"]
    table = Table(head)
    with Link(registry.port, 1000, milliseconds) as line:
        service = service_in(folder)
        where = f"docker://127.0.0.1:{line.port}/twenty:latest"
        for what in ("nothing is here", "opened before", "opened before, by digest"):
            if "digest" in what:
                where = by_digest(service, where, line.port)
            fetched = line.fetched
            seconds, deep = opening(where, service)
            table.add(
                what,
                f"{seconds:.2f} s",
                f"{deep}",
                f"{(line.fetched - fetched) / KIB:.0f} KiB",
            )
    return "**Opening**; a connection takes a round trip too.\n\n" + table.markdown()


def push_twenty(folder: Path, registry: Registry) -> None:
    """Push an image of 20 layers, each with a large table of blocks."""
    chance = random.Random(3)
    files = []
    for number in range(20):
        raw, layer = folder / "part.raw", folder / f"part{number}.obd"
        with raw.open("wb") as out:
            out.truncate(256 * MIB)
            for at in range(number * 4096, 64 * MIB, MIB):
                out.seek(at)
                out.write(chance.randbytes(16 * KIB))
        to_layer(raw, layer, options=LayerOptions(codec="zstd", block_size=4096))
        files.append(layer)
    obd("push", *files, f"docker://{registry.host}/twenty:latest")


def opening(image: str, service: Service) -> tuple[float, int]:
    """Return the seconds that it takes, and how many requests wait for another."""
    asked: list[tuple[float, float]] = []
    send = Transport._send

    def timed(self: Transport, *words: Any, **more: Any) -> Any:
        began = time.monotonic()
        answer = send(self, *words, **more)
        asked.append((began, time.monotonic()))
        return answer

    Transport._send = timed  # type: ignore[method-assign]
    before = time.perf_counter()
    try:
        obdengine.open([image], service=service).close()
    finally:
        Transport._send = send  # type: ignore[method-assign]
    return time.perf_counter() - before, depth(asked)


def depth(asked: list[tuple[float, float]]) -> int:
    """Return how many of some spans of time lie behind each other at least."""
    deep, last = 0, 0.0
    for start, end in sorted(asked, key=lambda one: one[1]):
        if start >= last:
            deep, last = deep + 1, end
    return deep


def by_digest(service: Service, where: str, port: int) -> str:
    """Return the name by digest, after it was opened once."""
    reference = oci.parse(where)
    with contextlib.closing(
        oci.open_store(reference, settings=service.registry)
    ) as store:
        digest = oci.resolve_image(store, reference.which).descriptor.digest
    named = f"docker://127.0.0.1:{port}/twenty@{digest}"
    obdengine.open([named], service=service).close()
    return named


# -- Starting a program


class Start(NamedTuple):
    """How long until the program's first words, and what came over the line."""

    seconds: float
    fetched: int


def starts(folder: Path, registry: Registry) -> str:
    """Compare ways to start a program of an image in a registry."""
    size, unpacked = push_both(folder, registry)
    ways: dict[str, Callable[[Path, Link], Start]] = {
        "`skopeo copy`, `umoci unpack`, start": pull_and_unpack,
        "ours, cold": lambda at, line: ours(at, line),
        "ours, cold, with its trace": lambda at, line: ours(at, line, trace=True),
        "ours, warm": lambda at, line: ours(at, line, warm=True),
    }
    record_trace(folder, registry)
    table = Table(["line", "way", "first words", "ratio", "fetched", "of the image"])
    for line in LINES:
        theirs = 0.0
        for way, run in ways.items():
            found = measured(folder, registry, line, run)
            theirs = theirs or found.seconds
            table.add(
                f"{line[0]:.0f} Mbit/s, {2 * line[1]:.0f} ms",
                way,
                f"{found.seconds:.2f} s",
                f"{found.seconds / theirs:.3f}",
                f"{found.fetched / MIB:.1f} MiB",
                f"{100 * found.fetched / size:.1f} %",
            )
    head = (
        f"**Starting Python** of an image of {size / MIB:.0f} MiB (gzip'd; the shares "
        f"are of that; {unpacked / MIB:.0f} MiB unpacked), from the command to its "
        "first words. Ours is zstd in blocks of 16 KiB.\n\n"
    )
    return head + table.markdown()


def measured(
    folder: Path,
    registry: Registry,
    line: tuple[float, float],
    run: Callable[[Path, Link], Start],
) -> Start:
    """Return the medians of some starts; of one, where it takes minutes."""
    found = []
    for _ in range(1 if run is pull_and_unpack else 3):
        with Link(registry.port, *line) as link:
            found.append(run(folder, link))
    seconds = statistics.median(one.seconds for one in found)
    return Start(seconds, int(statistics.median(one.fetched for one in found)))


def push_both(folder: Path, registry: Registry) -> tuple[int, int]:
    """Push an image as it is and as ours; return its bytes, gzip'd and unpacked."""
    layout = debian.image(folder, PACKAGES)
    tree = (folder / "bundle" / "rootfs").rglob("*")
    unpacked = sum(path.lstat().st_size for path in tree)
    shutil.rmtree(folder / "bundle")
    plain = f"docker://{registry.host}/app:oci"
    words = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    command = [tool("skopeo"), *words, f"oci:{layout}:app", plain]
    subprocess.run(command, check=True, env=environment())
    form = ["--compress", "zstd", "--block-size", "16k"]
    obd("convert", "--size", "2G", *form, f"oci:{layout}:app", folder / "ours")
    image = folder / "ours" / "config.v1.json"
    obd("push", image, f"docker://{registry.host}/app:obd")
    size = sum(path.stat().st_size for path in (layout / "blobs" / "sha256").iterdir())
    shutil.rmtree(layout)
    return size, unpacked


def pull_and_unpack(folder: Path, line: Link) -> Start:
    """Do what is done without us."""
    layout, bundle = folder / "pulled", folder / "unpacked"
    image = f"docker://127.0.0.1:{line.port}/app:oci"
    words = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    before = time.perf_counter()
    quiet = {"check": True, "env": environment(), "stdout": subprocess.DEVNULL}
    subprocess.run([tool("skopeo"), *words, image, f"oci:{layout}:app"], **quiet)
    subprocess.run(
        [tool("umoci"), "unpack", "--image", f"{layout}:app", str(bundle)], **quiet
    )
    start(bundle / "rootfs")
    found = Start(time.perf_counter() - before, line.fetched)
    shutil.rmtree(layout)
    shutil.rmtree(bundle)
    return found


def start(root: Path) -> None:
    """Run the program in a tree, and return when it has said its first words."""
    command = ["chroot", str(root), "/usr/bin/python3.11", "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        assert program.stdout.readline() == "started\n"


SERVED = """
import os, subprocess, sys, time
uri, root, program = sys.argv[1:4]
disk = root + ".disk"
os.mkdir(root)
open(disk, "w").close()
fuse = subprocess.Popen(["nbdfuse", "-r", disk, uri])
while not os.path.getsize(disk):
    time.sleep(0.005)
subprocess.run(["mount", "-o", "ro,noload,loop", disk, root], check=True)
try:
    words = ["chroot", root, "/usr/bin/python3.11", "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout.readline() == "started\\n"
        print(time.time(), flush=True)
finally:
    subprocess.run(["umount", root], check=True)
    # The loop device lets go of its file a moment later.
    while subprocess.run(["fusermount3", "-q", "-u", disk]).returncode:
        time.sleep(0.05)
    fuse.wait()
    os.rmdir(root)
    os.unlink(disk)
"""


def ours(folder: Path, line: Link, *, trace: bool = False, warm: bool = False) -> Start:
    """Start it from an image that stays where it is."""
    image = f"docker://127.0.0.1:{line.port}/app:obd"
    if warm:
        serve(folder, image, [])
    else:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    fetched = line.fetched
    more = ["--trace", str(folder / "app.trace")] if trace else []
    seconds = serve(folder, image, more)
    return Start(seconds, line.fetched - fetched)


def record_trace(folder: Path, registry: Registry) -> None:
    """Record a start, with a line that takes no time."""
    with Link(registry.port, 10_000, 0.0) as line:
        image = f"docker://127.0.0.1:{line.port}/app:obd"
        serve(folder, image, ["--record", str(folder / "app.trace")])


def serve(folder: Path, image: str, options: list[str]) -> float:
    """Serve an image, mount it, start the program; return the seconds that took."""
    service = folder / "service.json"
    cache = {"cacheDir": str(folder / "cache"), "cacheSizeGB": 8}
    own = {"registry": {"plainHttp": ["*"]}}
    service.write_text(json.dumps({"cacheConfig": cache, "obdengine": own}))
    script = str(Path(sys.executable).with_name("obd"))
    root = str(folder / f"root{random.randrange(1 << 30)}")
    words = ["serve", "--service", str(service), *options, image, "--"]
    command = [script, *words, sys.executable, "-c", SERVED, "$uri", root, PROGRAM]
    before = time.time()
    done = subprocess.run(
        command, check=True, env=environment(), stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[0]) - before
