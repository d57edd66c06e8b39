# SPDX-License-Identifier: Apache-2.0
"""
test_differential - a real image converted, mounted, and compared with umoci's tree.

Every name, mode, owner, time, extended attribute, hard link and byte. Then a
program from it runs in a container.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers import debian, facts
from tests.nbd import programs
from tests.nbd.mounting import as_file, loop_device
from tests.running import Export, run_obd
from tests.tools import environment, requires, tool

Served = Callable[..., Export]

pytestmark = requires(
    *("umoci", "dpkg-query", "e2fsck", "nbdfuse", "losetup", "unshare", "runc"),
    *("fuse", "loop", "root", "mount"),
)

# In a mount namespace of its own, so that nothing stays mounted.
_FACTS = 'mount -t ext4 -o ro,noload "$1" "$2"; exec "$3" "$4" "$2"'
RUN = 'mount -t ext4 -o ro,noload "$1" "$2"; exec "$3" run --bundle "$4" "$5"'


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(debian.SMALL, id="small"),
        pytest.param(debian.LARGE, id="large", marks=pytest.mark.soak),
    ],
)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder with an image in layout/, and what is made of it in image/."""
    folder = tmp_path_factory.mktemp("debian")
    debian.image(folder, request.param)
    convert(folder, folder / "image")
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def convert(folder: Path, target: Path, *words: str) -> list[str]:
    """Convert the image, and return the digests of the layers."""
    words = ("--no-cache", "--output", "json", "--size", "4G", *words)
    ran = run_obd("convert", *words, f"oci:{folder}/layout:app", target)
    return [layer["digest"] for layer in json.loads(ran.out)["layers"]]


def in_namespace(script: str, *words: str | Path) -> str:
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *map(str, words)]
    done = subprocess.run(command, capture_output=True, env=environment(), text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[Any]:
    return [
        (name, ours.get(name), theirs.get(name))
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def test_every_layer_leaves_a_sound_file_system(made: Path, tmp_path: Path) -> None:
    layers = sorted((made / "image").glob("*.obd"))
    assert len(layers) == 3
    for height in (1, 2, 3):
        disk = tmp_path / "disk.raw"
        run_obd("convert", "-O", "raw", *layers[:height], disk)
        programs.output("e2fsck", "-f", "-n", disk)


def test_same_digests_again(made: Path, tmp_path: Path) -> None:
    again = convert(made, tmp_path / "image", "--threads", "1")
    config = json.loads((made / "image" / "config.v1.json").read_bytes())
    assert again == [lower["digest"] for lower in config["lowers"]]


@pytest.mark.parametrize("form", ["image", "turbo"])
def test_tree_is_the_one_that_umoci_unpacks(
    made: Path, served: Served, tmp_path: Path, form: str
) -> None:
    """The same for layers that are converted and for those that stay as they are."""
    if form == "turbo":
        target = made / "turbo"
        run_obd(
            "convert",
            "--turbo",
            "--no-cache",
            "--size",
            "4G",
            f"oci:{made}/layout:app",
            target,
        )
    words = ["unpack", "--image", f"{made}/layout:app", tmp_path / "bundle"]
    programs.output("umoci", *words)
    theirs = facts.walk(tmp_path / "bundle" / "rootfs")
    assert len(theirs) > 800
    (tmp_path / "mounted").mkdir()
    with (
        as_file(served(f"config={made}/{form}/config.v1.json").uri, tmp_path) as disk,
        loop_device(disk) as device,
    ):
        words = [device, tmp_path / "mounted", sys.executable, facts.__file__]
        ours = json.loads(in_namespace(_FACTS, *words))
    assert differences(ours, theirs) == []


def test_program_runs_in_a_container(
    made: Path, served: Served, tmp_path: Path
) -> None:
    bundle, mounted = tmp_path / "bundle", tmp_path / "mounted"
    mounted.mkdir()
    bundle.mkdir()
    # What umoci has made of the image's configuration, with another root.
    config = json.loads((made / "bundle" / "config.json").read_bytes())
    config["root"] = {"path": str(mounted), "readonly": True}
    program = "import os; print([os.getpid(), 6 * 7])"
    config["process"]["args"] = ["/usr/bin/python3.11", "-c", program]
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    with (
        as_file(served(f"config={made}/image/config.v1.json").uri, tmp_path) as disk,
        loop_device(disk) as device,
    ):
        name = f"obd-test-{os.getpid()}"
        said = in_namespace(RUN, device, mounted, tool("runc"), bundle, name)
    assert json.loads(said) == [1, 42]
