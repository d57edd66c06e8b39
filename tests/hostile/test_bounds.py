# SPDX-License-Identifier: Apache-2.0
"""test_bounds - small files that ask for much: little memory and time all the same.

Each runs in a child that may have 400 MiB of addresses, a few times what the
interpreter takes, and must end by itself.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from obdengine.segment import Segment
from tests.hostile import victims
from tests.tools import ROOT
from tests.twins import writer
from tests.twins.crc32c import crc32c
from tests.twins.record import pack
from tests.twins.writer import SECTOR, Lsmt
from tests.twins.zblock import ALGO_ZSTD, compress

PATIENCE = 120.0  # seconds, on a loaded machine; the slowest takes well under two
ADDRESSES = 400 << 20

CHILD = """
import resource, sys
import obdengine
from obdengine.errors import ObdError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
try:
    with obdengine.open(sys.argv[2:] if len(sys.argv) > 3 else sys.argv[2]) as device:
        size = min(device.size, 1 << 20)
        device.pread(0, size)
        device.pread(device.size - size, size)
        for number, extent in enumerate(device.extents()):
            if number > 10000:
                break
    print("opened")
except ObdError as error:
    print(type(error).__name__, error)
"""


def child(*paths: Path, addresses: int = ADDRESSES) -> str:
    """Return what the child says; a traceback, a kill or a hang fails."""
    command = [sys.executable, "-c", CHILD, str(addresses), *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def sparse(path: Path, pieces: dict[int, bytes], size: int) -> Path:
    """Write a file of size bytes that is a hole but for the pieces."""
    with path.open("wb") as out:
        out.truncate(size)
        for at, piece in pieces.items():
            out.seek(at)
            out.write(piece)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / victims.NAME


def zslots(**fields: int) -> bytes:
    """Return a header with its final values, as in a ZFile of lz4 blocks."""
    known = {"size": 96, "flags": 0x1B, "block_size": 4096, "algo": 1, "verify": 1}
    return writer.zfile_slot(**(known | fields))


def test_claims_of_a_small_file(path: Path) -> None:
    for blocks in (1 << 20, 1 << 40, (1 << 52) - 1):
        size = {"original_size": 4096 * blocks, "index_size": blocks}
        slot = zslots(index_offset=512, **size)
        path.write_bytes(slot + bytes(512) + slot)
        assert child(path).startswith("BadHeader")


# The table of zeros is 2 GiB of hole: its first length is already wrong.
def test_table_that_is_a_hole(path: Path) -> None:
    blocks = 1 << 29
    slot = zslots(index_offset=512, original_size=4096 * blocks, index_size=blocks)
    sparse(path, {0: slot}, 1024 + 4 * blocks)
    assert child(path).startswith("BadJumpTable")


# One block of zeros, again and again: the table costs memory as the file is long.
def test_stream_that_inflates_a_thousandfold(path: Path) -> None:
    block = compress(bytes(65536), ALGO_ZSTD)
    count = 1 << 18
    table = struct.pack("<I", len(block)) * count
    fields = {"original_size": 65536 * count, "index_size": count}
    fields |= {"index_offset": 512 + len(block) * count, "index_crc": 0}
    # No digest: summing a MiB in Python takes long, and proves nothing here.
    slot = zslots(flags=0x0B, block_size=65536, algo=2, verify=0, **fields)
    path.write_bytes(slot + block * count + table + slot)
    assert child(path).startswith("BadMagic")


def index_of(entries: int, *, step: int = 2) -> bytes:
    words = []
    for i in range(entries):
        words += [step * i | 1 << 50, 8 | 1 << 55]
    return struct.pack(f"<{2 * entries}Q", *words)


def million(entries: int = 1_000_000) -> bytes:
    """Return a plain layer with as many entries as there may be."""
    index, disk = index_of(entries), 2 * entries * SECTOR
    header = writer.lsmt_header(7, 0, 0, disk, Lsmt())
    trailer = writer.lsmt_header(6, 4096, entries, disk, Lsmt())
    return header + index + bytes(-len(index) % SECTOR) + trailer


def test_as_many_entries_as_there_may_be(path: Path) -> None:
    path.write_bytes(million())
    assert child(path, addresses=1 << 30) == "opened\n"


def test_one_entry_more(path: Path) -> None:
    path.write_bytes(million(1_000_001))
    assert child(path).startswith("BadHeader")


def test_entries_of_a_hole(path: Path) -> None:
    """A file of 4 TiB: an index of zeros, which are empty entries."""
    size = 1 << 42
    header = writer.lsmt_header(7, 0, 0, 1 << 40, Lsmt())
    at = size - 4096 - 16_000_000
    trailer = writer.lsmt_header(6, at // 512 * 512, 1_000_000, 1 << 40, Lsmt())
    sparse(path, {0: header, size - 4096: trailer}, size)
    assert child(path).startswith("BadIndex")


def test_disk_as_large_as_there_may_be(path: Path) -> None:
    """All of 2^59 bytes: two entries far apart, everything else unmapped."""
    index = pack([Segment(0, 1, 8), Segment((1 << 50) - 9, 8, 8)])
    disk = 1 << 59
    header = writer.lsmt_header(7, 0, 0, disk, Lsmt())
    trailer = writer.lsmt_header(6, 8192, 2, disk, Lsmt())
    raw = header + bytes(4096) + index.ljust(512, b"\0") + trailer
    path.write_bytes(raw)
    assert child(path) in ("opened\n",) or child(path).startswith(("Bad", "Usage"))


# A layer of a million entries packs into some KiB, and may be named 255 times.
def test_millions_of_entries_many_times(path: Path) -> None:
    raw = million()
    packed = compressed(raw)
    path.write_bytes(packed)
    config = path.with_name("config.v1.json")
    config.write_text(json.dumps({"lowers": [{"file": path.name}] * 255}))
    said = child(config, addresses=2 << 30)
    assert said.startswith(("CoreError", "LimitError"))


def compressed(stream: bytes) -> bytes:
    """Return stream as a ZFile of 64 KiB zstd blocks, without crcs."""
    blocks = [
        compress(stream[at : at + 65536], ALGO_ZSTD)
        for at in range(0, len(stream), 65536)
    ]
    table = struct.pack(f"<{len(blocks)}I", *map(len, blocks))
    stored = b"".join(blocks)
    fields = {"original_size": len(stream), "index_size": len(blocks)}
    fields |= {"index_offset": 512 + len(stored), "index_crc": crc32c(table)}
    slot = zslots(block_size=65536, algo=ALGO_ZSTD, verify=0, **fields)
    return slot + stored + table + slot


def test_pax_record_as_large_as_a_file(path: Path) -> None:
    size = 1 << 32
    header = writer.tar_header(b"overlaybd.pax", b"%011o\0" % size, b"x")
    sparse(path, {0: header}, size + 4096)
    assert child(path).startswith("BadHeader")


def test_a_thousand_layers(path: Path) -> None:
    path.write_bytes(victims.VICTIMS[0].raw)
    assert "255" in child(*[path] * 1000)
