# SPDX-License-Identifier: Apache-2.0
"""conftest - what tests of conversions watch."""

from __future__ import annotations

from typing import Any

import pytest

from obdengine import ext4


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of every layer that is applied."""
    names: list[str] = []
    apply_layer = ext4.apply_layer

    def spy(*words: Any, name: str, **more: Any) -> Any:
        names.append(name)
        return apply_layer(*words, name=name, **more)

    monkeypatch.setattr(ext4, "apply_layer", spy)
    return names
