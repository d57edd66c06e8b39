# SPDX-License-Identifier: Apache-2.0
"""
test_power - the rule of durability, with the power cut at every moment.

A seed makes the same log each time, but for the cases with threads.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.power.cases import CASES, tried
from tests.power.simulate import Result

# Of each case, in a soak run: over 100 000 in all.
MANY = 4500


@pytest.mark.parametrize("name", CASES)
def test_power_cut(name: str, place: Path, count: Result) -> None:
    result = tried(name, place, seed=1, samples=1)
    count.add(result)
    assert result.states > 30
    assert not result.violations


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_many_power_cuts(name: str, place: Path, count: Result) -> None:
    found, seed = Result(), 1000
    while found.states < MANY and not found.violations:
        found.add(tried(name, place, seed, samples=6))
        seed += 1
    count.add(found)
    assert not found.violations, f"seed {seed - 1}"
