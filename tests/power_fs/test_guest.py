# SPDX-License-Identifier: Apache-2.0
"""
test_guest - the writable layer in a Linux of its own that loses its power.

The guest's disk is one of the kernel's dm-log-writes targets, whose record is
cut at many points; or the plug of the whole guest is pulled. What is left is
judged by the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.power_fs import machine, rig
from tests.tools import requires

pytestmark = [
    pytest.mark.soak,
    requires(
        *("linux.uml", "dmsetup", "modprobe", "gcc", "loop", "root", "mount"),
        *("unshare", "mke2fs", "e2fsck", "mkfs.xfs", "xfs_repair"),
    ),
]

# A run takes some ten seconds.
PATIENCE = 600.0

# A guest of this size leaves fewer than 1000 barriers: each one is tried.
STATES = {"ext4": 2000, "xfs": 800}

# How often the plug is pulled, on one disk.
ROUNDS = 3


@pytest.fixture(scope="module")
def guests() -> None:
    """That this machine runs guests."""
    with rig.workshop() as folder:
        reason = machine.lacks(folder)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def folder(guests: None) -> Iterator[Path]:
    """A folder for disks, in memory."""
    with rig.workshop() as made:
        yield made


@pytest.mark.parametrize("form", ["append", "sparse"])
@pytest.mark.parametrize("system", list(rig.SYSTEMS))
def test_cut_leaves_what_was_flushed(folder: Path, system: str, form: str) -> None:
    job = rig.Job(folder, system, form, seed=21, batches=40)
    job.prepare()
    job.log.touch()
    os.truncate(job.log, 4 << 30)
    script = machine.recording_job(job)
    with machine.started(folder, script, [job.disk, job.log]) as guest:
        assert guest.wait(PATIENCE) == 0, guest.said()
    verdict = job.judge(STATES[system])
    print(f"{system}, {form}, in a guest: {rig.told(verdict)}")
    assert not verdict.wrong
    assert verdict.states > STATES[system] // 2
    assert verdict.claimed


@pytest.mark.parametrize("form", ["append", "sparse"])
@pytest.mark.parametrize("system", list(rig.SYSTEMS))
def test_pulled_plug_leaves_what_was_flushed(
    folder: Path, system: str, form: str
) -> None:
    for number in range(ROUNDS):
        job = rig.Job(folder, system, form, seed=30 + number, batches=1000)
        if number == 0:
            job.prepare()
        image = f"image{number}"
        pull_plug(job, image)
        verdict = job.judge_disk(image)
        assert not verdict.wrong
        assert verdict.claimed
    print(f"{system}, {form}: {ROUNDS} cut points tried, by the plug of a guest")


def pull_plug(job: rig.Job, image: str) -> None:
    """End a guest while it writes, after some batches."""
    job.diary.write_text("")
    wanted = Random(job.seed).randint(50, 400)

    def has_claimed() -> bool:
        return job.diary.read_bytes().count(b"\n") > wanted

    script = machine.plain_job(job, image)
    with machine.started(job.folder, script, [job.disk]) as guest:
        rig.wait_until(has_claimed, guest.process)
        guest.pull_plug()
