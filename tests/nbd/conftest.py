# SPDX-License-Identifier: Apache-2.0
"""conftest - small images for the tests of what is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import stacks


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    """A stack of three layers. Do not write to its files."""
    return stacks.make(tmp_path_factory.mktemp("image"))


@pytest.fixture
def damaged(image: stacks.Image, tmp_path: Path) -> Path:
    """A copy of the middle layer with one byte of a block flipped."""
    return stacks.damage(image, tmp_path / "damaged.obd")
