# SPDX-License-Identifier: Apache-2.0
"""test_container - a mounted image is the root of containers, by crun and by runc."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import rig
from tests.running import run_obd
from tests.tools import ROOT, environment, requires, tool

pytestmark = requires(
    *("nbdkit", "nbdkit-python", "qemu-storage-daemon", "fuse", "loop", "root"),
    *("mount", "mke2fs", "busybox", "unshare"),
)

soak = pytest.mark.soak
RUNTIMES = [
    pytest.param("crun", marks=requires("crun")),
    pytest.param("runc", marks=requires("runc")),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[rig.Host]:
    with rig.host(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def systems(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for images with busybox in them."""
    return tmp_path_factory.mktemp("systems")


def system(systems: Path, images: Path, host: rig.Host, kind: str) -> Path:
    """Return an image of a file system with busybox, two layers of it."""
    config = systems / f"{kind}.json"
    if not config.exists():
        target = host.folder / "making"
        target.mkdir()
        own = host.folder / "making.own"
        host.obd("mount", "--upper", own, rig.layer(images, kind), target)
        for name in ("bin", "proc", "dev", "root", "etc"):
            (target / name).mkdir()
        for name in ("busybox", "sh"):
            shutil.copy(tool("busybox"), target / "bin" / name)
            (target / "bin" / name).chmod(0o755)
        (target / "etc" / "motd").write_text("from the layers\n")
        host.obd("umount", target)
        host.obd("commit", "--config", config, own, systems / f"{kind}.obd")
    return config


SCRIPT = """
cat /etc/motd
[ $$ = 1 ] && [ "$(busybox hostname)" = container ]
(echo "of the container" >/root/file) 2>/dev/null || [ WAY = ro ]
busybox sync
"""


# An overlay does not take NTFS by FUSE below it, which has no owners of files.
CELLS = [
    *((way, kind) for way in ("--overlay", "append") for kind in ("ext4",)),
    *(pytest.param("sparse", kind, marks=soak) for kind in ("ext4", "xfs", "ntfs")),
    *(pytest.param("append", kind, marks=soak) for kind in ("xfs", "ntfs")),
    pytest.param("--overlay", "xfs", marks=soak),
    *(pytest.param("ro", kind, marks=soak) for kind in ("ext4", "xfs", "ntfs")),
]


@requires("mkfs.xfs", "mkntfs", "ntfs-3g")
@pytest.mark.parametrize(("way", "kind"), CELLS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_container_runs_from_the_layers(
    host: rig.Host, systems: Path, images: Path, runtime: str, way: str, kind: str
) -> None:
    image = system(systems, images, host, kind)
    target, own = host.folder / "target", host.folder / "own"
    target.mkdir()
    words = {"--overlay": [way], "ro": []}.get(way, ["--upper", own, "--form", way])
    host.obd("mount", *words, image, target)
    script = SCRIPT.replace("cat", "busybox cat").replace("WAY", way)
    done = subprocess.run(
        [ROOT / "images" / "run.sh", target, runtime, "/bin/sh", "-ec", script],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "from the layers\n"
    if way != "ro":
        assert (target / "root" / "file").read_text() == "of the container\n"
    host.obd("umount", target)
    assert not os.path.ismount(target)
    if way in ("append", "sparse"):
        assert rig.is_sound(own / "config.v1.json", kind, host.folder)
        host.obd("mount", own, target)
        assert (target / "root" / "file").read_text() == "of the container\n"
        host.obd("umount", target)


def test_its_exit_code_is_the_programs(
    host: rig.Host, systems: Path, images: Path
) -> None:
    run_obd("info", system(systems, images, host, "ext4"))
    target = host.folder / "target"
    target.mkdir()
    host.obd("mount", systems / "ext4.json", target)
    words = [ROOT / "images" / "run.sh", target, "runc", "/bin/sh", "-c", "exit 7"]
    assert subprocess.run(words, env=environment()).returncode == 7


# -- Without root

ROOTLESS = """
cd "$1"
obd() { "$PYTHON" -c 'from obdengine.cli.main import main; main()' "$@"; }
obd mount --upper own image.obd there
busybox mkdir there/bin there/proc there/dev
busybox cp "$2" there/bin/busybox
busybox cp "$2" there/bin/sh
"$3" there "$4" /bin/sh -ec 'busybox id -u; echo "of the container" >/file'
obd umount there
obd mount own there
busybox cat there/file
obd umount there
"""


@requires("fuse2fs", "setpriv", "fusermount3")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nobody_runs_a_container(images: Path, runtime: str) -> None:
    more = [tool("busybox"), str(ROOT / "images" / "run.sh"), tool(runtime)]
    with rig.home_of_nobody(rig.layer(images, "ext4")) as (place, words, own):
        done = subprocess.run(
            [*words, *rig.ROOT_OF_HIS_OWN, "sh", "-euc", ROOTLESS, "sh", place, *more],
            env=own,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1::2] == ["0", "of the container"], done.stdout
