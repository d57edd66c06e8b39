# SPDX-License-Identifier: Apache-2.0
"""test_mount - a served file system: checked by e2fsck, and mounted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import programs, tree
from tests.nbd.mounting import as_file, loop_device
from tests.running import Export
from tests.tools import environment, requires

Served = Callable[..., Export]

pytestmark = requires("nbdfuse", "fuse", "root", "mount")


def layers(golden: Path, height: int) -> list[str]:
    folder = golden / "ext4-c"
    return [f"config={folder}/layer{number}.obd" for number in range(height)]


@requires("e2fsck")
@pytest.mark.parametrize("height", [1, 2, 3])
def test_file_system_is_sound(
    served: Served, golden: Path, tmp_path: Path, height: int
) -> None:
    with as_file(served(*layers(golden, height)).uri, tmp_path) as disk:
        programs.output("e2fsck", "-f", "-n", disk)


@requires("losetup", "loop", "unshare")
def test_tree_is_the_golden_one(served: Served, golden: Path, tmp_path: Path) -> None:
    expected = json.loads((golden / "ext4-c" / "expected.json").read_text())["tree"]
    # In a mount namespace of its own, so that nothing stays mounted.
    script = 'mount -t ext4 -o ro,noload "$1" "$2"; exec "$3" "$4" "$2"'
    with (
        as_file(served(*layers(golden, 3)).uri, tmp_path) as disk,
        loop_device(disk) as device,
    ):
        target = tmp_path / "mounted"
        target.mkdir()
        words = ["unshare", "--mount", "sh", "-ec", script, "sh"]
        words += [device, str(target), sys.executable, tree.__file__]
        done = subprocess.run(words, capture_output=True, env=environment(), check=True)
    found = json.loads(done.stdout)
    by_path = {item["path"]: item for item in expected}
    assert {item["path"] for item in found} == set(by_path)
    for item in found:
        assert item == by_path[item["path"]]
