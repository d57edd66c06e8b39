# SPDX-License-Identifier: Apache-2.0
"""
test_kernel_nbd - images as /dev/nbdN, by the kernel of a User-Mode Linux.

The host need not have such devices. All of the engine runs in the guest, with
the host's programs; the writable layer is on the host and is judged there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.host import rig
from tests.power_fs import machine
from tests.power_fs.rig import workshop
from tests.tools import ROOT, requires

GUEST = Path(__file__).with_name("nbd-guest.sh")

# A run takes some 15 seconds, on a loaded machine some 90.
PATIENCE = 280.0

pytestmark = requires(
    *("linux.uml", "modprobe", "gcc", "root", "nbdkit", "nbdkit-python", "mke2fs")
)

CELLS = [
    ("ext4", "append"),
    pytest.param("ext4", "sparse", marks=pytest.mark.soak),
    pytest.param("xfs", "append", marks=pytest.mark.soak),
    pytest.param("xfs", "sparse", marks=pytest.mark.soak),
    pytest.param("ntfs", "append", marks=[pytest.mark.soak, requires("ntfs-3g")]),
    pytest.param("ntfs", "sparse", marks=[pytest.mark.soak, requires("ntfs-3g")]),
]


@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_guest_kernel_attaches_images(images: Path, kind: str, form: str) -> None:
    image = rig.layer(images, kind)
    with workshop() as folder:
        own = folder / "own"
        words = {"IMAGE": image, "OWN": own, "KIND": kind, "FORM": form}
        script = "".join(f"{key}={value}\n" for key, value in words.items())
        with machine.started(folder, script + prelude(folder)) as guest:
            assert guest.wait(PATIENCE) == 0, guest.said()
        assert rig.is_sound(own / "config.v1.json", kind, folder)


def prelude(folder: Path) -> str:
    """Return what makes `obd` a command in the guest, and runs the script."""
    obd = folder / "obd"
    obd.write_text(
        f"#!/bin/sh\nPYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 "
        f'exec {sys.executable} -c "from obdengine.cli.main import main; main()" "$@"\n'
    )
    obd.chmod(0o755)
    return f"OBD={obd}\nset -x\n. {GUEST}\n"
