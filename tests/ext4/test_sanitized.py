# SPDX-License-Identifier: Apache-2.0
"""test_sanitized - the C of room ext4 alone, under sanitizers, sound and damaged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c import build
from tests.ext4 import disks
from tests.tools import environment, requires, tool

pytestmark = requires("gcc", "mke2fs", "e2fsck")

ROOM = build.ROOT / "obdengine" / "ext4"
DRIVER = Path(__file__).with_name("driver.c")
FEATURES = [
    "none,filetype,dir_index,ext_attr",
    "extent,metadata_csum,64bit",
    "^dir_index,extent",
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("driver") / "driver"
    sources = [p for p in sorted(ROOM.glob("*.c")) if p.name != "_ext4.c"]
    build.run(
        [
            *build.KINDS["asan"],
            *build.WARNINGS,
            "-fno-sanitize-recover=all",
            f"-I{ROOM}",
            f"-I{build.CORE}",
            *map(str, [*sources, DRIVER]),
            *("-o", str(target), "-lext2fs", "-lcom_err"),
        ]
    )
    return target


def image(folder: Path, features: str) -> Path:
    """A file system with 1 KiB blocks, so that its trees are deep."""
    path = folder / "disk"
    with path.open("wb") as out:
        out.truncate(disks.SIZE // 2)
    command = [tool("mke2fs"), "-q", "-F", "-b", "1024", "-N", "4000", "-O", features]
    subprocess.run([*command, path], check=True, env=environment())
    return path


def ran(driver: Path, path: Path, seed: int, damage: int) -> None:
    command = [driver, path, str(seed), str(damage)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"


@pytest.mark.parametrize("features", FEATURES)
def test_random_work(features: str, driver: Path, tmp_path: Path) -> None:
    for seed in range(3):
        path = image(tmp_path, features)
        ran(driver, path, seed, 0)
        done = subprocess.run(
            [tool("e2fsck"), "-fn", path],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("features", FEATURES)
def test_damage(features: str, driver: Path, tmp_path: Path) -> None:
    path = image(tmp_path, features)
    ran(driver, path, 0, 0)
    kept = tmp_path / "kept"
    shutil.copyfile(path, kept)
    for seed in range(12):
        shutil.copyfile(kept, path)
        ran(driver, path, seed, 1 << seed)
