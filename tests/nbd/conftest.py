# SPDX-License-Identifier: Apache-2.0
"""conftest - small images for the tests of what is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdengine.device import Device
from obdengine.nbd import Exports, Server, listen_at_socket
from tests import running, stacks, tools

Serve = Callable[..., str]

# What serves, by module: nbdkit past Python, nbdkit, or the export of our own.
WAYS = {
    "test_read": ["filter", "python", "native"],
    "test_write": ["filter", "python", "native"],
    "test_control": ["filter", "native"],
    "test_exports": ["filter", "python"],
    "test_failures": ["filter", "python"],
    "test_stamps": ["filter", "native"],
    "test_full_disk": ["filter", "native"],
    "test_copy": ["filter", "native"],
    "test_fio": ["filter", "native"],
    "test_threads": ["filter", "python"],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of what is served over each way to serve it."""
    if "served" in metafunc.fixturenames:
        name = metafunc.module.__name__.rpartition(".")[2]
        ways = WAYS.get(name, ["filter"])
        if "folder" in metafunc.function.__name__:
            ways = [way for way in ways if way != "native"]
        metafunc.parametrize("served", ways, indirect=True)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    """A stack of three layers. Do not write to its files."""
    return stacks.make(tmp_path_factory.mktemp("image"))


@pytest.fixture
def damaged(image: stacks.Image, tmp_path: Path) -> Path:
    """A copy of the middle layer with one byte of a block flipped."""
    return stacks.damage(image, tmp_path / "damaged.obd")


@pytest.fixture
def served(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[..., running.Export]:
    """Return what serves an image, as in tests/conftest.py, in the ways of WAYS."""
    tools.require("nbdkit", "nbdkit-python")
    way = request.param

    def start(*keys: str, **more: Any) -> running.Export:
        if way == "filter":
            options = [*more.pop("options", ()), f"--filter={tools.nbdkit_filter()}"]
            more = {**more, "options": options}
        begin = running.start_native if way == "native" else running.start_nbdkit
        export = begin(tmp_path, *keys, **more)
        request.addfinalizer(export.stop)
        return export

    return start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return what serves a device in this process, and returns the socket's path."""
    servers: list[Server] = []

    def begin(device: Device, name: str = "") -> str:
        path = tmp_path / f"socket{len(servers)}"
        server = Server([listen_at_socket(path)], Exports(device, name))
        servers.append(server)
        server.start()
        return str(path)

    yield begin
    for server in servers:
        server.close(running.PATIENCE)
    # A client's thread is forgotten just before it ends.
    for thread in threading.enumerate():
        if thread.name == "nbd":
            thread.join(running.PATIENCE)
            assert not thread.is_alive()
