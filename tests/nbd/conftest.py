# SPDX-License-Identifier: Apache-2.0
"""conftest - small images for the tests of what is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import running, stacks, tools

# What serves, for the tests of some modules; the others only try the first.
WAYS = ["filter", "python"]
EVERY_WAY = {"test_read", "test_write", "test_failures", "test_exports", "test_control"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of what is served over each way to serve it."""
    if "served" in metafunc.fixturenames:
        name = metafunc.module.__name__.rpartition(".")[2]
        ways = WAYS if name in EVERY_WAY else WAYS[:1]
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
    """Return what serves an image, as in tests/conftest.py, but by way of the filter.

    That is how `obd serve` does it. Or without it: see WAYS.
    """
    tools.require("nbdkit", "nbdkit-python")
    way = request.param

    def start(*keys: str, **more: Any) -> running.Export:
        if way == "filter":
            options = [*more.pop("options", ()), f"--filter={tools.nbdkit_filter()}"]
            more = {**more, "options": options}
        export = running.start_nbdkit(tmp_path, *keys, **more)
        request.addfinalizer(export.stop)
        return export

    return start
