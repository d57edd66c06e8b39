# SPDX-License-Identifier: Apache-2.0
"""
test_faults - a registry, a cache and servers that die, under reads that are judged.

Every byte that comes is right, or none comes and the error says why.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from tests import running, stacks
from tests.registries import Registry
from tests.remote.images import configure, digest_of, serving
from tests.running import run_obd
from tests.tools import ROOT, SYSTEM_PYTHON, environment, requires

# Seconds that a loaded machine may take for what takes no time.
GRACE = 30.0

# Reads so often at least, and until it is told to end.
READER = """
import json, nbd, random, select, sys, time
uri, path, least, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
truth = open(path, "rb").read()
chance = random.Random(seed)
h = nbd.NBD()
h.connect_uri(uri)
reads = errors = 0
longest = 0.0
print("connected", flush=True)
while reads < least or not select.select([sys.stdin], [], [], 0)[0]:
    offset = chance.randrange(len(truth))
    size = min(chance.choice([512, 4096, 65536, 300000]), len(truth) - offset)
    before = time.monotonic()
    try:
        found = h.pread(size, offset)
    except nbd.Error as error:
        errors += 1
        assert error.errno in ("EIO", "ETIMEDOUT"), error.errno
    else:
        reads += 1
        assert found == truth[offset:offset + size], (offset, size)
    longest = max(longest, time.monotonic() - before)
