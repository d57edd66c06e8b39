# SPDX-License-Identifier: Apache-2.0
"""
invent - random layers, and random wrappers to put them in.

Everything follows from the Random that is passed in, so a failure comes back
with its seed.
"""

from __future__ import annotations

from random import Random

from tests.twins import writer
from tests.twins.writer import SECTOR, Lsmt, Run, ZFile
from tests.twins.zblock import ALGO_LZ4, ALGO_ZSTD

# An entry on disk has 14 bits for its length.
MAX_LENGTH = (1 << 14) - 1


def runs(chance: Random, disk_sectors: int, count: int) -> list[Run]:
    """Return up to count runs on a disk, in order, some touching each other."""
    made, floor = [], 0
    for _ in range(count):
        floor += chance.choice([0, 0, 1, 7, 8, chance.randrange(64)])
        length = chance.choice([1, 2, 8, chance.randint(1, 300)])
        length = min(length, disk_sectors - floor, MAX_LENGTH)
        if length < 1:
            break
        zeroed = chance.random() < 0.3
        data = b"" if zeroed else sectors(chance, length)
        made.append(Run(floor, data, length if zeroed else 0))
        floor += length
    return made


def sectors(chance: Random, length: int) -> bytes:
    """Return length sectors that compress well, a little, or not at all."""
    kind = chance.randrange(3)
    if kind == 0:
        return chance.randbytes(length * SECTOR)
    piece = chance.randbytes(1 if kind == 1 else 97)
    return (piece * (length * SECTOR // len(piece) + 1))[: length * SECTOR]


def lsmt_form(chance: Random) -> Lsmt:
    """Return one of the ways in which an LSMT layer can be written."""
    sealed = chance.random() < 0.3
    return Lsmt(
        sealed=sealed,
        padding=1 if sealed else chance.choice([1, 256]),
        scattered=chance.random() < 0.3,
        tags=chance.random() < 0.3,
        seed=chance.randrange(1 << 30),
    )


def wrapped(chance: Random, stream: bytes) -> bytes:
    """Return stream as it is, or as a ZFile, and perhaps in a tar wrapper."""
    if chance.random() < 0.75:
        how = ZFile(
            algo=chance.choice([ALGO_LZ4, ALGO_ZSTD]),
            block_size=chance.choice([4096, 8192, 16384, 32768, 65536]),
            verify=chance.random() < 0.75,
            rewritten=chance.random() < 0.5,
        )
        stream = writer.zfile(stream, how)
    kind = chance.choice(["pax", "plain", None, None])
    return writer.tar(stream, kind) if kind else stream


def layer(chance: Random, virtual_size: int, count: int) -> bytes:
    """Return the file of one random layer for a disk of virtual_size bytes."""
    made = runs(chance, virtual_size // SECTOR, count)
    return wrapped(chance, writer.lsmt(made, virtual_size, lsmt_form(chance)))
