# SPDX-License-Identifier: Apache-2.0
"""conftest - a machine's own devices, which go with the test, and images for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import rig


@pytest.fixture
def host(tmp_path: Path) -> Iterator[rig.Host]:
    """The commands, with records in a folder of the test."""
    with rig.host(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for layers with file systems: see rig.layer()."""
    return tmp_path_factory.mktemp("layers")