print(json.dumps([reads, errors, longest]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    folder = tmp_path_factory.mktemp("made")
    image = stacks.make(folder)
    (folder / "truth").write_bytes(image.disk)
    return image


def service_file(folder: Path, deadline: float, **cache: object) -> Path:
    path = folder / "service.json"
    registry = {"deadline": deadline, "silence": 1, "plainHttp": ["*"]}
    content = {
        "cacheConfig": {"cacheDir": str(folder / "cache"), **cache},
        "obdengine": {"registry": registry},
    }
    path.write_text(json.dumps(content))
    return path


@contextmanager
def reading(
    exports: Sequence[running.Export], made: stacks.Image, least: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield two readers, of one server each, that are connected."""
    truth = str(made.config.parent / "truth")
    words = [SYSTEM_PYTHON, "-c", READER]
    readers = [
        subprocess.Popen(
            [*words, export.uri, truth, str(least), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for seed, export in enumerate(exports)
    ]
    try:
        for reader in readers:
            assert reader.stdout
            assert reader.stdout.readline() == "connected\n"
        yield readers
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def outcome(reader: subprocess.Popen[str]) -> tuple[int, int, float]:
    """Tell a reader to end; return its reads, its errors, and the longest one."""
    out, _ = reader.communicate(timeout=running.PATIENCE)
    assert reader.returncode == 0
    reads, errors, longest = json.loads(out)
    return reads, errors, longest


class Emptying:
    """Empties the cache again and again, so that there is always a miss."""

    def __init__(self, service: Path) -> None:
        self._ended = threading.Event()
        self._service = service
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        env = {"OBD_SERVICE": str(self._service)}
        while not self._ended.wait(0.2):
            run_obd("cache", "prune", "--to", "0", env=env)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def pushed(made: stacks.Image, tmp_path: Path) -> Iterator[tuple[Registry, str]]:
    with Registry(tmp_path / "registry") as registry:
        name = f"docker://{registry.host}/stack:latest"
        run_obd("push", made.config, name)
        yield registry, name


@requires("docker-registry", "nbdkit", "nbdkit-python", "python3-libnbd")
@pytest.mark.parametrize(("deadline", "may_fail"), [(30.0, False), (0.5, True)])
def test_registry_dies_and_comes_back(
    made: stacks.Image,
    pushed: tuple[Registry, str],
    tmp_path: Path,
    served: Callable[..., running.Export],
    deadline: float,
    may_fail: bool,
) -> None:
    registry, name = pushed
    service = service_file(tmp_path, deadline)
    export = served(f"config={name}", f"service={service}")
    with reading([export, export], made, 1) as readers, Emptying(service):
        for _ in range(3):
            time.sleep(0.3)
            registry.kill()
            time.sleep(0.8)
            registry.start()
        found = [outcome(reader) for reader in readers]
    assert all(reads > 0 for reads, _, _ in found)
    assert may_fail or not any(errors for _, errors, _ in found)
    # A request may come while another is at its end, and is tried once more.
    assert max(longest for _, _, longest in found) < 2 * deadline + GRACE
    export.stop()


@requires("nbdkit", "nbdkit-python", "python3-libnbd")
def test_two_servers_one_cache_and_who_spoils_it(
    made: stacks.Image, tmp_path: Path, served: Callable[..., running.Export]
) -> None:
    blobs = [path.read_bytes() for path in made.layers]
    with serving(blobs) as server:
        image = configure(tmp_path, server.url, blobs)
        service = service_file(tmp_path, 60)
        exports = [served(f"config={image}", f"service={service}") for _ in range(2)]
        chance, folder = Random(3), tmp_path / "cache" / "blobs"
        with reading(exports, made, 200) as readers:
            for reader in readers:
                assert reader.stdin
                reader.stdin.close()
                reader.stdin = None
            while any(reader.poll() is None for reader in readers):
                with suppress(FileNotFoundError):  # a server has made it anew
                    spoil(chance, chance.choice(sorted(folder.iterdir())))
                time.sleep(0.02)
            found = [outcome(reader) for reader in readers]
        for export in exports:
            export.stop()
    assert not any(errors for _, errors, _ in found), found


def spoil(chance: Random, path: Path) -> None:
    with path.open("r+b") as opened:
        size = path.stat().st_size
        if chance.random() < 0.1:
            opened.truncate(chance.randrange(size + 1))
        for _ in range(10):
            opened.seek(chance.randrange(size + 1))
            opened.write(chance.randbytes(chance.randrange(1, 5000)))


KILLED = """
import sys
from pathlib import Path
import obdengine
from obdengine.service import Service
service = Service.load(sys.argv[2])
while True:
    with obdengine.open(sys.argv[1], service=service) as device:
        print("open", flush=True)
        for at in range(0, device.size - 65536, 65536):
            device.pread(at, 65536)
    __import__("shutil").rmtree(service.cache.folder)
"""


def test_killed_in_the_middle(made: stacks.Image, tmp_path: Path) -> None:
    """What a process leaves that was killed is never taken for what it is not."""
    blobs = [path.read_bytes() for path in made.layers]
    chance = Random(1)
    with serving(blobs) as server:
        image = configure(tmp_path, server.url, blobs)
        service = service_file(tmp_path, 60)
        words = [sys.executable, "-c", KILLED, str(image), str(service)]
        for _ in range(6):
            victim = subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert victim.stdout
            victim.stdout.readline()
            time.sleep(chance.random() * 0.2)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            raw = tmp_path / "raw"
            env = {"OBD_SERVICE": str(service)}
            run_obd("convert", "-O", "raw", image, raw, env=env)
            assert raw.read_bytes() == made.disk


def test_digests_are_those_of_the_registry(
    made: stacks.Image, pushed: tuple[Registry, str], tmp_path: Path
) -> None:
    """Offline afterwards, by tag and by digest."""
    registry, name = pushed
    env = {"OBD_SERVICE": str(service_file(tmp_path, 60))}
    raw = tmp_path / "raw"
    run_obd("convert", "-O", "raw", name, raw, env=env)
    assert raw.read_bytes() == made.disk
    facts = run_obd("cache", "show", "--output", "json", env=env).json()
    keys = {blob["key"] for blob in facts["blobs"]}
    assert digest_of(made.layers[1].read_bytes()).replace(":", "-") in keys
    registry.kill()
    raw.unlink()
    run_obd("convert", "-O", "raw", name, raw, env={**env, "OBD_OFFLINE": "1"})
    assert raw.read_bytes() == made.disk
