# SPDX-License-Identifier: Apache-2.0
"""cases - every workload that the power is cut in, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from obdengine.layer import UpperOptions, journal
from tests.power import images, workloads
from tests.power.simulate import Result, Simulator, fresh
from tests.power.truth import SECTOR
from tests.power.workloads import SECTORS, Workload, bare, recorded

# What a case makes of a folder and a seed: a run, and more for the simulator.
Made = tuple[Any, dict[str, Any]]
Case = Callable[[Path, int], Made]

MOST = SECTORS + 40  # sectors, where the disk grows


def _bare(form: str, work: Workload, **more: Any) -> Case:
    return lambda place, seed: (recorded(bare(place, seed, form, **more), work), {})


def _image(form: str, work: Workload) -> Case:
    return lambda place, seed: (recorded(images.image(place, seed, form), work), {})


def _resized(form: str) -> Case:
    def case(place: Path, seed: int) -> Made:
        work = images.Resized(4, MOST)
        run = images.image(place, seed, form, most=MOST)
        return recorded(run, work), {"sizes": work.sizes}

    return case


def _committed(form: str, itself: bool) -> Case:
    def case(place: Path, seed: int) -> Made:
        work = images.Committed(itself)
        run = recorded(images.image(place, seed, form), work)
        return run, {"also": work.also}

    return case


def _cases(form: str) -> dict[str, Case]:
    return {
        f"{form}, at random": _bare(form, workloads.at_random(50)),
        f"{form}, writes in between": _bare(form, workloads.interleaved(30)),
        f"{form}, from threads": _bare(form, workloads.from_threads(15)),
        f"{form}, long pieces": _bare(form, workloads.large(10), sectors=400),
        f"{form}, many records": _bare(form, workloads.torn(170)),
        f"{form}, killed in flushes": _bare(form, workloads.killed(6)),
        f"{form}, sealed": _bare(form, workloads.sealed(20)),
        f"{form}, snapshots": _image(form, images.snapshots(4)),
        f"{form}, snapshots under threads": _image(
            form, workloads.from_threads(15, images.one_snapshot)
        ),
        f"{form}, snapshot by configuration": _image(
            form, images.snapshot_by_configuration
        ),
        f"{form}, compacted": _image(form, images.compacted(3)),
        f"{form}, image sealed": _image(form, images.sealed),
        f"{form}, layers merged": _image(form, images.merged),
        f"{form}, layers merged in use": _image(form, images.merged_in_use),
        f"{form}, resized": _resized(form),
        f"{form}, committed": _committed(form, itself=False),
        f"{form}, committed in its place": _committed(form, itself=True),
    }


CASES = _cases("append") | _cases("sparse")

# Data is written over late, or as soon as it can be, by flushes that nobody asked for.
LATE = UpperOptions(garbage=9000)
EARLY = UpperOptions(max_size=4096 + (SECTORS + 30) * SECTOR, garbage=0)
# No sector to spare: of the room an eighth is for writing over the others.
FULL = UpperOptions(max_size=4096 + (SECTORS * 8 // 7 + 1) * SECTOR, garbage=0)
CASES |= {
    "append, with an allowance": _bare("append", workloads.at_random(80), options=LATE),
    "append, with a limit": _bare("append", workloads.at_random(50), options=EARLY),
    "append, full": _bare("append", workloads.full(40), options=FULL),
    "append, many records and a limit": _bare(
        "append", workloads.torn(170), options=EARLY
    ),
}


# A journal so early, and so small that it is full again and again. It is there
# for odd seeds, and for all that have it in their name.
EARLY_JOURNAL = {"PATIENCE": 1, "SIZE": 12 * 1024}

CASES |= {
    "append, journal": _bare("append", workloads.small_flushes(45)),
    "append, journal and the rest": _bare("append", workloads.mixed_flushes(12)),
    "append, journal, killed": _bare("append", workloads.killed(8)),
    "append, journal, reopened": _bare("append", workloads.reopened(10)),
    "append, journal, writes in between": _bare("append", workloads.interleaved(30)),
    "append, journal, under threads": _bare("append", workloads.from_threads(15)),
    "append, journal and a limit": _bare(
        "append", workloads.mixed_flushes(12), options=EARLY
    ),
    "append, journal and snapshots": _image("append", images.snapshots(4)),
}


def tried(name: str, place: Path, seed: int, samples: int) -> Result:
    """Record a case, and cut the power at every moment of it."""
    early = seed % 2 == 1 or "journal" in name
    # Applying a journal is one of the moments that matter most.
    again = {"again": 25} if "journal" in name and samples > 1 else {}
    with mock.patch.multiple(journal, **(EARLY_JOURNAL if early else {"PATIENCE": 0})):
        run, more = CASES[name](fresh(place / "run"), seed)
        state = fresh(place / "state")
        return Simulator(run, state, Random(seed), samples=samples, **again, **more)()
