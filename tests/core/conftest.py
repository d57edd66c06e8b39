# SPDX-License-Identifier: Apache-2.0
"""conftest - every test of this room that takes `kernels` runs over C and twin."""

from __future__ import annotations

import pytest

from tests.core.kernels import kernel


@pytest.fixture(scope="session", params=["c", "python"])
def kernels(request: pytest.FixtureRequest) -> object:
    """The C core, then the twins (see kernels.py)."""
    return kernel(request.param)


@pytest.fixture(scope="session")
def core() -> object:
    """The C core alone, for what has no twin."""
    kernel("c")
    from obdengine import _core

    return _core
