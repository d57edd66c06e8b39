# SPDX-License-Identifier: Apache-2.0
"""test_mutants - the simulator notices what it is there to notice."""

from __future__ import annotations

import pytest

from tests.power.mutants import MUTANTS, Mutant, hunt
from tests.tools import requires

pytestmark = requires("gcc")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant, mutant.hunts, seeds=20)["violations"]


def test_nothing_is_wrong_with_the_engine() -> None:
    """The same hunts find nothing where nothing is missing."""
    names = tuple({name for mutant in MUTANTS for name in mutant.hunts})
    said = hunt(None, names, seeds=1)
    assert said["states"] > 300
    assert not said["violations"]
