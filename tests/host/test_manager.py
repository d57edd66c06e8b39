# SPDX-License-Identifier: Apache-2.0
"""test_manager - `obd manager` keeps devices up, and they outlive it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host import rig
from tests.host.rig import Host
from tests.running import PATIENCE
from tests.tools import environment, requires

pytestmark = requires(
    "nbdkit", "nbdkit-python", "qemu-storage-daemon", "fuse", "loop", "root", "mke2fs"
)

OBD = [sys.executable, "-c", "from obdengine.cli.main import main; main()"]


@pytest.fixture
def image(images: Path) -> Path:
    return rig.layer(images, "ext4")


@contextmanager
def managed(host: Host) -> Iterator[subprocess.Popen[str]]:
    """Run a manager for the block."""
    process = subprocess.Popen(
        [*OBD, "manager"], env=environment(**host.env), stderr=-1, text=True
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == "ready\n"
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stderr.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.05)


def ask(host: Host, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask the manager."""
    return asked(Path(host.folder, "run", "manager.sock"), method, path, body)


def asked(place: Path, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask whoever listens at a socket, which is closed whatever happens."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = client
        # An empty list is a body too.
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text)
        with connection.getresponse() as reply:
            return reply.status, json.loads(reply.read())


def test_what_dies_is_started_again(host: Host, image: Path) -> None:
    found = host.attach(image)
    with managed(host):
        rig.kill(found["server-pid"])
        until(lambda: host.ps()[0]["state"] == "up")
        assert host.ps()[0]["server-pid"] != found["server-pid"]


def test_devices_outlive_the_manager(host: Host, image: Path) -> None:
    with managed(host) as manager:
        status, made = ask(host, "POST", "/attach", {"image": [str(image)]})
        assert status == 200
        manager.kill()
        manager.wait()
        manager.returncode = 0
        assert Path(made["device"]).read_bytes()[1080:1082] == b"\x53\xef"
        assert host.ps()[0]["state"] == "up"
    with managed(host):
        assert ask(host, "GET", "/devices")[1][0]["server"] == made["server"]
        assert ask(host, "POST", "/detach?name=ext4") == (200, {"name": "ext4"})
        assert ask(host, "GET", "/devices") == (200, [])
        assert ask(host, "POST", "/detach?name=ext4") == (200, {"name": None})


def test_what_makes_no_sense_is_refused(host: Host, image: Path) -> None:
    bad: list[object] = [[], {}, {"image": "x"}, {"image": [], "server": [1, 2]}]
    with managed(host):
        for body in bad:
            assert ask(host, "POST", "/attach", body)[0] == 400, body
        assert ask(host, "GET", "/none")[0] == 404
        missing = {"image": [str(host.folder / "none.obd")]}
        assert ask(host, "POST", "/attach", missing)[0] == 500
        assert ask(host, "GET", "/devices") == (200, [])


def test_one_manager_at_a_time(host: Host) -> None:
    with managed(host):
        assert "another manager" in host.obd("manager", code=2).err


def test_what_is_kept_is_made_at_the_start(host: Host, image: Path) -> None:
    host.attach("--keep", "--name", "one", image)
    kept = (host.folder / "state" / "one.json").read_text()
    host.obd("detach", "one")
    (host.folder / "state" / "one.json").write_text(kept)
    with managed(host):
        until(lambda: host.ps()[0]["state"] == "up")


@requires("systemd-socket-activate")
def test_systemd_gives_it_its_socket(host: Host) -> None:
    path = host.folder / "given.sock"
    words = ["systemd-socket-activate", "-E", "OBD_RUN", "-E", "OBD_STATE"]
    words += ["-E", "PYTHONPATH", "-l", str(path), *OBD, "manager"]
    process = subprocess.Popen(words, env=environment(**host.env), stderr=-3)
    try:
        until(path.is_socket)
        assert asked(path, "GET", "/devices") == (200, [])
    finally:
        process.terminate()
        process.wait(PATIENCE)
