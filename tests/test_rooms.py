# SPDX-License-Identifier: Apache-2.0
"""
test_rooms - the project keeps its own rules, and each rule notices a breach.

What is too long and stays so has its reason in LONG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import rooms
from tests.tools import ROOT

# "path" or "path:function" -> why it is better long.
LONG: dict[str, str] = {
    "obdengine/_core/upper.c": "who may hold which lock during a write, a flush and a "
    "new index file is one argument, and is read as one",
    "nbdkit_plugin/obd.py": "nbdkit loads one file",
}


def check_long(root: Path) -> Iterator[str]:
    return rooms.check_lengths(root, LONG if root == ROOT else {})


CHECKS = [
    rooms.check_floors,
    rooms.check_door,
    rooms.check_outsiders,
    rooms.check_namespace,
    rooms.check_headers,
    rooms.check_public,
    check_long,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_project_keeps(check: Callable[[Path], Iterator[str]]) -> None:
    complaints = [text.removeprefix(f"{ROOT}/") for text in check(ROOT)]
    assert not complaints, "\n" + "\n".join(complaints)


HEAD = '# SPDX-License-Identifier: Apache-2.0\n"""x - a file."""\n'
LONG_PYTHON = "def _f():\n" + "    x = 1\n" * 30
LONG_C = "int\nf(void)\n{\n" + "    x = 1;\n" * 51 + "}\n"

# What goes wrong: the check that must notice, the file, and the text after HEAD.
BREACHES = {
    "goes up": ("floors", "obdengine/blob/a.py", "from obdengine.layer import b"),
    "goes up in a function": (
        "floors",
        "obdengine/blob/a.py",
        "def f():\n    import obdengine.device.b",
    ),
    "room through package": (
        "floors",
        "obdengine/layer/a.py",
        "from obdengine import ops",
    ),
    "package itself": ("floors", "obdengine/device/a.py", "from obdengine import open"),
    "index reads": ("floors", "obdengine/index/a.py", "from obdengine import source"),
    "layer looks up": ("floors", "obdengine/layer/a.py", "import obdengine.index"),
    "words use core": ("floors", "obdengine/units.py", "from obdengine import _core"),
    "config uses ops": ("floors", "obdengine/config.py", "from obdengine import ops"),
    "click below cli": ("floors", "obdengine/ops/a.py", "import click"),
    "unlisted library": ("floors", "obdengine/cli/a.py", "import requests"),
    "relative": ("floors", "obdengine/blob/a.py", "from . import b"),
    "hidden import": ("floors", "obdengine/blob/a.py", "import importlib"),
    "unknown room": ("floors", "obdengine/helpers/a.py", ""),
    "second door": ("door", "obdengine/_core/b.py", "from obdengine._core import _obd"),
    "door of another room": (
        "door",
        "obdengine/ops/a.py",
        "from obdengine.ext4 import _ext4",
    ),
    "door in a test": ("door", "tests/core/test_a.py", "import obdengine._core._obd"),
    "plugin in core": (
        "outsiders",
        "nbdkit_plugin/a.py",
        "from obdengine import _core",
    ),
    "plugin unlisted": (
        "outsiders",
        "nbdkit_plugin/a.py",
        "from obdengine.errors import hidden",
    ),
    "plugin pokes": ("outsiders", "nbdkit_plugin/a.py", "device._core"),
    "plugin guesses": (
        "outsiders",
        "nbdkit_plugin/a.py",
        "import obdengine\nobdengine.hidden()",
    ),
    "qemu pokes": ("outsiders", "qemu/obd/a.py", "from obdengine.ops import _x"),
    "qemu package": ("namespace", "qemu/__init__.py", ""),
    "qemu tests": ("namespace", "tests/qemu/test_a.py", ""),
    "unlisted": ("public", "obdengine/ops/a.py", '__all__ = ["f"]\nf = g = 1'),
    "no list": ("public", "obdengine/ops/a.py", "def f(): pass"),
    "listed twice": ("public", "obdengine/ops/a.py", '__all__ = ["f", "f"]\nf = 1'),
    "listed nothing": ("public", "obdengine/ops/a.py", '__all__ = ["f"]'),
    "long function": ("long", "obdengine/ops/a.py", LONG_PYTHON),
    "long file": ("long", "obdengine/ops/a.py", "x = 1\n" * 600),
    "long C function": ("long", "obdengine/_core/a.c", LONG_C),
}


def plant(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def small_project(root: Path) -> None:
    for room in ("source", "blob", "layer", "index", "device", "ops", "cli"):
        plant(root, f"obdengine/{room}/__init__.py", HEAD)
    plant(root, "obdengine/__init__.py", HEAD)
    plant(root, "obdengine/_core/binding.py", f"{HEAD}import obdengine._core._obd\n")
    plant(root, "obdengine/_core/ffi_build.py", f'{HEAD}x("obdengine._core._obd")\n')
    plant(root, "obdengine/ext4/__init__.py", HEAD)
    plant(root, "obdengine/ext4/ffi_build.py", f'{HEAD}x("obdengine.ext4._ext4")\n')
    plant(root, "obdengine/errors.py", f'{HEAD}__all__ = ["E"]\nE = hidden = 1\n')


@pytest.mark.parametrize("name", BREACHES)
def test_breach_is_noticed(name: str, tmp_path: Path) -> None:
    word, path, text = BREACHES[name]
    small_project(tmp_path)
    check = next(c for c in CHECKS if c.__name__ == f"check_{word}")
    before = set(check(tmp_path))
    plant(tmp_path, path, f"{HEAD}{text}\n")
    assert set(check(tmp_path)) - before


@pytest.mark.parametrize(
    "text", ["x = 1\n", f"{HEAD.splitlines()[0]}\nx = 1\n", '"""x - y."""\n']
)
def test_missing_header_is_noticed(text: str, tmp_path: Path) -> None:
    plant(tmp_path, "obdengine/units.py", text)
    assert list(rooms.check_headers(tmp_path))


def test_what_is_allowed_stays_allowed(tmp_path: Path) -> None:
    small_project(tmp_path)
    plant(tmp_path, "obdengine/errors.py", f'{HEAD}__all__ = ["E"]\nE = 1\n')
    plant(tmp_path, "obdengine/device/a.py", f"{HEAD}from obdengine.index import t\n")
    plant(tmp_path, "obdengine/cli/a.py", f"{HEAD}import click\nimport obdengine\n")
    plant(tmp_path, "obdengine/units.py", f"{HEAD}from obdengine.errors import E\n")
    public = '__all__ = ["open"]\nfrom obdengine.ops import open_ as open\n'
    plant(tmp_path, "obdengine/__init__.py", HEAD + public)
    plant(tmp_path, "nbdkit_plugin/a.py", f"{HEAD}from obdengine.errors import E\n")
    for check in CHECKS:
        assert list(check(tmp_path)) == []


def test_reason_that_is_not_needed_is_noticed(tmp_path: Path) -> None:
    plant(tmp_path, "obdengine/ops/a.py", f"{HEAD}{LONG_PYTHON}")
    name = "obdengine/ops/a.py:_f"
    assert list(rooms.check_lengths(tmp_path, {name: "one table"})) == []
    assert list(rooms.check_lengths(tmp_path, {name: ""}))
    plant(tmp_path, "obdengine/ops/a.py", HEAD)
    assert list(rooms.check_lengths(tmp_path, {name: "one table"}))
