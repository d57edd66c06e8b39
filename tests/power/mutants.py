# SPDX-License-Identifier: Apache-2.0
"""
mutants - the engine with one thing missing that a power cut would punish.

Each is a copy of the package with one piece of text changed, built under
build/power/ and used by another process. If the simulator finds nothing wrong
with a mutant, the simulator is what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdengine._core.ffi_build import ffibuilder
from tests.tools import ROOT

WORK = ROOT / "build" / "power"
PACKAGE = ROOT / "obdengine"
_COMPILE = ["gcc", "-O1", "-fPIC", "-std=c11", "-D_GNU_SOURCE"]
_LIBRARIES = ["-llz4", "-lzstd", "-lz", "-lpthread"]


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: what is missing.
        file: where, in the package.
        old: the text that is there once.
        new: what is put in its place.
        hunts: the cases, one of which must show it.
    """

    name: str
    file: str
    old: str
    new: str
    hunts: tuple[str, ...]


_SYNC = "status = sync_file(u, u->setup.{}_fd, fault);\n"

MUTANTS = [
    Mutant(
        "no sync of data before the records",
        "_core/upper.c",
        "    if (b->dirty || size > 0)\n        " + _SYNC.format("data"),
        "",
        ("append, at random", "sparse, at random"),
    ),
    Mutant(
        "no sync of the records",
        "_core/upper.c",
        "    if (status == OBD_OK)\n        " + _SYNC.format("index"),
        "",
        ("append, at random", "sparse, at random"),
    ),
    Mutant(
        "garbage is written over before what hides it is durable",
        "_core/upper.c",
        "add_garbage(&u->hidden, moffset, length);",
        "obd_space_give(&u->space, moffset, length);",
        ("append, writes in between",),
    ),
    Mutant(
        "no sync when a layer is opened",
        "_core/replay.c",
        "int status = sync_both(u, fault);",
        "int status = 0 * (int)sizeof sync_both(u, fault);",
        ("append, killed in flushes",),
    ),
    Mutant(
        "no sync of data before a new index file",
        "_core/upper.c",
        "    int " + _SYNC.format("data"),
        "    int status = OBD_OK;\n",
        ("append, writes in between",),
    ),
    Mutant(
        "no sync of a file before it gets its name",
        "source/output.py",
        "            os.fsync(self._fd)\n            self._temporary.replace",
        "            self._temporary.replace",
        ("append, snapshots",),
    ),
    Mutant(
        "no sync of the folder behind a new name",
        "source/output.py",
        "            _sync_folder(self.folder)\n",
        "",
        ("append, writes in between",),
    ),
]


def hunt(mutant: Mutant | None, hunts: tuple[str, ...], seeds: int) -> dict[str, Any]:
    """Simulate with a mutant, or the engine itself; return what hunt.py says."""
    home = make(mutant) if mutant else ROOT
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.power.hunt", str(seeds), *hunts],
        env={**os.environ, "PYTHONPATH": f"{home}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["engine"]).is_relative_to(home)
    return said


def make(mutant: Mutant) -> Path:
    """Return the folder that holds the changed package, built if need be."""
    digest = hashlib.sha256(repr(mutant).encode())
    for path in sorted(PACKAGE.rglob("*.[cph]*")):
        if path.suffix in (".c", ".h", ".py") and path.name != "_obd.c":
            digest.update(path.read_bytes())
    home = WORK / mutant.name.replace(" ", "-") / digest.hexdigest()[:16]
    if not home.exists():
        shutil.rmtree(home.parent, ignore_errors=True)
        making = home.with_name(f"making-{os.getpid()}")
        unwanted = shutil.ignore_patterns("*.so", "__pycache__", "_obd.c")
        shutil.copytree(PACKAGE, making / "obdengine", ignore=unwanted)
        _change(making / "obdengine" / mutant.file, mutant)
        _build(making / "obdengine" / "_core")
        making.rename(home)
    return home


def _change(path: Path, mutant: Mutant) -> None:
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: {path.name} has changed"
    path.write_text(text.replace(mutant.old, mutant.new))


def _build(core: Path) -> None:
    """Compile the module; objects are shared by all mutants."""
    door = core / "_obd.c"
    ffibuilder.emit_c_code(str(door))
    headers = b"".join(path.read_bytes() for path in sorted(core.glob("*.h")))
    objects = [_object(path, headers) for path in sorted(core.glob("*.c"))]
    target = core / "_obd.abi3.so"
    _run(["gcc", "-shared", *map(str, objects), "-o", str(target), *_LIBRARIES])


def _object(source: Path, headers: bytes) -> Path:
    words = " ".join(_COMPILE).encode()
    digest = hashlib.sha256(words + headers + source.read_bytes()).hexdigest()[:16]
    made = WORK / "objects" / f"{source.stem}-{digest}.o"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        making = made.with_suffix(f".{os.getpid()}")
        folders = [f"-I{source.parent}", f"-I{sysconfig.get_path('include')}"]
        _run([*_COMPILE, *folders, "-c", str(source), "-o", str(making)])
        making.rename(made)
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
