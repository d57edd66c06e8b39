# SPDX-License-Identifier: Apache-2.0
"""
test_recipes - what the recipes of images/ make boots, and runs in a container.

They fetch packages and take minutes, so they are for soak runs only; what is
fetched stays in .demo/cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers.test_differential import RUN, in_namespace
from tests.nbd.mounting import as_file, loop_device
from tests.running import Export
from tests.tools import ROOT, environment, requires, tool

IMAGES = ROOT / "images"
CACHE = ROOT / ".demo" / "cache"
OBD = Path(sys.executable).with_name("obd")

Served = Callable[..., Export]

pytestmark = [pytest.mark.soak, requires("mmdebstrap", "umoci", "root")]


def recipe(name: str, out: Path, **more: str) -> None:
    env = environment(OBD=str(OBD), XDG_CACHE_HOME=str(out / "known"), **more)
    subprocess.run([IMAGES / name, CACHE, out], check=True, env=env, timeout=1500)


@requires("runc", "nbdfuse", "losetup", "unshare", "fuse", "loop", "mount")
def test_container(served: Served, tmp_path: Path) -> None:
    recipe("container.sh", tmp_path)
    bundle, mounted = tmp_path / "bundle", tmp_path / "mounted"
    image = f"{tmp_path}/layout:debian"
    command = [tool("umoci"), "unpack", "--image", image, str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    mounted.mkdir()
    config = json.loads((bundle / "config.json").read_bytes())
    config["root"] = {"path": str(mounted), "readonly": True}
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    with (
        as_file(
            served(f"config={tmp_path}/image/config.v1.json").uri, tmp_path
        ) as disk,
        loop_device(disk) as device,
    ):
        name = f"obd-recipe-{os.getpid()}"
        said = in_namespace(RUN, device, mounted, tool("runc"), bundle, name)
    assert said.startswith("hello from Debian")


@requires("qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs")
def test_machine(served: Served, tmp_path: Path) -> None:
    recipe("machine.sh", tmp_path)
    words = "root=LABEL=root console=ttyS0 quiet panic=-1 obd.poweroff"
    kernel = ["-kernel", f"{tmp_path}/vmlinuz", "-initrd", f"{tmp_path}/initrd.img"]
    serial = boot(served, tmp_path / "system.obd", *kernel, "-append", words)
    assert "OBD-READY" in serial
    # Whole, by its own boot loader: it does not know that it shall power off.
    assert "OBD-READY" in boot(served, tmp_path / "disk.obd")


def boot(served: Served, layer: Path, *words: str) -> str:
    """Boot a disk, and return what the machine says until it is up."""
    drive = f"file={served(f'config={layer}').uri},format=raw,if=virtio,snapshot=on"
    machine = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    machine += ["-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "768"]
    command = [tool("qemu-system-x86_64"), *machine, "-serial", "stdio"]
    said = b""
    with subprocess.Popen(
        [*command, "-monitor", "none", "-drive", drive, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said += line
                if b"OBD-READY" in line:
                    break
        finally:
            process.kill()
    return said.decode(errors="replace")
