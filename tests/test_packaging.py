# SPDX-License-Identifier: Apache-2.0
"""test_packaging - what is in the wheel, and that it leaves qemu.qmp its room."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.tools import ROOT

FOLDERS = ["nbdkit_plugin", "obdengine", "qemu", "systemd"]
FILES = ["LICENSE", "README.md", "pyproject.toml", "setup.py"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: setuptools leaves folders beside the sources."""
    source = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=_built)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "."], cwd=source, check=True)
    (found,) = source.glob("*.whl")
    return found


def _built(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.endswith(".so")}


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name


def test_wheel_holds_every_module_and_the_plugin(names: list[str]) -> None:
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "obdengine").rglob("*.py")}
    assert modules <= set(names)
    assert "obdengine/_core/_obd.abi3.so" in names
    plugin = "data/share/obdengine/nbdkit_plugin/obd.py"
    assert any(name.endswith(plugin) for name in names)


def test_wheel_holds_no_sources_and_no_tests(names: list[str]) -> None:
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert not [name for name in names if name.startswith(("tests", "images"))]


def test_wheel_leaves_the_qemu_namespace_alone(names: list[str]) -> None:
    inside = [name for name in names if name.startswith("qemu/")]
    assert all(name.startswith("qemu/obd/") for name in inside)


def test_version_has_a_chapter_in_the_change_log() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
