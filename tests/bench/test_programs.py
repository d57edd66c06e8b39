# SPDX-License-Identifier: Apache-2.0
"""test_programs - the C programs compile without a warning, and rivals agree."""

from __future__ import annotations

import subprocess

import pytest

from tests.bench import workshop
from tests.bench.lookup import NAMES
from tests.bench.workshop import Workshop, run_samples
from tests.tools import requires

LIBRARIES = ["lz4", "zstd"]

pytestmark = requires("cc", "taskset")


@pytest.fixture(autouse=True)
def _strict(monkeypatch):
    flags = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
    monkeypatch.setattr(workshop, "CFLAGS", [*workshop.CFLAGS, *flags])


@pytest.mark.parametrize("shape", ["mixed", "clustered"])
def test_all_structures_find_the_same(tmp_path, shape):
    program = Workshop(tmp_path).compiled("lookup", libraries=LIBRARIES)
    figures = run_samples(program, shape, "1000", "1")
    assert figures.keys() <= NAMES.keys() | {"all"}
    assert {"core", "directory", "binary", "eytzinger"} < figures.keys()
    assert figures["core"]["rate"].median > 0


def test_reader_compiles_and_refuses_what_it_does_not_know(tmp_path):
    program = Workshop(tmp_path).compiled("read", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"x" * (1 << 20))
    words = [program, "1", "1", rubbish, f"plain={rubbish}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "failed: trailer\n"
