# SPDX-License-Identifier: Apache-2.0
"""images - workloads on a whole image, whose configuration changes too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

from obdengine.device import Device
from obdengine.errors import ReadOnly
from obdengine.layer import open_layer
from obdengine.ops.commit import commit, seal
from obdengine.ops.compact import compact
from obdengine.ops.image import open_image
from obdengine.ops.merge import merge
from obdengine.ops.merge_live import merge_live
from obdengine.ops.resize import resize
from obdengine.ops.snapshot import snapshot
from obdengine.source.output import Output
from tests.power.run import Run
from tests.power.simulate import compare, fresh
from tests.power.truth import SECTOR, ZEROS
from tests.power.workloads import ROOM, SECTORS, Workload, at_random, make_lower

CONFIG = "config.v1.json"


def image(place: Path, seed: int, form: str = "append", most: int = SECTORS) -> Run:
    """Return a run in a folder that the first opening fills.

    most: sectors that the disk may have one day.
    """
    lower = fresh(place) / "lower.obd"
    first = make_lower(lower)
    first += [frozenset([ZEROS])] * (most - SECTORS)

    def opener(folder: Path) -> Device:
        try:
            return open_image(
                lower, readonly=False, upper=folder, form=form, options=ROOM
            )
        except ReadOnly:
            return open_image(folder / CONFIG)

    return Run(fresh(place / "disk"), opener, first, Random(seed))


def snapshots(count: int) -> Workload:
    """Make snapshots between other changes."""

    def work(run: Run) -> None:
        for _ in range(count):
            at_random(6)(run)
            one_snapshot(run)

    return work


def one_snapshot(run: Run, new: Path | None = None) -> None:
    """Make a snapshot, which flushes."""
    begun = run.recorder.tick()
    snapshot(run.device, run.folder / CONFIG, new)
    run.truth.flushed(begun, run.recorder.tick())


def snapshot_by_configuration(run: Run) -> None:
    """Make one as overlaybd has it: another configuration says what will be."""
    at_random(15)(run)
    words = json.loads((run.folder / CONFIG).read_text())
    words["lowers"].append({"file": words["upper"]["data"]})
    words["upper"] = {"data": "next.data", "index": "next.index"}
    with Output(run.folder / "new.json") as out:
        out.append(json.dumps(words).encode())
        out.commit()
    one_snapshot(run, run.folder / "new.json")
    at_random(10)(run)


def compacted(count: int) -> Workload:
    """Compact the image, which nobody uses meanwhile."""

    def work(run: Run) -> None:
        for _ in range(count):
            at_random(10)(run)
            close(run)
            compact(run.folder / CONFIG)
            run.open()

    return work


def close(run: Run) -> None:
    """Close the disk, which flushes."""
    begun = run.recorder.tick()
    run.device.close()
    run.truth.flushed(begun, run.recorder.tick())


class Resized:
    """Grow and shrink the disk between other changes.

    Call it as a workload; sizes is then what the simulator asks.
    """

    def __init__(self, count: int, most: int) -> None:
        """Resize so often, to at most so many sectors."""
        self._count = count
        self._most = most
        self._changes: list[tuple[float, float, int]] = [(-1, -1, SECTORS)]

    def __call__(self, run: Run) -> None:
        for _ in range(self._count):
            at_random(6)(run)
            sectors = run.chance.randint(20, self._most)
            if sectors < run.sectors:
                run.zero(sectors, run.sectors - sectors)
            close(run)
            # What is past the end is zeros, and is so when it comes back.
            run.known(sectors, [ZEROS] * (self._most - sectors))
            begun = run.recorder.tick()
            resize(run.folder / CONFIG, sectors * SECTOR)
            self._changes.append((begun, run.recorder.tick(), sectors))
            run.open()

    def sizes(self, now: float) -> set[int]:
        """Return what the disk may be large at a tick, in sectors."""
        done = [n for n, (_, ended, _) in enumerate(self._changes) if ended < now]
        return {size for begun, _, size in self._changes[done[-1] :] if begun < now}


class Committed:
    """Commit the upper to a layer, and look at the layer in every state.

    With itself the image has the layer in the place of its upper then; else
    another configuration has.
    """

    def __init__(self, itself: bool) -> None:
        """Say which."""
        self._itself = itself
        self._ended = math.inf
        self._run: Run

    def __call__(self, run: Run) -> None:
        self._run = run
        at_random(20)(run)
        close(run)
        name = CONFIG if self._itself else "committed.json"
        layer = run.folder / "new.obd"
        commit(run.folder / CONFIG, layer, config=run.folder / name)
        self._ended = run.recorder.tick()
        run.open()

    def also(self, folder: Path, now: float) -> None:
        """Compare what the layer holds, where it is; it must be, at the end."""
        layer, other = folder / "new.obd", folder / "committed.json"
        assert layer.exists() or now < self._ended
        if layer.exists():
            open_layer(layer).close()
        assert self._itself or other.exists() or now < self._ended
        if other.exists():
            allowed = self._run.truth.allowed(now)
            with open_image(other) as device:
                compare(device, allowed, {len(allowed)})


def sealed(run: Run) -> None:
    """Seal the upper of the image."""
    at_random(20)(run)
    close(run)
    seal(run.folder / CONFIG)
    run.open()


def merged(run: Run) -> None:
    """Make layers by snapshots, and merge some of them."""
    snapshots(3)(run)
    close(run)
    place = run.folder / "merged.obd"
    merge(run.folder / CONFIG, place, first=1, end=3, config=run.folder / CONFIG)
    run.open()
    at_random(5)(run)


def merged_in_use(run: Run) -> None:
    """The same while the disk is open, and written to before and behind it."""
    snapshots(3)(run)
    at_random(5)(run)
    place = run.folder / "merged.obd"
    merge_live(run.device, run.folder / CONFIG, place, first=1, end=3)
    at_random(8)(run)
