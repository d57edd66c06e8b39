# SPDX-License-Identifier: Apache-2.0
"""conftest - where states are put, and the number of those that were tried."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.power.simulate import Result

_tried = Result()
_seconds = 0.0


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory, where a sync costs nothing."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def count() -> Iterator[Result]:
    """What adds up over all tests, and is shown at the end."""
    global _seconds
    begun = time.monotonic()
    yield _tried
    _seconds += time.monotonic() - begun


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many states were tried."""
    if _tried.states:
        found = len(_tried.violations)
        terminalreporter.write_line(
            f"power cuts: {_tried.states} states tried in {_seconds:.0f} s, "
            f"{found} violations of the rule of durability"
        )
