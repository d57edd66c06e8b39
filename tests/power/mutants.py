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

JOURNAL = (
    "append, journal",
    "append, journal and the rest",
    "append, journal, reopened",
    "append, journal and a limit",
    "append, journal, killed",
)

MUTANTS = [
    Mutant(
        "no sync of data before the records",
        "_core/upper.c",
        "    if (b->dirty || end > u->index_end)\n        " + _SYNC.format("data"),
        "",
        ("append, at random", "sparse, at random"),
    ),
    Mutant(
        "no sync of the records",
        "_core/upper.c",
        "        if (status == OBD_OK)\n            " + _SYNC.format("index"),
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
    Mutant(
        "no sync of the journal",
        "_core/journal.c",
        "    if (error == 0)\n"
        "        error = u->io.sync(u->io.context, j->fd);\n"
        "    if (error != 0) {\n        j->failed = true;\n        return",
        "    if (error != 0) {\n        j->failed = true;\n        return",
        JOURNAL,
    ),
    Mutant(
        "no checksum of an entry",
        "_core/journal.c",
        "checksum(e, size) != crc",
        "false",
        JOURNAL,
    ),
    Mutant(
        "no generation of an entry",
        "_core/journal.c",
        "memcmp(e + AT_GENERATION, w->header + AT_GENERATION, 8) != 0",
        "false",
        JOURNAL,
    ),
    Mutant(
        "no reset of the journal",
        "_core/journal.c",
        "    int error = u->io.write(u->io.context, j->fd, j->header,\n"
        "                            sizeof j->header, 0);\n",
        "    int error = 0;\n",
        JOURNAL,
    ),
    Mutant(
        "no sync of the reset",
        "_core/journal.c",
        "                            sizeof j->header, 0);\n\n"
        "    if (error == 0)\n        error = u->io.sync(u->io.context, j->fd);\n",
        "                            sizeof j->header, 0);\n\n",
        JOURNAL,
    ),
    Mutant(
        "the journal is reset before the records are durable",
        "_core/upper.c",
        "    int status = OBD_OK;\n\n    if (b->dirty || end > u->index_end)\n",
        "    struct list all = { 0 };\n"
        "    (void)list_room(&all, kept->n + 1);\n"
        "    for (size_t i = 0; i < kept->n; i++)\n        all.s[i] = kept->s[i];\n"
        "    all.n = kept->n;\n    kept = &all;\n"
        "    int status = obd_journal_reset(u, &b->hidden, fault);\n\n"
        "    if (b->dirty || end > u->index_end)\n",
        JOURNAL,
    ),
    Mutant(
        "no sync of data at a checkpoint",
        "_core/upper.c",
        "    if (b->dirty || end > u->index_end)\n        status = sync",
        "    if (b->dirty || b->records.n > 0)\n        status = sync",
        JOURNAL,
    ),
    Mutant(
        "data that kept records hide is written over",
        "_core/journal.c",
        "        j->hidden.s[j->hidden.n++] = b->hidden.s[i];\n",
        "        obd_space_give(&u->space, b->hidden.s[i].lo, b->hidden.s[i].hi);\n",
        JOURNAL,
    ),
    Mutant(
        "kept records are written behind newer ones",
        "_core/upper.c",
        "    uint64_t middle = u->index_end + kept->n * OBD_RECORD_SIZE;\n"
        "    uint64_t end = middle + b->records.n * OBD_RECORD_SIZE;\n",
        "    uint64_t end = u->index_end\n"
        "                   + (kept->n + b->records.n) * OBD_RECORD_SIZE;\n"
        "    uint64_t middle = u->index_end;\n",
        JOURNAL,
    ),
    Mutant(
        "data of an entry is not put back",
        "_core/journal.c",
        "        if (size > 0)\n            status = refused",
        "        if (size > UINT32_MAX)\n            status = refused",
        JOURNAL,
    ),
    Mutant(
        "a journal is not applied at opening",
        "_core/journal.c",
        "while (counts && status == OBD_OK && next_entry(u, w))",
        "while (counts && status != OBD_OK && next_entry(u, w))",
        JOURNAL,
    ),
    Mutant(
        "a new index file beside a journal that counts",
        "_core/upper.c",
        "    if (status == OBD_OK && u->journal.used)\n",
        "    if (status == OBD_OK && u->journal.used && fd < 0)\n",
        ("append, journal, writes in between",),
    ),
    Mutant(
        "no sync of a new journal",
        "layer/journal.py",
        "                out.commit()\n",
        "                out._temporary.replace(out.path)\n"
        "                out._close()\n",
        JOURNAL,
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
