# SPDX-License-Identifier: Apache-2.0
"""
nbdkit - where nbdkit and our plugin are, and how to run the one with the other.

nbdkit embeds the system's Python. It finds this engine, and what the engine
imports, through PYTHONPATH, so that it works from a virtual environment too.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sysconfig
from pathlib import Path

from obdengine.errors import ObdError

__all__ = [
    "NO_FILTER",
    "NO_NBDKIT",
    "NO_PYTHON_PLUGIN",
    "binary",
    "dump_plugin",
    "environment",
    "filter_file",
    "plugin_file",
    "why_no_filter",
]

NO_NBDKIT = "apt-get install nbdkit"
NO_PYTHON_PLUGIN = "apt-get install nbdkit-plugin-python"
NO_FILTER = "apt-get install nbdkit-plugin-dev; make setup"

# The folder that `import obdengine` finds the package in.
_HOME = Path(__file__).resolve().parents[2]

_PLUGIN = "nbdkit_plugin/obd.py"


def binary() -> str:
    """Return the nbdkit to run: $NBDKIT, or the one on PATH.

    Raises ObdError when there is none.
    """
    chosen = os.environ.get("NBDKIT", "nbdkit")
    # Distributions put it into sbin, which is not on everybody's PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/sbin"
    found = shutil.which(chosen, path=path)
    if found is None:
        raise ObdError(f"{chosen} is not installed", hint=NO_NBDKIT)
    return found


def plugin_file() -> Path:
    """Return our plugin's script, wherever the package was installed.

    Raises ObdError when it is not there.
    """
    shared = f"share/obdengine/{_PLUGIN}"
    places = [
        _HOME / _PLUGIN,
        _HOME / shared,
        Path(sysconfig.get_path("data")) / shared,
        Path(site.getuserbase()) / shared,
    ]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise ObdError(f"{_PLUGIN} is not installed", hint="install obdengine again")


def filter_file() -> Path | None:
    """Return the filter that takes requests past Python, None if it was not built."""
    return next((_HOME / "obdengine").glob("_nbdkit_filter*.so"), None)


def why_no_filter() -> str | None:
    """Return why nbdkit cannot use our filter, or None: it can.

    A filter is for the nbdkit whose headers it was compiled with.
    """
    path = filter_file()
    if path is None:
        return "it was not built"
    done = subprocess.run(
        [binary(), f"--filter={path}", "null", "--dump-plugin"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr.strip() or "nbdkit refuses it"


def environment() -> dict[str, str]:
    """Return an environment in which nbdkit's Python can import the engine."""
    places = [
        str(_HOME),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *filter(None, os.environ.get("PYTHONPATH", "").split(":")),
    ]
    return {**os.environ, "PYTHONPATH": ":".join(dict.fromkeys(places))}


def dump_plugin(*script: str) -> dict[str, str] | None:
    """Return what `nbdkit python [SCRIPT] --dump-plugin` says, None if it fails."""
    done = subprocess.run(
        [binary(), "python", *script, "--dump-plugin"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode != 0:
        return None
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {key: value for key, _, value in pairs}
