# SPDX-License-Identifier: Apache-2.0
"""
seeds - what the fuzzers start from: pieces of the golden images and small layers.

Each target takes its input apart in its own way, so each has its own seeds.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

from obdengine.segment import Segment
from tests.fuzz import turbo
from tests.fuzz.readers import COMPRESSED, CONFIG, LAYER, MENDED, META, TAR
from tests.fuzz.readers import INDEX as TARGET_INDEX
from tests.hostile.victims import VICTIMS
from tests.tools import DATA
from tests.twins import invent, record, stack, writer
from tests.twins.writer import Run, ZFile

# What core.c takes the rest of an input for.
INDEX, BLOCK, TABLE, DISK, LOG, REQUESTS = range(6)

MOST = 200_000  # bytes of one seed; libFuzzer is slow with large ones

CONFIGS = [
    b'{"lowers": [{"file": "a.obd", "size": 5, "digest": "sha256:0"}]}',
    b'{"repoBlobUrl": "http://h/v2/x/blobs", "lowers": [{"dir": "."}], "upper": {}}',
    b'{"lowers": [{"targetFile": "t", "gzipIndex": "g"}], "download": {"delay": 1}}',
]


def golden() -> Iterator[bytes]:
    """Yield every golden layer that is for reading."""
    for path in sorted(DATA.glob("golden/*/layer*")):
        if path.suffixes[0] in (".data", ".index", ".tar", ".ext4", ".gzip"):
            continue
        raw = path.read_bytes()
        yield lzma.decompress(raw) if path.suffix == ".xz" else raw


def for_readers() -> Iterator[bytes]:
    """Yield inputs of readers.py: layers, configurations, wrappers."""
    for raw in [victim.raw for victim in VICTIMS] + list(golden()):
        if len(raw) < MOST:
            yield bytes([LAYER]) + raw
            yield bytes([MENDED]) + raw
    for text in CONFIGS:
        yield bytes([CONFIG]) + text
    for kind in ("pax", "plain"):
        yield bytes([TAR]) + writer.tar(b"LSMT" * 100, kind)
    for number, raw in enumerate(turbo.RAWS):
        yield bytes([TARGET_INDEX, number]) + turbo.index_of(number)
        yield bytes([COMPRESSED]) + raw
    for path in sorted(DATA.glob("golden/turbo-c/*.fs.meta")):
        yield bytes([META]) + path.read_bytes()


def for_core() -> Iterator[bytes]:
    """Yield inputs of core.c: indexes, blocks, tables with blocks, disks."""
    for raw in golden():
        stream = stack.open_stream(raw)
        yield index(stream.segments[:200], stream.virtual_size, len(stream.lsmt))
        packed = stack.untar(raw)
        if packed[:5] == b"ZFile":
            blocks = Blocks(packed)
            yield from blocks.each(6)
            yield blocks.table(6)
    for seed in range(12):
        chance = Random(seed)
        runs = invent.runs(chance, 300, 20)
        yield disk(runs, 300 * 512, seed)
    yield from logs()
    yield from requests()


def requests() -> Iterator[bytes]:
    """Yield what clients of each kind ask for, all commands among it."""
    for kind in range(16):
        chance = Random(kind)
        asked = [
            bytes([chance.randrange(8)])
            + chance.randbytes(2)
            + bytes([chance.choice([0, 0, 1, 1, 3, 4, 5, 6, 7, 9])])
            + chance.randbytes(8)
            for _ in range(40)
        ]
        yield bytes([REQUESTS, kind]) + b"".join(asked)


def index(segments: list[Segment], virtual_size: int, stream_size: int) -> bytes:
    """Return the entries as the three layers of an index input."""
    bounds = _packed((virtual_size // 512, 7), (8, 1), (stream_size // 512, 7))
    layers = (segments[number::3] for number in range(3))
    parts = (_packed((len(part), 1)) + record.pack(part) for part in layers)
    return bytes([INDEX]) + bounds + b"".join(parts)


class Blocks:
    """The stored blocks of a ZFile, and what is said of them."""

    def __init__(self, raw: bytes) -> None:
        at, count, self.size = struct.unpack_from("<QQQ", raw, len(raw) - 512 + 40)
        self.block_size, self.algo = struct.unpack_from("<IB", raw, 72)
        self.verify = raw[88]
        self.lengths = list(struct.unpack_from(f"<{count}I", raw, at))
        edges = accumulate(self.lengths, initial=512)
        self.stored = [raw[a:b] for a, b in pairwise(edges)]

    def each(self, count: int) -> Iterator[bytes]:
        """Yield the first blocks as block inputs, with and without their crc."""
        for stored in self.stored[:count]:
            size = (min(self.block_size, self.size) - 1, 2)
            kinds = [(stored, self.verify), (stored[: -4 * self.verify or None], 0)]
            for block, verify in kinds:
                head = _packed((self.algo - 1, 1), (verify, 1), size)
                yield bytes([BLOCK]) + head + block

    def words(self, count: int) -> bytes:
        """Return what core.c's table() takes for the first blocks."""
        lengths = self.lengths[:count]
        size = min(self.size, self.block_size * len(lengths))
        shift = self.block_size.bit_length() - 13
        head = _packed((self.algo - 1, 1), (self.verify, 1), (shift, 1), (size, 8))
        ends = _packed((0, 2), (sum(lengths), 8), (len(lengths), 2), (3, 1))
        return head + ends + struct.pack(f"<{len(lengths)}I", *lengths)

    def table(self, count: int) -> bytes:
        """Return a table input of the first blocks."""
        file = b"".join(self.stored[:count])
        return bytes([TABLE]) + _packed((0, 2)) + self.words(count) + file


