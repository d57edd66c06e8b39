# SPDX-License-Identifier: Apache-2.0
"""
test_demo_boot - a virtual machine boots from a stack of layers over NBD.

The recipes are the demo's own (images/). The judge is the serial port: QEMU's
exit code says nothing about its guest.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.running import run_obd, start_nbdkit
from tests.tools import ROOT, environment, requires

IMAGES = ROOT / "images"
CACHE = ROOT / ".demo" / "cache"
LAYERS = ("base.obd", "runtime.obd", "report.obd")

pytestmark = requires(
    "qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "debugfs", "busybox"
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's disks, layers of them, and a config."""
    folder = tmp_path_factory.mktemp("system")
    subprocess.run([IMAGES / "build.sh", CACHE, folder], check=True, timeout=250)
    base: list[str] = []
    for number, layer in enumerate(LAYERS):
        disk = folder / f"disk{number}.raw"
        run_obd("convert", *base, disk, folder / layer)
        base += ["--base", str(folder / layer)]
    write_config(folder / "config.v1.json", LAYERS)
    return folder


def write_config(path: Path, layers: tuple[str, ...]) -> None:
    lowers = [{"file": layer} for layer in layers]
    path.write_text(json.dumps({"lowers": lowers}))


def boot(folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [IMAGES / "boot.sh", folder],
        env=environment(uri=uri),
        capture_output=True,
        text=True,
        timeout=200,
    )


def printed(serial: str) -> str:
    """Return what the guest's program wrote, of all that the guest wrote."""
    _, _, rest = serial.partition("OBD-BEGIN")
    text, end, _ = rest.partition("OBD-END")
    assert end, serial
    return text.partition("\n")[2]


def test_machine_boots_from_three_layers(system: Path) -> None:
    config = system / "config.v1.json"
    done = run_obd("serve", config, "--", IMAGES / "boot.sh", system)
    assert printed(done.text) == (system / "expected").read_text()


def test_machine_boots_from_a_folder_of_images(system: Path, tmp_path: Path) -> None:
    export = start_nbdkit(tmp_path, f"dir={system.parent}")
    try:
        done = boot(system, export.uri_of(system.name))
    finally:
        export.stop()
    assert done.returncode == 0, done
    assert printed(done.stdout) == (system / "expected").read_text()


def test_without_the_top_layer_there_is_no_program(
    system: Path, tmp_path: Path
) -> None:
    lower = [system / layer for layer in LAYERS[:-1]]
    export = start_nbdkit(tmp_path, *(f"config={path}" for path in lower))
    try:
        done = boot(system, export.uri)
    finally:
        export.stop()
    assert done.returncode != 0
    assert "report" not in printed(done.stdout).replace("/opt/report/report", "")


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_each_stack_is_its_disk(system: Path, tmp_path: Path, number: int) -> None:
    stack = [system / layer for layer in LAYERS[: number + 1]]
    flat = tmp_path / "flat.raw"
    run_obd("convert", "-O", "raw", *stack, flat)
    disk = system / f"disk{number}.raw"
    subprocess.run(["cmp", disk, flat], check=True)
    assert flat.stat().st_blocks <= disk.stat().st_blocks


def test_upper_layers_hold_only_what_differs(system: Path) -> None:
    base, runtime, report = ((system / layer).stat().st_size for layer in LAYERS)
    assert runtime < base / 4
    assert report < 1 << 20
