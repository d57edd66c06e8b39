# SPDX-License-Identifier: Apache-2.0
"""
test_demo_boot - virtual machines boot from layers over NBD, and write to them.

The recipes are the demo's own (images/). The judge is the serial port: QEMU's
exit code says nothing about its guest.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.running import run_obd, start_nbdkit
from tests.tools import ROOT, environment, requires

IMAGES = ROOT / "images"
CACHE = ROOT / ".demo" / "cache"
LAYERS = ("base.obd", "runtime.obd", "report.obd")
NOTES = "/opt/report/notes"

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
        timeout=280,
    )


def printed(serial: str) -> str:
    """Return what the guest's program wrote, of all that the guest wrote."""
    _, _, rest = serial.partition("OBD-BEGIN")
    text, end, _ = rest.partition("OBD-END")
    assert end, serial
    return text.partition("\n")[2]


def boot_writing(system: Path, image: Path, *words: str) -> str:
    """Boot from the image's own upper; return what the guest's notes printed."""
    command = [IMAGES / "boot.sh", "-w", system, NOTES, *words]
    return printed(run_obd("serve", "--read-write", image, "--", *command).text)


def raw_disk(image: Path, folder: Path) -> Path:
    disk = folder / "flat.raw"
    run_obd("convert", "-O", "raw", image, disk)
    return disk


def features(image: Path, folder: Path) -> str:
    return e2fs("dumpe2fs", "-h", raw_disk(image, folder)).stdout


def sound(image: Path, folder: Path) -> bool:
    run_obd("check", image)
    return e2fs("e2fsck", "-fn", raw_disk(image, folder)).returncode == 0


def e2fs(*command: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


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


@pytest.mark.parametrize("form", ["append", "sparse"])
def test_what_a_machine_writes_becomes_a_layer(
    system: Path, tmp_path: Path, form: str
) -> None:
    own = tmp_path / "own" / "config.v1.json"
    run_obd("create", "--form", form, system / "config.v1.json", own.parent)
    wrote = boot_writing(system, own, "write", "of-this-test")
    assert "note of-this-test" in wrote
    second = tmp_path / "second.v1.json"
    run_obd("commit", "--config", second, own, tmp_path / "notes.obd")
    done = run_obd("serve", second, "--", IMAGES / "boot.sh", system, NOTES, "show")
    assert printed(done.text) == wrote
    assert len(json.loads(second.read_text())["lowers"]) == len(LAYERS) + 1
    assert sound(own, tmp_path)


def test_a_killed_server_loses_nothing_that_was_synced(
    system: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own" / "config.v1.json"
    run_obd("create", system / "config.v1.json", own.parent)
    run_obd("serve", "--read-write", own, "--", IMAGES / "cut.sh", system, "5")
    synced = int((system / "synced").read_text())
    assert synced >= 5
    # It ended with its file system mounted, and writing.
    assert "needs_recovery" in features(own, tmp_path)
    counted = boot_writing(system, own, "count")
    assert int(counted.removeprefix("whole ")) >= synced
    assert "needs_recovery" not in features(own, tmp_path)
    assert sound(own, tmp_path)


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_each_stack_is_its_disk(system: Path, tmp_path: Path, number: int) -> None:
    stack = [system / layer for layer in LAYERS[: number + 1]]
    flat = tmp_path / "flat.raw"
    run_obd("convert", "-O", "raw", *stack, flat)
    disk = system / f"disk{number}.raw"
    subprocess.run(["cmp", disk, flat], check=True)
    # Where the file system keeps a file in many pieces, their table takes room.
    assert flat.stat().st_blocks <= 1.05 * disk.stat().st_blocks


def test_upper_layers_hold_only_what_differs(system: Path) -> None:
    base, runtime, report = ((system / layer).stat().st_size for layer in LAYERS)
    assert runtime < base / 4
    assert report < 1 << 20
