# SPDX-License-Identifier: Apache-2.0
"""test_map - `obd map` against the disk, and against what the layers hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.running import Ran
from tests.stacks import SIZE, Image, Origin

Obd = Callable[..., Ran]
SIZE_TEXT = str(SIZE)
KEYS = {"start", "length", "depth", "present", "zero", "data", "layer"}


def spread(records: list[dict[str, Any]]) -> list[Origin]:
    """Return where each sector comes from, by the records of a map."""
    return [
        (record["layer"], record["zero"])
        for record in records
        for _ in range(record["length"] // 512)
    ]


def test_json_is_the_truth(obd: Obd, image: Image) -> None:
    records = obd("map", "--output=json", image.config).json()
    assert spread(records) == image.origins()
    for record in records:
        assert set(record) >= KEYS
        assert record["data"] == (not record["zero"])
        assert record["present"] is True
        layer = record["layer"]
        assert record["depth"] == (2 if layer is None else 2 - layer)
        if record["zero"]:
            start, end = record["start"], record["start"] + record["length"]
            assert not any(image.disk[start:end])


def test_records_are_in_order_and_joined(obd: Obd, image: Image) -> None:
    records = obd("map", "--output=json", *image.layers).json()
    assert records[0]["start"] == 0
    for one, other in pairwise(records):
        assert one["start"] + one["length"] == other["start"]
        assert (one["layer"], one["zero"]) != (other["layer"], other["zero"])
    assert records[-1]["start"] + records[-1]["length"] == SIZE


def test_part_of_a_map(obd: Obd, image: Image) -> None:
    words = ("--start-offset", "64K", "--max-length", "100K")
    records = obd("map", "--output=json", *words, image.config).json()
    assert records[0]["start"] == 65536
    assert sum(record["length"] for record in records) == 100 << 10
    assert spread(records) == image.origins()[128:328]


def test_part_beyond_the_end(obd: Obd, image: Image) -> None:
    assert (
        obd("map", "--output=json", "--start-offset", SIZE_TEXT, image.config).json()
        == []
    )
    obd("map", "--start-offset", "1T", image.config, code=2)


def test_human_form(obd: Obd, image: Image) -> None:
    lines = obd("map", image.config).text.splitlines()
    assert lines[0].split() == ["start", "length", "what", "layer"]
    assert lines[1].split()[:4] == ["0", "8192", "zero", "2"]
    assert lines[-1].endswith("hole")
    for what in ("data", "zero", "hole"):
        assert any(f"  {what}  " in line for line in lines)


def test_golden_covers_the_disk(obd: Obd, golden: Path) -> None:
    layers = [golden / "blocks-a" / f"layer{n}.lsmt" for n in range(6)]
    records = obd("map", "--output=json", *layers).json()
    assert sum(record["length"] for record in records) == 64 << 20
    assert {record["layer"] for record in records} == {None, *range(6)}
