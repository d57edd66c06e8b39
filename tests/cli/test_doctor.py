# SPDX-License-Identifier: Apache-2.0
"""test_doctor - `obd doctor` says what is here, and what mends what is not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdengine.cli import kvm
from tests.running import Ran
from tests.tools import requires, tool

Obd = Callable[..., Ran]
KEYS = {"name", "ok", "needed", "detail", "purpose", "cure"}


@requires("nbdkit", "nbdkit-python")
def test_what_is_needed_is_here(obd: Obd) -> None:
    checks = obd("doctor", "--output=json").json()["checks"]
    assert all(set(check) == KEYS for check in checks)
    assert all(check["ok"] for check in checks if check["needed"])
    assert all(bool(check["cure"]) != check["ok"] for check in checks)
    names = [check["name"] for check in checks]
    for name in ("python", "core", "nbdkit", "plugin", "kvm", "fuse", "loop"):
        assert name in names


def test_human_form_has_a_line_for_each(obd: Obd) -> None:
    checks = obd("doctor", "--output=json", code=None).json()["checks"]
    lines = obd("doctor", code=None).text.splitlines()
    for check in checks:
        line = next(line for line in lines if f" {check['name']}: " in line)
        assert line.startswith("ok" if check["ok"] else ("missing", "MISSING"))
        if not check["ok"]:
            assert lines[lines.index(line) + 2].endswith(check["cure"])


def test_missing_nbdkit_is_found_and_fails(obd: Obd) -> None:
    ran = obd("doctor", "--output=json", code=1, env={"NBDKIT": "/no/such"})
    found = {check["name"]: check for check in ran.json()["checks"]}
    assert found["nbdkit"]["cure"] == "apt-get install nbdkit"
    assert not found["plugin"]["ok"]
    assert (
        "needed and missing: nbdkit"
        in obd("doctor", code=1, env={"NBDKIT": "/no/such"}).text
    )


@requires("nbdkit", "nbdkit-python")
def test_nbdkit_that_cannot_import_the_engine(obd: Obd, tmp_path: Path) -> None:
    fake = tmp_path / "nbdkit"
    fake.write_text(f'#!/bin/sh\nPYTHONPATH= exec {tool("nbdkit")} "$@"\n')
    fake.chmod(0o755)
    ran = obd("doctor", "--output=json", code=1, env={"NBDKIT": str(fake)})
    found = {check["name"]: check for check in ran.json()["checks"]}
    assert found["nbdkit-python"]["ok"]
    assert not found["plugin"]["ok"]
    assert "PYTHONPATH=" in found["plugin"]["detail"]


def test_kvm_is_tried_and_not_only_seen() -> None:
    reason = kvm.why_not()
    assert reason is None or "/dev/kvm" in reason


def checks(obd: Obd, **env: str) -> dict[str, dict[str, Any]]:
    found = obd("doctor", "--output=json", code=None, env=env).json()["checks"]
    return {check["name"]: check for check in found}


def test_what_machines_and_mounts_lean_on_is_looked_at(obd: Obd) -> None:
    found = checks(obd)
    for name in ("apparmor", "selinux", "sockets", "libvirt", "kernel-nbd"):
        assert name in found
    for name in ("file systems", "ntfs", "rootless"):
        assert found[name]["detail"]
        assert found[name]["ok"] or len(found[name]["cure"]) > 10


@requires("root", "libvirtd")
def test_a_folder_that_machines_cannot_enter(obd: Obd, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    found = checks(obd, OBD_RUN=str(run))["sockets"]
    assert not found["ok"]
    assert str(run) in found["detail"]
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        Path(folder).chmod(0o711)
        assert checks(obd, OBD_RUN=folder)["sockets"]["ok"]
