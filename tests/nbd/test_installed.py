# SPDX-License-Identifier: Apache-2.0
"""test_installed - the plugin with the package installed for nbdkit's Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stacks import SIZE, Image
from tests.tools import ROOT, SYSTEM_PYTHON, requires, tool

pytestmark = requires("nbdkit", "nbdkit-python", "nbdinfo")

PARTS = ["nbdkit_plugin", "obdengine", "qemu", "systemd"]
FILES = ["LICENSE", "README.md", "pyproject.toml", "setup.py"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has put the package and what it needs at run time."""
    folder = tmp_path_factory.mktemp("installed")
    source, target = folder / "source", folder / "target"
    # Built from a copy: setuptools leaves its own folders beside the sources.
    for part in PARTS:
        hidden = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, source / part, ignore=hidden)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", target, source]
    subprocess.run(command, check=True, capture_output=True)
    _add_cffi(target)
    return target


def _add_cffi(target: Path) -> None:
    probe = [SYSTEM_PYTHON, "-c", "import _cffi_backend"]
    if subprocess.run(probe, capture_output=True).returncode == 0:
        return
    import _cffi_backend

    shutil.copy(_cffi_backend.__file__, target)


def test_plugin_serves(installed: Path, image: Image) -> None:
    plugin = installed / "share" / "obdengine" / "nbdkit_plugin" / "obd.py"
    command = [tool("nbdkit"), "-U", "-", "python", plugin, f"config={image.config}"]
    done = subprocess.run(
        [*command, "--run", 'nbdinfo --size "$uri"'],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == SIZE


def test_obd_finds_the_plugin(installed: Path, image: Image) -> None:
    """`obd serve` of the installed package, away from the checkout."""
    program = "import sys; from obdengine.cli.main import main; main()"
    words = ["serve", str(image.config), "--", 'nbdinfo --size "$uri"']
    # This Python has click and tqdm; -P keeps the checkout out of sys.path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == SIZE
