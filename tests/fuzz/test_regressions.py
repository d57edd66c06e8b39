# SPDX-License-Identifier: Apache-2.0
"""test_regressions - seeds, and all that ever broke a fuzzer, once through each."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.c import build
from tests.fuzz import readers, seeds
from tests.tools import requires

HERE = Path(__file__).parent


def test_readers() -> None:
    for path in sorted((HERE / "regressions" / "readers").glob("*")):
        readers.one_input(path.read_bytes())


def test_readers_on_seeds() -> None:
    for seed in seeds.for_readers():
        readers.one_input(seed)


def test_seeds_are_good_layers() -> None:
    """A fuzzer that starts from refused files never gets anywhere."""
    for seed in seeds.for_readers():
        if seed[0] in (readers.LAYER, readers.MENDED):
            readers.layer(seed[1:])
            assert readers.mended(seed[1:]) == seed[1:]


@requires("clang")
def test_core(tmp_path: Path) -> None:
    """One process for all: the sanitizers end it at the first that breaks."""
    seeds.write(tmp_path / "seeds", seeds.for_core())
    inputs = [*(tmp_path / "seeds").iterdir()]
    inputs += (HERE / "regressions" / "core").glob("*")
    program = build.program("fuzz", [HERE / "core.c"])
    done = subprocess.run(
        [program, *inputs], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
