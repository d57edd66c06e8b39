# SPDX-License-Identifier: Apache-2.0
"""test_running - the test helpers themselves: servers, skips, probes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import running, tools


@tools.requires("nbdkit", "nbdinfo")
def test_server_is_ready_when_started_and_gone_when_stopped(tmp_path: Path) -> None:
    export = running.start_nbdkit(tmp_path, "1M", plugin=["memory"])
    try:
        command = [tools.tool("nbdinfo"), "--size", export.uri]
        size = subprocess.run(command, capture_output=True, check=True).stdout
    finally:
        code = export.stop()
    assert size == b"1048576\n"
    assert code == 0
    assert export.stop() == 0


@tools.requires("nbdkit")
def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(running.ServerFailed, match="no/such/file"):
        running.start_nbdkit(tmp_path, "no/such/file", plugin=["file"])


@tools.requires("nbdkit")
def test_server_that_crashes_is_noticed(tmp_path: Path) -> None:
    export = running.start_nbdkit(tmp_path, "1M", plugin=["memory"])
    export.process.send_signal(11)
    export.process.wait()
    with pytest.raises(running.ServerFailed, match="signal 11"):
        export.stop()


@pytest.mark.parametrize(
    ("reason", "strict", "outcome"),
    [
        ("nbdkit is not installed", "1", "failed"),
        ("nbdkit is not installed", "", "skipped"),
        (f"{tools.KERNEL}no fuse here", "1", "skipped"),
    ],
)
def test_skip_policy(
    monkeypatch: pytest.MonkeyPatch, reason: str, strict: str, outcome: str
) -> None:
    monkeypatch.setenv("OBD_NO_SKIP", strict)
    report = SimpleNamespace(
        skipped=True, outcome="skipped", longrepr=("x.py", 1, f"Skipped: {reason}")
    )
    tools.refuse_skip(report)
    assert report.outcome == outcome


def test_missing_program_has_a_reason_and_no_kernel_excuse() -> None:
    reason = tools.missing("no-such-program")
    assert reason == "no-such-program is not installed"


def test_probes_answer_without_leaving_a_mount() -> None:
    before = Path("/proc/self/mounts").read_text()
    for name in ("root", "fuse", "loop", "mount"):
        reason = tools.missing(name)
        assert reason is None or reason.startswith(tools.KERNEL)
    assert Path("/proc/self/mounts").read_text() == before


def test_program_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_IMG", "/opt/other/qemu-img")
    assert tools.tool("qemu-img") == "/opt/other/qemu-img"


def test_programs_do_not_see_how_python_is_set_up_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    inner = tools.environment(LANG="C")
    assert [name for name in inner if name.startswith("PYTHON")] == ["PYTHONPATH"]
    assert "/elsewhere" not in inner["PYTHONPATH"]
    assert inner["LANG"] == "C"
