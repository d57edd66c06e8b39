# SPDX-License-Identifier: Apache-2.0
"""test_merge - any run of layers as one: the stack reads the same."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import resolve
from obdengine.errors import Busy, UsageError
from obdengine.layer import LayerWriter, open_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.merge import merge
from tests.ops import writing
from tests.twins import stack, writer
from tests.twins.writer import SECTOR, Lsmt, Run

PLAIN = LayerOptions(codec=None)
SECTORS = 2500


def in_place(files: list[Path], new: Path, first: int, end: int) -> list[Path]:
    return [*files[:first], new, *files[end:]]


@pytest.mark.parametrize("seed", range(3))
def test_every_run(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    files = writing.lowers(chance, tmp_path, SECTORS, 4)
    disk = writing.read(*files)
    assert disk == stack.flat([path.read_bytes() for path in files])
    for first, end in combinations(range(len(files) + 1), 2):
        new = tmp_path / f"{first}-{end}.obd"
        merge(files, new, first=first, end=end)
        assert writing.read(*in_place(files, new, first, end)) == disk


def layer(path: Path, runs: list[Run], sectors: int = 4000, **how: str) -> Path:
    path.write_bytes(writer.lsmt(runs, sectors * SECTOR, Lsmt(**how)))
    return path


def test_zeros_stay_where_they_hide_something(tmp_path: Path) -> None:
    files = [
        layer(tmp_path / "0", [Run(0, b"a" * 8 * SECTOR), Run(800, zeroed=8)]),
        layer(tmp_path / "1", [Run(0, zeroed=4), Run(400, zeroed=8)]),
        layer(tmp_path / "2", [Run(400, zeroed=80), Run(800, zeroed=8)]),
    ]
    written = merge(files, tmp_path / "x", first=1, options=PLAIN)
    found = stack.open_stream((tmp_path / "x").read_bytes()).segments
    assert [(s.start, s.length, s.zeroed) for s in found] == [(0, 4, True)]
    assert written.zero_size == 4 * SECTOR
    written = merge(files, tmp_path / "x", options=PLAIN)
    assert (written.data_size, written.zero_size) == (4 * SECTOR, 0)


def test_data_that_is_zero_becomes_zeroed(tmp_path: Path) -> None:
    files = [
        layer(tmp_path / "0", [Run(0, b"a" * 16 * SECTOR)]),
        layer(tmp_path / "1", [Run(0, bytes(16 * SECTOR)), Run(99, bytes(SECTOR))]),
    ]
    written = merge(files, tmp_path / "x", first=1, options=PLAIN)
    assert (written.data_size, written.zero_size) == (0, 16 * SECTOR)


@pytest.mark.parametrize(
    ("sizes", "run"),
    [
        ([90, 12, 50], (0, 2)),
        ([90, 12, 50], (1, 3)),
        ([90, 50, 0], (1, 3)),
        ([90, 50, 0], (2, 3)),
        ([0, 50, 0], (0, 1)),
        ([20, 0, 60, 0], (1, 4)),
        ([60, 0, 20, 0], (0, 4)),
    ],
)
def test_layers_of_several_sizes(
    tmp_path: Path, sizes: list[int], run: tuple[int, int]
) -> None:
    """What a lower layer has past the end of another may still be on the disk."""
    files = []
    for number, sectors in enumerate(sizes):
        start = (sectors or 15) - 6 - number
        runs = [Run(1 + number, bytes([48 + number]) * SECTOR)]
        runs += [Run(start, bytes([65 + number]) * SECTOR * 4)]
        files.append(
            layer(
                tmp_path / str(number), sorted(runs, key=lambda run: run.start), sectors
            )
        )
    disk = writing.read(*files)
    merge(files, tmp_path / "x", first=run[0], end=run[1])
    assert writing.read(*in_place(files, tmp_path / "x", *run)) == disk


def test_below_an_upper(tmp_path: Path) -> None:
    chance = Random(3)
    image = writing.make(chance, tmp_path, "append", SECTORS, 3)
    image.write(chance, 40)
    merge(image.config, tmp_path / "x", first=1, config=image.config)
    assert resolve([image.config]).files == [image.lowers[0], tmp_path / "x"]
    image.check()
    image.write(chance, 40)
    image.check()


def test_not_while_somebody_writes(tmp_path: Path) -> None:
    image = writing.make(Random(4), tmp_path, "append")
    with obdengine.open(image.config, readonly=False):
        merge(image.config, tmp_path / "x")
        with pytest.raises(Busy):
            merge(image.config, tmp_path / "y", config=image.config)


@pytest.mark.parametrize("by_config", [True, False])
def test_new_configuration(tmp_path: Path, by_config: bool) -> None:
    files = writing.lowers(Random(5), tmp_path, SECTORS, 3)
    rows = [{"file": files[0].name, "digest": "sha256:0"}, *map(_row, files[1:])]
    old = tmp_path / "config.v1.json"
    old.write_text(json.dumps({"lowers": rows, "repoBlobUrl": "https://r"}))
    new = tmp_path / "other" / "config.v1.json"
    new.parent.mkdir()
    image = old if by_config else files
    written = merge(image, new.parent / "x", first=1, config=new)
    assert writing.read(new) == writing.read(old)
    found = json.loads(new.read_text())
    assert found["lowers"][0]["file"] == str(files[0])
    assert found["lowers"][1] == {
        "file": "x",
        "digest": written.digest,
        "size": written.size,
    }
    assert ("repoBlobUrl" in found) == by_config


def _row(path: Path) -> dict[str, str]:
    return {"file": path.name}


def test_chain_of_uuids(tmp_path: Path) -> None:
    names = [f"0000000{n}-1111-4000-8000-000000000000" for n in range(5)]
    files = [
        layer(tmp_path / str(n), [Run(n, b"x" * SECTOR)], uuid=uuid, parent=parent)
        for n, (parent, uuid) in enumerate(pairwise(names))
    ]
    merge(files, tmp_path / "x", first=1, end=3)
    opened = open_layer(tmp_path / "x")
    assert (opened.uuid, opened.parent_uuid) == (names[3], names[1])
    opened.close()
    options = LayerOptions(uuid=names[0], parent_uuid=names[4])
    merge(files, tmp_path / "x", first=1, end=3, options=options)
    opened = open_layer(tmp_path / "x")
    assert (opened.uuid, opened.parent_uuid) == (names[0], names[4])
    opened.close()


@pytest.mark.parametrize(("first", "end"), [(0, 0), (2, 1), (0, 3), (-1, 1), (2, 3)])
def test_no_run(tmp_path: Path, first: int, end: int) -> None:
    files = writing.lowers(Random(6), tmp_path, SECTORS, 2)
    with pytest.raises(UsageError, match="there are no layers"):
        merge(files, tmp_path / "x", first=first, end=end)


@pytest.mark.parametrize("limit", [300, 30])
@pytest.mark.parametrize("first", [0, 1])
def test_too_many_entries(
    tmp_path: Path, first: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(7)
    files = []
    for number in range(3):
        starts = sorted(chance.sample(range(0, 60_000, 20), 300))
        runs = [
            Run(s, chance.randbytes(SECTOR * 3))
            if chance.random() < 0.7
            else Run(s, zeroed=9)
            for s in starts
        ]
        files.append(layer(tmp_path / str(number), runs, 60_010))
    disk = writing.read(*files)
    monkeypatch.setitem(LayerWriter.__init__.__kwdefaults__, "limit", limit)
    written = merge(files, tmp_path / "x", first=first)
    assert written.entries <= limit
    assert writing.read(*files[:first], tmp_path / "x") == disk
