# SPDX-License-Identifier: Apache-2.0
"""test_programs - the C programs compile without a warning, and rivals agree."""

from __future__ import annotations

import subprocess

import pytest

from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB, MIB
from tests.bench import workshop
from tests.bench.counting import write_words
from tests.bench.lookup import NAMES
from tests.bench.upper import ROWS
from tests.bench.workshop import Workshop, make_disk, run_samples
from tests.tools import requires

LIBRARIES = ["lz4", "z", "zstd"]

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


def test_reader_measures_all_and_refuses_what_it_does_not_know(tmp_path):
    program = Workshop(tmp_path).compiled("read", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"x" * (1 << 20))
    words = [program, "alone", "1", rubbish, f"plain={rubbish}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "failed: trailer\n"

    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    make_disk(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec="lz4", block_size=64 * KIB))
    alone = run_samples(program, "alone", "1", disk, f"it={layer}")
    assert {name: set(found) for name, found in alone.items()} == {
        "flat": {"random", "sequential"},
        "it": {"random", "again", "sequential"},
        "it+bare": {"random", "sequential"},
    }
    both = run_samples(program, "both", "1", disk, f"it={layer}")["it"]
    assert set(both) == {"helped", "both"}


def test_writers_leave_the_same_disk(tmp_path):
    program = Workshop(tmp_path).compiled("write", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    make_disk(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec=None))
    figures = run_samples(program, "2", "20", tmp_path, disk, layer)
    assert figures.keys() == ROWS.keys()
    for found in figures.values():
        assert found.keys() == {"first", "over", "read", "pair"}
        assert len(found["pair"].samples) == 2


def test_counter_reads(tmp_path):
    program = Workshop(tmp_path).compiled("count", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    write_words(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec="lz4"))
    assert subprocess.run([program, layer, "10"]).returncode == 0
