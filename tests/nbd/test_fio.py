# SPDX-License-Identifier: Apache-2.0
"""test_fio - fio writes at random and in order, with checksums, and reads it all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nbd import disks, programs
from tests.nbd.disks import FORMS, MIB
from tests.running import Export
from tests.tools import requires

Served = Callable[..., Export]

pytestmark = requires("fio", "nbdcopy")

SIZES = "512/30:1k/5:4k/35:64k/20:1m/10"
READS = ["--verify_backlog=16", "--verify_backlog_batch=8"]

# What fio does with a quarter of the disk on each of its four connections.
JOBS = {
    "random": ["--rw=randwrite", f"--bssplit={SIZES}", "--fsync=16"],
    "mixed": ["--rw=randwrite", f"--bssplit={SIZES}", "--fsync=8", *READS],
    "trims": ["--rw=randtrimwrite", "--bs=16k"],
    "pages": ["--rw=randwrite", "--bs=4k", "--fsync=64", "--iodepth=32"],
    "sectors": ["--rw=randwrite", "--bs=512", "--fsync=128", "--io_size=256k"],
    "sequential": ["--rw=write", "--bs=1m", "--fsync=2"],
    "backwards": ["--rw=write:-64k", "--bs=32k", "--fsync=16"],
}


def fio(folder: Path, uri: str, size: int, *options: str) -> list[dict[str, Any]]:
    """Run fio, which must find everything as it wrote it; return what it did."""
    words = [
        *("--name=job", "--ioengine=nbd", f"--uri={uri}", "--output-format=json"),
        *("--numjobs=4", "--iodepth=8", "--serialize_overlap=1", "--fallocate=none"),
        *(f"--size={size // 4}", f"--offset_increment={size // 4}"),
        *(
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_dump=0",
            "--verify_interval=512",
        ),
        f"--aux-path={folder}",
        *options,
    ]
    # It says on standard output that it has connected.
    programs.output("fio", *words, f"--output={folder / 'fio.json'}")
    return list(json.loads((folder / "fio.json").read_text())["jobs"])


def run(
    served: Served, folder: Path, size: int, keys: list[str], options: list[str]
) -> None:
    """Let fio write, and again over it; what it leaves is there after reopening."""
    lower = folder / "lower.lsmt"
    if not lower.exists():
        disks.lower(lower, size)
    words = [f"config={lower}", f"upper={folder / 'upper'}", *keys]
    export = served(*words)
    for seed in ("1", "2"):
        jobs = fio(folder, export.uri, size, f"--randseed={seed}", *options)
        assert all(job["error"] == 0 for job in jobs)
        assert sum(job["write"]["total_ios"] for job in jobs) >= 4
        for kind in ("trim", "sync"):
            if any(kind in word for word in options):
                assert sum(job[kind]["total_ios"] for job in jobs) >= 4
    content = disks.content(export)
    assert export.stop() == 0
    assert export.log() == ""
    again = served(*words)
    assert disks.content(again) == content
    again.stop()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("job", ["random", "mixed", "trims", "sequential"])
def test_fio(served: Served, tmp_path: Path, form: str, job: str) -> None:
    keys = [f"form={form}", "garbage=1M"]
    run(served, tmp_path, 16 * MIB, keys, JOBS[job])


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
def test_fio_for_long(served: Served, tmp_path: Path, form: str) -> None:
    """All of it, on a disk of 512 MiB, one job after the other."""
    keys = [f"form={form}", "garbage=32M"]
    for options in JOBS.values():
        run(served, tmp_path, 512 * MIB, keys, options)
