# SPDX-License-Identifier: Apache-2.0
"""
stacks - one small image for tests of the programs, and the truth about it.

It is written by the twins and not by the engine, so that both cannot be wrong
in the same way.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.twins import invent, stack, writer
from tests.twins.writer import Lsmt, Run, ZFile

MIB = 1 << 20
SIZE = 4 * MIB + 512  # an odd number of sectors
UUIDS = [f"0000000{n}-1111-4000-8000-00000000000{n}" for n in range(3)]

# Of the middle layer: the tar wrapper before its ZFile, and a block of data.
WRAPPER = 1536
BLOCK = 5

# What a sector comes from: the layer (None: no layer), and whether zeroed there.
Origin = tuple[int | None, bool]


class Image(NamedTuple):
    """Layer files, bottom first, their configuration, and what they must read as."""

    layers: list[Path]
    config: Path
    disk: bytes

    def origins(self) -> list[Origin]:
        """Return where each sector of the disk comes from."""
        found: list[Origin] = [(None, True)] * (SIZE // 512)
        for number, path in enumerate(self.layers):
            for segment in stack.open_stream(path.read_bytes()).segments:
                for sector in range(segment.start, segment.end):
                    found[sector] = (number, bool(segment.zeroed))
        return found


_WRAPPINGS: list[Callable[[bytes], bytes]] = [
    lambda stream: stream,
    lambda stream: writer.tar(writer.zfile(stream, ZFile(block_size=65536)), "pax"),
    lambda stream: writer.zfile(stream, ZFile(algo=2, block_size=16384)),
]


def make(folder: Path) -> Image:
    """Write three layers: plain; lz4, 64 KiB blocks, tar; zstd, 16 KiB blocks."""
    chance = Random(5)
    raws, parent = [], writer.NO_UUID
    for number, wrap in enumerate(_WRAPPINGS):
        how = Lsmt(uuid=UUIDS[number], parent=parent, message=b"layer %d" % number)
        parent = how.uuid
        raws.append(wrap(writer.lsmt(_runs(chance, number), SIZE, how)))
    layers = [folder / f"layer{number}.obd" for number in range(3)]
    for path, raw in zip(layers, raws, strict=True):
        path.write_bytes(raw)
    config = folder / "config.v1.json"
    config.write_text(json.dumps({"lowers": [{"file": p.name} for p in layers]}))
    return Image(layers, config, stack.flat(raws))


def _runs(chance: Random, number: int) -> list[Run]:
    """Return runs that overlap those of the other layers in every way."""
    if number == 2:
        zeroed = [Run(0, zeroed=16), Run(1000, zeroed=40)]
        return [*zeroed, Run(4096, invent.sectors(chance, 64))]
    return [
        Run(start + 3 * number, invent.sectors(chance, 24))
        for start in range(0, SIZE // 512 - 64, 96)
    ]


def block_offset(image: Image) -> int:
    """Return where in its file the middle layer has block BLOCK."""
    raw = image.layers[1].read_bytes()[WRAPPER:]
    table, count = struct.unpack_from("<QQ", raw, 40)
    lengths = struct.unpack_from(f"<{count}I", raw, table)
    return WRAPPER + 512 + sum(lengths[:BLOCK])


def damage(image: Image, path: Path) -> Path:
    """Write the middle layer to path with a byte of that block flipped."""
    raw = bytearray(image.layers[1].read_bytes())
    raw[block_offset(image) + 100] ^= 0x20
    path.write_bytes(raw)
    return path
