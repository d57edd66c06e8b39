# SPDX-License-Identifier: Apache-2.0
"""test_mutants - the simulator notices what it is there to notice."""

from __future__ import annotations

import pytest

from tests.power.mutants import MUTANTS, Mutant, hunt
from tests.tools import requires

pytestmark = requires("gcc")


def is_long(mutant: Mutant) -> bool:
    """Whether one is tried in a soak run only: most of those of the journal."""
    return "journal" in mutant.hunts[0] and not mutant.name.startswith("no sync of the")


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, marks=[pytest.mark.soak] if is_long(mutant) else [])
        for mutant in MUTANTS
    ],
    ids=lambda mutant: mutant.name,
)
def test_mutant_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant, mutant.hunts, seeds=20)["violations"]


def test_nothing_is_wrong_with_the_engine() -> None:
    """The same hunts find nothing where nothing is missing."""
    short = [mutant for mutant in MUTANTS if not is_long(mutant)]
    names = tuple({mutant.hunts[0] for mutant in short})
    said = hunt(None, names, seeds=1)
    assert said["states"] > 300
    assert not said["violations"]
