# SPDX-License-Identifier: Apache-2.0
"""
tools - the programs and kernel features that tests lean on, and how to skip.

A missing program is mended by `make setup`, so OBD_NO_SKIP=1 makes its skip a
failure. A feature that this kernel lacks cannot be mended: it is probed by
using it, and its skip stays a skip. QEMU_IMG=/path chooses another qemu-img.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
PLUGIN = ROOT / "nbdkit_plugin" / "obd.py"

# The Python that nbdkit embeds; python3-libnbd serves only this one.
SYSTEM_PYTHON = "/usr/bin/python3"

# Skips that start so are about this machine's kernel and stay skips everywhere.
KERNEL = "kernel: "

# Put on a test or a module: requires("qemu-img", "nbdkit-python", "fuse").
requires = pytest.mark.requires

_LOOP_CTL_GET_FREE = 0x4C82
_CLONE_NEWNS = 0x00020000


def tool(name: str) -> str:
    """Return the path of program `name`, or of the one that NAME= chooses."""
    override = os.environ.get(name.upper().replace("-", "_"))
    return override or shutil.which(name, path=_path()) or name


# Lets everybody into the folder of the project: what bars the way is covered in
# this mount namespace, with nothing in it but the way.
_LET_IN = """
hold=$(mktemp -d)
mount --bind "$2" "$hold"
mount -t tmpfs -o mode=755 none "$1"
mkdir -p "$2"
mount --bind "$hold" "$2"
umount "$hold"
rmdir "$hold"
shift 2
cd /
exec "$@"
"""


def let_everybody_in() -> list[str]:
    """Return words before a command that another user is to run, as root.

    A project in root's home cannot be reached by others.
    """
    barred = [path for path in ROOT.parents if not path.stat().st_mode & 0o001]
    if not barred:
        return []
    script = ["unshare", "--mount", "sh", "-euc", _LET_IN, "sh"]
    return [*script, str(barred[-1]), str(ROOT)]


def environment(**more: str) -> dict[str, str]:
    """Return an environment for the system's own programs.

    /usr/bin comes first, so that nbdsh finds the Python that has libnbd, and
    PYTHONPATH lets the Python inside nbdkit import this project. Nothing else
    that changes how Python behaves (PYTHONUNBUFFERED...) gets in from outside.
    """
    paths = [str(ROOT), sysconfig.get_path("platlib")]
    outer = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**outer, "PATH": _path(), "PYTHONPATH": ":".join(paths), **more}


def nbdkit_filter() -> Path:
    """Return our filter for nbdkit; skip the test where it was not built."""
    found = sorted((ROOT / "obdengine").glob("_nbdkit_filter*.so"))
    if not found:
        pytest.skip("nbdkit-plugin-dev was not installed when obdengine was built")
    return found[0]


def missing(name: str) -> str | None:
    """Say why `name` cannot be used here, or None when it can.

    The reason starts with KERNEL when nothing that is installed could help.
    """
    if name in _FEATURES:
        return _probe(name)
    if name in _PARTS:
        return None if _parts_work(name) else f"{name} is not installed"
    if shutil.which(tool(name)) is None:
        return f"{name} is not installed"
    return None


def require(*names: str) -> None:
    """Skip the running test unless every one of `names` can be used."""
    for name in names:
        reason = missing(name)
        if reason is not None:
            pytest.skip(reason)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under OBD_NO_SKIP=1, turn a skip that could be mended into a failure."""
    if os.environ.get("OBD_NO_SKIP") != "1" or not report.skipped:
        return
    reason = str(report.longrepr)
    if KERNEL not in reason and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and OBD_NO_SKIP=1 forbids it: {reason}"


# The venv's own folder stays in reach, for `obd`.
def _path() -> str:
    venv = Path(sys.executable).parent
    return f"/usr/sbin:/usr/bin:/sbin:/bin:{venv}:{os.environ.get('PATH', '')}"


# Things that are not one program on PATH: the command that shows they work.
_PARTS = {
    "nbdkit-python": [tool("nbdkit"), "python", "--version"],
    "python3-libnbd": [SYSTEM_PYTHON, "-c", "import nbd"],
}


@functools.cache
def _parts_work(name: str) -> bool:
    try:
        done = subprocess.run(_PARTS[name], capture_output=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0


def _probe_root() -> bool:
    return os.geteuid() == 0


def _probe_fuse() -> bool:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    return True


def _probe_loop() -> bool:
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE) >= 0
    finally:
        os.close(control)


# In a child: unshare changes the caller for good.
def _probe_mount() -> bool:
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None)
        done = libc.unshare(_CLONE_NEWNS) == 0
        os._exit(0 if done and libc.mount(b"x", b"/tmp", b"tmpfs", 0, None) == 0 else 1)
    return os.waitpid(child, 0)[1] == 0


_FEATURES: dict[str, Callable[[], bool]] = {
    "root": _probe_root,
    "fuse": _probe_fuse,
    "loop": _probe_loop,
    "mount": _probe_mount,
}


@functools.cache
def _probe(name: str) -> str | None:
    try:
        works = _FEATURES[name]()
    except OSError as error:
        return f"{KERNEL}no {name} here: {error}"
    return None if works else f"{KERNEL}no {name} here"
