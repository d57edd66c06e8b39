# SPDX-License-Identifier: Apache-2.0
"""test_twins - the twins themselves: against the golden images, and each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import pytest

from obdengine.segment import Segment
from tests.twins import crc32c, invent, record, stack, table, writer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def blocks(golden: Path) -> tuple[dict, list[bytes]]:
    """What is expected of blocks-a, and its layers, bottom first."""
    expected = json.loads((golden / "blocks-a" / "expected.json").read_text())
    names = [layer["committed"] for layer in expected["layers"]]
    return expected, [(golden / "blocks-a" / name).read_bytes() for name in names]


def test_stack_reads_golden_stack(blocks) -> None:
    expected, layers = blocks
    assert sha256(stack.flat(layers)) == expected["disk_sha256"]


def test_stack_reads_golden_sealed(blocks, golden: Path) -> None:
    expected, _ = blocks
    sealed = (golden / "blocks-a" / "layer1.sealed").read_bytes()
    assert sha256(stack.flat([sealed])) == expected["layers"][1]["alone_sha256"]


def test_merge_gives_golden_index(blocks, golden: Path) -> None:
    _, layers = blocks
    merged = table.merge([stack.open_stream(raw).segments for raw in layers])
    rows = (golden / "blocks-a" / "merged-index.txt").read_text().splitlines()
    theirs = [list(map(int, row.split())) for row in rows if row[:1] != "#"]
    top = len(layers) - 1
    golden_index = [Segment(a, b, c, bool(d), top - e) for a, b, c, d, e in theirs]
    assert merged == table.joined(golden_index)


# The check value of CRC-32C, from any catalogue of crcs.
def test_crc_of_the_digits() -> None:
    assert crc32c.crc32c(b"123456789", 0xFFFFFFFF) ^ 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize("seed", range(20))
def test_writer_and_stack_agree(seed: int) -> None:
    chance = Random(seed)
    disk, layers = bytearray(400 * 512), []
    for _ in range(chance.randint(1, 4)):
        runs = invent.runs(chance, 400, 20)
        for run in runs:
            where = slice(run.start * 512, (run.start + run.length) * 512)
            disk[where] = run.data or bytes(run.zeroed * 512)
        stream = writer.lsmt(runs, len(disk), invent.lsmt_form(chance))
        layers.append(invent.wrapped(chance, stream))
    assert stack.flat(layers) == disk


def test_record_layout() -> None:
    """Bit by bit as the format has it, once by hand."""
    packed = record.pack_one(Segment(1, 2, 3, True), tag=4)
    assert packed.hex() == "0100000000000800" + "0300000000008004"
