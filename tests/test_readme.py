# SPDX-License-Identifier: Apache-2.0
"""test_readme - what README tells a reader to type does what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from obdengine.device import Read
from obdengine.device.trace import pack_trace
from tests.oci.test_stores import docker_archive
from tests.oci_images import make_layout, small_tar
from tests.ops.vm_files import qemu_img
from tests.registries import Registry
from tests.running import PATIENCE, run_obd
from tests.tools import ROOT, environment, requires

README = (ROOT / "README.md").read_text()
SIZE = 4 << 20

# Those that make devices and machines are run by tests/host and tests/vm.
ELSEWHERE = ("obd attach", "obd mount", "obd umount", "obd vm")

FOUND = re.findall(r"^    ((?:obd|nbdkit) .+?)(?: +#.*)?$", README, re.MULTILINE)
COMMANDS = [command for command in FOUND if not command.startswith(ELSEWHERE)]
PROGRAMS = re.findall(r"```python\n(.+?)```", README, re.DOTALL)

# Commands that go on until they are stopped are given something to run.
ENDLESS = {
    "obd serve config.v1.json --socket /run/disk.sock": (
        "obd serve config.v1.json --socket run.sock -- nbdinfo '$uri'"
    ),
    "obd serve --read-write machine/config.v1.json --control /run/machine.control": (
        "obd serve --read-write machine/config.v1.json --control run.control"
        " -- nbdinfo '$uri'"
    ),
}
# One that asks a server needs it.
ASKING = {
    "obd merge --control /run/machine.control one.obd": (
        "obd serve --read-write machine/config.v1.json --control run.control"
        " -- obd merge --control run.control one.obd"
    ),
    "obd snapshot --control /run/machine.control": (
        "obd serve --read-write machine/config.v1.json --control run.control"
        " -- obd snapshot --control run.control"
    ),
}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that README speaks of."""
    disk = bytearray(SIZE)
    disk[: 1 << 20] = os.urandom(1 << 20)
    (tmp_path / "disk.raw").write_bytes(disk)
    disk[4096:8192] = bytes(4096)
    disk[1 << 20 : 2 << 20] = b"x" * (1 << 20)
    (tmp_path / "changed.raw").write_bytes(disk)
    run_obd("convert", "disk.raw", "base.obd", cwd=tmp_path)
    run_obd("convert", "--base", "base.obd", "changed.raw", "app.obd", cwd=tmp_path)
    container_image(tmp_path)
    machine_image(tmp_path)
    lowers = [{"file": "base.obd"}, {"file": "app.obd"}]
    (tmp_path / "config.v1.json").write_text(json.dumps({"lowers": lowers}))
    return tmp_path


def machine_image(desk: Path) -> None:
    """Make the disk of a machine, a qcow2 file over another one."""
    qemu_img("convert", "-O", "qcow2", desk / "disk.raw", desk / "vm-base.qcow2")
    words = ("-b", "vm-base.qcow2", "-F", "qcow2", desk / "vm.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", *words)


def container_image(desk: Path) -> None:
    """Make the container images and trees that README speaks of."""
    tars = [small_tar(base="1"), small_tar(app="2")]
    make_layout(desk / "layout", tars, tag="app")
    docker_archive(desk / "app.tar", tars)
    (desk / "rootfs.tar").write_bytes(tars[0])
    (desk / "overlay").mkdir()
    (desk / "overlay" / "file").write_text("on top")


def as_it_can_be_run(command: str, desk: Path) -> str:
    """Return the command with an end, a place and no other machine."""
    command = {**ENDLESS, **ASKING}.get(command, command)
    command = command.replace("ssh host 'cat > disk.raw'", "cat > disk.raw")
    command = command.replace("/var/lib/images", str(desk))
    if command.startswith("nbdkit "):
        plugin = str(ROOT / "nbdkit_plugin" / "obd.py")
        command = command.replace("nbdkit_plugin/obd.py", plugin)
        command = command.replace("nbdkit ", "nbdkit -U - ", 1)
        command += " --run 'nbdinfo --list \"$uri\"'"
    return command


def at(command: str, host: str) -> str:
    """Return the command for a registry that there is."""
    return re.sub(r"docker://(registry\.example|localhost:5000)/", host, command)


def prepare(command: str, desk: Path) -> None:
    """Make what earlier commands of README make."""
    if "machine/config.v1.json" in command:
        run_obd("create", "config.v1.json", "machine", cwd=desk)
    for target in re.findall(r"docker://\S+/team/\S+", command):
        run_obd("push", "config.v1.json", target, cwd=desk)
    if "--service" in command:
        (desk / "overlaybd.json").write_text("{}")
    if " app.trace" in command and "record" not in command:
        reads = [Read(0, 4096, 4096)]
        (desk / "app.trace").write_bytes(pack_trace(reads))
    if "--base disk.obd" in command:
        run_obd("convert", "--size", "64M", "rootfs.tar", "disk.obd", cwd=desk)


@requires("nbdkit", "nbdkit-python", "nbdinfo", "qemu-img", "bash")
@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(
    command: str, desk: Path, request: pytest.FixtureRequest
) -> None:
    line = as_it_can_be_run(command, desk)
    if "docker://" in line:
        registry: Registry = request.getfixturevalue("registry")
        line = at(line, f"docker://{registry.host}/")
    prepare(line, desk)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=desk,
        env=environment(XDG_CACHE_HOME=str(desk), OBD_CACHE=str(desk / "cache")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    # Doctor may find that this machine lacks something.
    assert done.returncode == 0 or "doctor" in command, done
    assert "Traceback" not in done.stderr


def test_flat_disk_is_the_one_that_went_in(desk: Path) -> None:
    (command,) = (text for text in COMMANDS if "-O raw base.obd" in text)
    run_obd(*command.split()[1:], cwd=desk)
    changed = (desk / "changed.raw").read_bytes()
    assert (desk / "disk.raw").read_bytes() == changed


@pytest.mark.parametrize("program", PROGRAMS)
def test_python_works(
    program: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    exec(compile(program, "README.md", "exec"), {})


def test_commands_were_found() -> None:
    assert len(COMMANDS) > 12
    assert len(PROGRAMS) == 1
    assert {*ENDLESS, *ASKING} <= set(COMMANDS)
