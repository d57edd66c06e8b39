# SPDX-License-Identifier: Apache-2.0
"""
build - the C core and its C tests as programs, without Python, by sanitizer.

Results stay under build/c/ in a folder named after all that went in, so that
a second run compiles nothing. The extension module is none of its business.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "obdengine" / "_core"
HERE = Path(__file__).parent

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-D_GNU_SOURCE"]

# What to compile with; "fast" is as users get it, but with its assertions.
KINDS: dict[str, list[str]] = {
    "fast": ["gcc", "-O2"],
    "asan": ["gcc", "-O1", "-g", "-fsanitize=address,undefined"],
    "tsan": ["gcc", "-O1", "-g", "-fsanitize=thread"],
    "fuzz": ["clang", "-O1", "-g", "-fsanitize=fuzzer,address,undefined"],
}


def core_sources() -> list[Path]:
    """Return the C files of the core, without what cffi may have left there."""
    return sorted(path for path in CORE.glob("*.c") if path.name != "_obd.c")


def program(kind: str, sources: Sequence[Path]) -> Path:
    """Return the program that the core and sources make, compiled if need be.

    Raises CalledProcessError, with the compiler's words, when it does not build.
    """
    command = [*KINDS[kind], *WARNINGS, "-fno-sanitize-recover=all"]
    files = [*core_sources(), *sources]
    target = ROOT / "build" / "c" / f"{kind}-{_fingerprint(command, files)}" / "unit"
    if target.exists():
        return target
    _forget_older(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"making-{os.getpid()}")
    names = [os.fspath(path) for path in files]
    run([*command, f"-I{CORE}", f"-I{HERE}", *names, "-o", str(made), *LIBRARIES])
    made.rename(target)
    return target


LIBRARIES = ["-llz4", "-lzstd", "-lz", "-lpthread"]


def run(command: Sequence[str]) -> str:
    """Run command and return its output; what it complained about is raised."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _fingerprint(command: Sequence[str], files: Sequence[Path]) -> str:
    digest = hashlib.sha256("\0".join(command).encode())
    for path in [*files, *sorted(CORE.glob("*.h")), *sorted(HERE.glob("*.h"))]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _forget_older(folder: Path) -> None:
    kind = folder.name.partition("-")[0]
    for old in folder.parent.glob(f"{kind}-*"):
        shutil.rmtree(old, ignore_errors=True)
