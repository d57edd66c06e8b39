# SPDX-License-Identifier: Apache-2.0
"""conftest - images for the tests of machines."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for layers with file systems: see tests/host/rig.py."""
    return tmp_path_factory.mktemp("layers")
