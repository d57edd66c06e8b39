# SPDX-License-Identifier: Apache-2.0
"""images - disks made of few kinds of granules, and ways to put them into files."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from hypothesis import strategies as st

GRANULE = 4096

_NOISE = [Random(n).randbytes(GRANULE) for n in range(3)]

# What a granule may hold: zeros, a byte at either end, text, noise.
KINDS = [
    bytes(GRANULE),
    b"\1" + bytes(GRANULE - 1),
    bytes(GRANULE - 1) + b"\1",
    b"text" * (GRANULE // 4),
    *_NOISE,
]

# Runs of one kind, so that long ones come up too.
_runs = st.tuples(st.integers(0, len(KINDS) - 1), st.integers(1, 40))
_contents = st.lists(_runs, min_size=1, max_size=30).map(
    lambda runs: b"".join(KINDS[kind] * count for kind, count in runs)
)


def disks() -> st.SearchStrategy[bytes]:
    """Whole disks, whose last granule may be short."""
    return st.tuples(_contents, st.integers(0, 7)).map(
        lambda pair: pair[0][: len(pair[0]) - 512 * pair[1]]
    )


def random_disk(chance: Random, granules: int) -> bytes:
    """Return a disk of runs of granules; long enough for several threads."""
    made: list[bytes] = []
    while len(made) < granules:
        made += [chance.choice(KINDS)] * chance.randint(1, 90)
    return b"".join(made[:granules])


def changed(chance: Random, disk: bytes, count: int) -> bytes:
    """Return disk with count runs of granules written anew, or zeroed."""
    result = bytearray(disk)
    for _ in range(count):
        at = chance.randrange(len(disk) // GRANULE) * GRANULE
        size = min(chance.randint(1, 30) * GRANULE, len(disk) - at)
        result[at : at + size] = (chance.choice(KINDS) * 30)[:size]
    return bytes(result)


def full(path: Path, disk: bytes) -> Path:
    """Write disk without any hole."""
    path.write_bytes(disk)
    return path


def sparse(path: Path, disk: bytes) -> Path:
    """Write disk with a hole wherever there can be one."""
    with path.open("wb") as file:
        for at in range(0, len(disk), GRANULE):
            piece = disk[at : at + GRANULE]
            if any(piece):
                os.pwrite(file.fileno(), piece, at)
        file.truncate(len(disk))
    return path
