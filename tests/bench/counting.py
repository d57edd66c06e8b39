# SPDX-License-Identifier: Apache-2.0
"""
counting - instructions of one resident 4 KiB read, as a table over releases.

Counted by valgrind, so no noise: what changes between two releases was
changed, by us or by the codec's library. The kernel's part is not in it.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from obdengine.ops.convert import to_layer
from obdengine.units import MIB
from tests.bench.harness import Table
from tests.bench.reading import KINDS
from tests.bench.workshop import Workshop, run
from tests.tools import ROOT, tool

READS = 2000
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def bench(shop: Workshop) -> str:
    """Count and return the section, with the rows of other releases."""
    disk = shop.folder / "words.raw"
    write_words(disk, 64 * MIB)
    program = shop.compiled("count", libraries=["lz4", "z", "zstd"])
    made = Table(["release", *KINDS])
    for row in rows_of_others():
        made.add(*row)
    made.add(version(), *(str(count(shop, program, disk, kind)) for kind in KINDS))
    return made.markdown()


def write_words(path: Path, size: int) -> None:
    """Write a disk that is the same everywhere, and compresses as text does."""
    chance = random.Random(1)
    letters = "etaoinshrdlu"
    words = [
        "".join(chance.choices(letters, k=chance.randrange(2, 11))).encode()
        for _ in range(3000)
    ]
    text = bytearray()
    while len(text) < size:
        text += b" ".join(chance.choices(words, k=5000))
    path.write_bytes(memoryview(text)[:size])


def count(shop: Workshop, program: Path, disk: Path, kind: str) -> int:
    """Return how many instructions a read of such a layer takes."""
    layer = shop.folder / f"words-{kind.replace(' ', '-')}.obd"
    if not layer.exists():
        to_layer(disk, layer, options=KINDS[kind])
    few, many = (total(shop, program, layer, n) for n in (READS, 2 * READS))
    return round((many - few) / READS)


def total(shop: Workshop, program: Path, layer: Path, reads: int) -> int:
    """Return how many instructions so many reads take, with all around them."""
    out = shop.folder / "callgrind.out"
    words = [tool("valgrind"), "--quiet", "--tool=callgrind"]
    run(*words, f"--callgrind-out-file={out}", program, layer, str(reads))
    found = re.search(r"^(?:summary|totals): (\d+)$", out.read_text(), re.MULTILINE)
    assert found, out
    return int(found[1])


def version() -> str:
    """Return this release."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found
    return found[1]


def rows_of_others() -> list[list[str]]:
    """Return the rows that the document has of other releases."""
    text = DOCUMENT.read_text()
    section = text.partition("<!-- bench:counting -->")[2]
    section = section.partition("<!-- /bench:counting -->")[0]
    rows = [
        line.strip("|").split("|") for line in section.splitlines() if line[:1] == "|"
    ]
    cells = [[cell.strip() for cell in row] for row in rows[2:]]
    return [row for row in cells if row[0] != version()]
