# SPDX-License-Identifier: Apache-2.0
"""
test_host - the writable layer on real file systems whose disk loses its power.

The disk is disk.py, through FUSE and a loop device; the kernel is the host's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.power_fs import rig
from tests.tools import requires

pytestmark = requires(
    *("nbdkit", "nbdkit-python", "nbdfuse", "fuse", "losetup", "loop"),
    *("root", "mount", "unshare", "mke2fs", "e2fsck"),
)

FORMS = ["append", "sparse"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for disks, in memory."""
    with rig.workshop() as made:
        yield made


def prepared(
    folder: Path, name: str, form: str, seed: int, *, alone: bool = False
) -> rig.Job:
    job = rig.Job(folder, name, form, seed, alone=alone)
    job.prepare()
    return job


def judged(job: rig.Job, said: str, states: int) -> None:
    """Cut the power at many points of what was recorded."""
    assert said.startswith(("done", "refused: ")), said
    verdict = job.judge(states)
    print(f"{job.name}, {job.form}, seed {job.seed}: {rig.told(verdict)}")
    assert not verdict.wrong
    assert verdict.states > states // 2
    assert verdict.claimed, "nothing had to be durable"


@pytest.mark.parametrize("form", FORMS)
def test_cut_leaves_what_was_flushed(folder: Path, form: str) -> None:
    job = prepared(folder, "ext4", form, 1)
    judged(job, rig.cut_on_host(job, last=800), 20)


@requires("gcc")
def test_syncs_that_do_nothing_are_noticed(folder: Path) -> None:
    job = prepared(folder, "ext4", "append", 2, alone=True)
    assert lost(job, "")


@requires("mkfs.xfs", "xfs_repair")
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("system", list(rig.SYSTEMS))
def test_cut_anywhere_on_any_system(
    folder: Path, system: str, form: str, seed: int
) -> None:
    job = prepared(folder, system, form, seed)
    cut_somewhere(job)


@requires("mkfs.btrfs", "btrfs")
@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", list(rig.VARIANTS))
def test_cut_anywhere_on_other_systems(folder: Path, variant: str, form: str) -> None:
    cut_somewhere(prepared(folder, variant, form, 17))


def cut_somewhere(job: rig.Job) -> None:
    # Half of the disks lose their power while the image is written.
    last = Random(job.seed).randint(300, 1500) if job.seed % 2 else 0
    judged(job, rig.cut_on_host(job, last=last), 100)


@requires("gcc")
@pytest.mark.soak
@pytest.mark.parametrize("name", [".data", ".index"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("system", list(rig.SYSTEMS))
def test_one_sync_that_does_nothing_is_noticed(
    folder: Path, system: str, form: str, name: str
) -> None:
    job = prepared(folder, system, form, 3, alone=True)
    assert lost(job, name)


def lost(job: rig.Job, name: str) -> list[str]:
    """Run without the syncs of files whose names end so; return what is wrong."""
    shim = rig.built("nosync", job.folder)
    said = rig.cut_on_host(job, env={"LD_PRELOAD": str(shim), "NOSYNC": name})
    assert said.startswith("done"), said
    return job.judge(20).wrong