def disk(runs: list[Run], size: int, seed: int) -> bytes:
    """Return a disk input with these runs."""
    stream = writer.lsmt(runs, size)
    how = ZFile(algo=1 + seed % 2, verify=seed % 3 > 0, block_size=4096 << seed % 5)
    blocks = Blocks(writer.zfile(stream, how))
    segments = stack.open_stream(stream).segments
    head = _packed((size, 4), (0, 2)) + blocks.words(len(blocks.lengths))
    entries = _packed((len(segments), 1)) + record.pack(segments)
    return bytes([DISK]) + head + entries + b"".join(blocks.stored)


def logs() -> Iterator[bytes]:
    """Yield index files of writable layers, good and bad, and what comes after."""
    disk_end, data = 1500, 1300
    for seed in range(8):
        chance = Random(seed)
        records = [_log_record(chance, disk_end, data) for _ in range(40)]
        numbers = ((disk_end - 1, 2), (data, 2), (seed % 2, 1), (len(records), 2))
        steps = chance.randbytes(120)
        yield bytes([LOG]) + _packed(*numbers) + b"".join(records) + steps


def _log_record(chance: Random, disk_end: int, data: int) -> bytes:
    """Return a record that counts, or breaks one of the rules."""
    start, length = chance.randrange(disk_end - 30), chance.randint(1, 30)
    good = Segment(start, length, chance.randrange(8, data - 30))
    kinds = [
        good,
        good._replace(moffset=8 + start),
        good._replace(zeroed=True),
        good._replace(length=0),
        good._replace(start=disk_end - 1, length=2),
        good._replace(moffset=chance.choice([0, 7, data - length + 1])),
        Segment(record.PADDING_START, 0, 0),
    ]
    return record.pack_one(chance.choice(kinds), tag=chance.choice([0, 255]))


def _packed(*numbers: tuple[int, int]) -> bytes:
    """Return each (value, bytes) little-endian, one after the other."""
    return b"".join(value.to_bytes(size, "little") for value, size in numbers)


def write(folder: Path, seeds: Iterator[bytes]) -> None:
    """Put each seed into a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed{number:04}").write_bytes(seed)
