# SPDX-License-Identifier: Apache-2.0
"""
__main__ - `python -m tests.bench [--only NAME] [--quick]`, run by `make bench`.

A full run writes its tables into docs/benchmarks.md; a quick one only prints
them, because its figures mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import tempfile
import time
from pathlib import Path

from tests.bench.harness import put_section
from tests.bench.workshop import Workshop, machine
from tests.tools import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BENCHES = (
    *("lookup", "merging", "opening", "reading", "counting", "serving", "converting"),
    *("upper", "reopening", "writing", "committing", "space"),
    *("building", "turbo", "transferring", "remote", "attaching"),
)


def main() -> None:
    """Run what was asked for, one bench after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", choices=BENCHES, action="append")
    parser.add_argument("--quick", action="store_true", help="small, only printed")
    parser.add_argument("--folder", type=Path, help="keep files here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="obd-bench-") as made:
        shop = Workshop(asked.folder or Path(made), asked.quick)
        for name in asked.only or BENCHES:
            began = time.monotonic()
            body = importlib.import_module(f"tests.bench.{name}").bench(shop)
            print(f"## {name}\n\n{body}\n", flush=True)
            if not asked.quick:
                record(name, f"{origin(name, shop.rounds)}\n\n{body}")
            print(f"({time.monotonic() - began:.0f} s)\n", flush=True)


def origin(name: str, rounds: int) -> str:
    """Return the line that says how, when and where figures came about."""
    today = datetime.date.today().isoformat()
    command = f"`python -m tests.bench --only {name}`"
    return f"{command}, {today}, medians of {rounds} rounds. {machine()}."


def record(name: str, body: str) -> None:
    """Put a section into the document."""
    DOCUMENT.write_text(put_section(DOCUMENT.read_text(), name, body))


if __name__ == "__main__":
    main()
