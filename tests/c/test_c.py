# SPDX-License-Identifier: Apache-2.0
"""test_c - the C tests, each under each sanitizer, and what the core links to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.c import build
from tests.tools import requires

SOURCES = [path.read_text() for path in sorted(build.HERE.glob("test_*.c"))]


def names_for(kind: str) -> list[str]:
    """Return the names of the tests that a sanitizer has something to say of."""
    texts = [text for text in SOURCES if kind != "tsan" or "pthread_create" in text]
    found = re.compile(r"^TEST\((\w+)\)", re.MULTILINE)
    return sorted(name for text in texts for name in found.findall(text))


CASES = [(kind, name) for kind in ("fast", "asan", "tsan") for name in names_for(kind)]
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}

# All that the core may ask of the C library; it opens nothing, no log, no exit.
ALLOWED = {
    *("calloc", "free", "malloc", "realloc", "aligned_alloc", "madvise"),
    *("strcmp", "memcmp", "memcpy", "memmove", "memset", "qsort"),
    *("pread", "preadv", "pread64"),
    *("pwrite", "fdatasync", "ftruncate", "fallocate"),  # io.c's
    *("preadv2", "preadv64v2"),  # file.c's
    # On a socket that export.c is given; and until something comes there.
    *("send", "sendmsg", "recv", "shutdown", "poll", "sched_yield", "clock_gettime"),
    *("mmap", "munmap", "mincore"),  # window.c's
    "strnlen",
    "nanosleep",  # where a full log waits for readers
    *(f"pthread_mutex_{verb}" for verb in ("init", "destroy", "lock", "unlock")),
    "pthread_mutex_trylock",
    *(f"pthread_rwlock_{verb}" for verb in ("init", "destroy", "unlock")),
    *("pthread_rwlock_rdlock", "pthread_rwlock_wrlock"),
    *(f"pthread_cond_{verb}" for verb in ("init", "destroy", "wait", "broadcast")),
    # What helpers.c needs, which alone makes threads.
    *("pthread_create", "pthread_join", "pthread_atfork", "pthread_sigmask"),
    *(f"pthread_attr_{verb}" for verb in ("init", "destroy", "setstacksize")),
    *("sched_getaffinity", "__sched_cpucount", "sigfillset", "syscall"),
    *(
        "__errno_location",
        "__stack_chk_fail",
        "__tls_get_addr",
        "__cpu_model",
        "__cpu_indicator_init",
    ),
}

PATIENCE = 240.0  # seconds, for one test under a sanitizer on a busy machine

pytestmark = requires("gcc")


@pytest.fixture(scope="module")
def unit(request: pytest.FixtureRequest) -> Path:
    """The program of all C tests, by sanitizer."""
    return build.program(request.param, sorted(build.HERE.glob("*.c")))


@pytest.mark.parametrize(("unit", "name"), CASES, indirect=["unit"])
def test_c(unit: Path, name: str) -> None:
    done = subprocess.run(
        [unit, name], capture_output=True, text=True, env=SANITIZERS, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    "header", sorted(build.CORE.glob("*.h")), ids=lambda path: path.name
)
def test_header_stands_alone(header: Path, tmp_path: Path) -> None:
    if header.name == "cdef.h":
        return  # for cffi, which is no C compiler
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header.name}"\n#include "{header.name}"\nint x;\n')
    flags = [*build.WARNINGS, f"-I{build.CORE}", "-fsyntax-only"]
    build.run(["gcc", *flags, str(source)])


def test_core_asks_for_little_and_names_its_own(tmp_path: Path) -> None:
    library = tmp_path / "core.o"
    sources = [str(path) for path in build.core_sources()]
    flags = ["-O2", "-fPIC", "-nostdlib", *build.WARNINGS, f"-I{build.CORE}"]
    build.run(["gcc", *flags, "-r", *sources, "-o", str(library)])
    symbols = build.run(["nm", "-P", str(library)])
    kinds = [line.split()[:2] for line in symbols.splitlines()]
    wanted = {name for name, kind in kinds if kind == "U"}
    libraries = ("LZ4_", "ZSTD_", "inflate", "_GLOB")
    stray = {name for name in wanted if not name.startswith(libraries)}
    assert stray <= ALLOWED
    exported = {name for name, kind in kinds if kind in "TDBRC"}
    assert all(name.startswith("obd_") for name in exported)
