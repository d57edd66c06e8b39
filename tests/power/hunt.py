# SPDX-License-Identifier: Apache-2.0
"""
hunt - simulate until something is wrong: `python -P -m tests.power.hunt 20 CASE...`.

It prints what it found as JSON. Which engine it uses is up to PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import obdengine
from tests.power.cases import tried
from tests.power.simulate import Result


def hunt(names: list[str], seeds: int, place: Path) -> Result:
    """Return what is found, up to the first violation."""
    total = Result()
    for seed in range(seeds):
        for name in names:
            total.add(tried(name, place, seed, samples=3))
            if total.violations:
                return total
    return total


def main() -> None:
    """Do what the command line says."""
    seeds, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        result = hunt(names, int(seeds), Path(folder))
    said = {"engine": obdengine.__file__, "states": result.states}
    print(json.dumps({**said, "violations": result.violations}))


if __name__ == "__main__":
    main()
