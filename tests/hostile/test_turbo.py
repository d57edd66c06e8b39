# SPDX-License-Identifier: Apache-2.0
"""
test_turbo - TurboOCI layers whose parts lie, or were damaged.

A try ends in the right bytes or in an error that names the file and the place.
Where a crc covers what is read it never ends in other bytes.
"""

from __future__ import annotations

import gc
import gzip
import io
import struct
import zlib
from random import Random

import pytest

from obdengine import _core
from obdengine.blob import open_target
from obdengine.blob.indexing import Indexing
from obdengine.device import Device
from obdengine.errors import (
    BadBlock,
    BadChecksum,
    BadHeader,
    BadIndex,
    BadMagic,
    BadTargetIndex,
    ObdError,
    Unsupported,
)
from obdengine.layer import open_layer
from obdengine.segment import Segment
from obdengine.source import MemorySource
from tests.hostile.victims import judge
from tests.twins import gzindex, writer
from tests.twins.record import pack_one
from tests.twins.writer import SECTOR, Lsmt

INDEX, TARGET, META = "victim.index", "victim.tar.gz", "victim.fs.meta"
DISK = 64 * SECTOR

_chance = Random(11)
TAR = b"".join(
    _chance.choice([b"again and again", _chance.randbytes(30)]) for _ in range(16_000)
)
TAR = TAR[: len(TAR) // SECTOR * SECTOR]
RAW = gzip.compress(TAR[:150_000], mtime=0) + gzip.compress(TAR[150_000:], mtime=0)


def index_of(raw: bytes) -> bytes:
    stream = Indexing(io.BytesIO(raw).read, "victim", 50_000)
    while stream.read(1 << 20):
        pass
    found = stream.index()
    assert found is not None
    return found


GOOD = index_of(RAW)
ONE = gzip.compress(TAR, mtime=0)
GOOD_ONE = index_of(ONE)
HUGE = [1 << 31, 1 << 40, (1 << 63) - 1, -1, -(1 << 62)]


def tried(index: bytes, raw: bytes = RAW) -> bytes | ObdError:
    """Return what a target reads as, or a fit error."""
    try:
        target = open_target(MemorySource(raw, TARGET), MemorySource(index, INDEX))
    except ObdError as error:
        judge(error, INDEX)
        return error
    try:
        return target.pread(0, min(target.size, 1 << 22))
    except ObdError as error:
        name = TARGET if TARGET in str(error) else INDEX
        judge(error, name)
        return error.with_traceback(None)
    finally:
        for error in target.check(threads=1):
            judge(error, TARGET)
        target.close()


def refused(index: bytes, kind: type[ObdError], raw: bytes = RAW) -> None:
    result = tried(index, raw)
    assert isinstance(result, kind), result


def test_the_good_ones() -> None:
    assert tried(GOOD) == TAR
    assert tried(GOOD_ONE, ONE) == TAR


LIES = [
    *(("magic", word) for word in (b"ddgzidy\0", bytes(8))),
    *(("major", n) for n in (0, 3, 255)),
    *(("dict_algo", n) for n in (2, 255)),
    *(("window", n) for n in (0, 32767, 65536, -1)),
    *(("entry_size", n) for n in (0, 28, 30, -29, 1 << 30)),
    *(("entry_count", n) for n in (0, 1, 10_000, *HUGE[1:])),
    *(("target_size", n) for n in (0, len(RAW) - 1, len(RAW) + 1, *HUGE)),
    *(("file_size", n) for n in (0, len(GOOD) - 1, len(GOOD) + 1, *HUGE)),
    *(("stream_size", n) for n in (0, 1, len(TAR) // 2, len(TAR) + 1, *HUGE)),
    *(("index_offset", n) for n in (0, 332, len(GOOD), *HUGE)),
    *(("index_size", n) for n in (0, 1, *HUGE)),
    ("extension", bytes(256)),
    ("extension", b"\xff" * 256),
    ("extension", b"obdsums\1" + b"\2" + bytes(247)),
    ("extension", b"obdsums\1" + b"\0" + struct.pack("<q", -5) + bytes(239)),
]


@pytest.mark.parametrize(("field", "value"), LIES)
def test_header_field(field: str, value: object) -> None:
    kinds = (BadHeader, BadMagic, BadTargetIndex, BadChecksum, BadBlock, Unsupported)
    result = tried(gzindex.changed(GOOD, **{field: value}))
    assert isinstance(result, kinds), (field, value, result)


def test_header_crc() -> None:
    refused(gzindex.changed(GOOD, crc=5), BadChecksum)


@pytest.mark.parametrize("size", [0, 1, 8, 332, 333, 400, len(GOOD) - 1])
def test_cut_off(size: int) -> None:
    assert isinstance(tried(GOOD[:size]), ObdError)


def test_every_byte() -> None:
    """With sums a damaged index never gives other bytes than the tar's."""
    for at in range(0, len(GOOD), max(len(GOOD) // 400, 1)):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << at % 8
        result = tried(bytes(damaged))
        assert isinstance(result, ObdError) or result == TAR, at


def test_every_part_of_the_target() -> None:
    for at in range(0, len(RAW), 1499):
        damaged = bytearray(RAW)
        damaged[at] ^= 1 << at % 8
        result = tried(GOOD, bytes(damaged))
        assert isinstance(result, ObdError) or result == TAR, at


def rebuilt(table: bytes, index: bytes = GOOD_ONE, **fields: object) -> bytes:
    """Return an index with another table, and no sums."""
    offset = int(str(gzindex.parse(index).fields["index_offset"]))
    return gzindex.changed(
        index[:offset] + table,
        extension=bytes(256),
        index_size=len(table),
        file_size=offset + len(table),
        **fields,
    )


def points(change: dict[int, dict[str, int]]) -> bytes:
    rows = gzindex.parse(GOOD_ONE).points
    raws = [
        gzindex.POINT.pack(*row._replace(**change.get(number, {})))
        for number, row in enumerate(rows)
    ]
    return rebuilt(zlib.compress(b"".join(raws)))


POINT_LIES = [
    *((field, n) for field in ("out", "at", "window_at") for n in HUGE),
    *(("out", n) for n in (0, len(TAR) + 1)),
    *(("at", n) for n in (0, 10, len(ONE))),
    *(("bits", n) for n in (8, 127, 128, 129, 255)),
    *(("window_size", n) for n in (0, 65537, (1 << 32) - 1)),
]


@pytest.mark.parametrize(("field", "value"), POINT_LIES)
def test_point(field: str, value: int) -> None:
    refused(points({2: {field: value}}), BadTargetIndex, ONE)


@pytest.mark.parametrize("field", ["out", "at", "bits", "window_at", "window_size"])
def test_point_a_little_beside(field: str) -> None:
    """Without sums: a wrong start hardly ever inflates, and never crashes."""
    row = gzindex.parse(GOOD_ONE).points[2]
    for by in (-300, -7, -1, 1, 2, 300):
        value = getattr(row, field) + by
        if value >= 0 and (field != "bits" or value < 8):
            tried(points({2: {field: value}}), ONE)


def test_tables() -> None:
    rows = b"".join(gzindex.POINT.pack(*p) for p in gzindex.parse(GOOD_ONE).points)
    count = len(rows) // 29
    for table in (b"", b"not zlib", zlib.compress(rows)[:-3], zlib.compress(rows[:-1])):
        refused(rebuilt(table), BadTargetIndex, ONE)
    bomb = zlib.compress(bytes(64 << 20))
    refused(rebuilt(bomb, entry_count=(64 << 20) // 29), BadTargetIndex, ONE)
    many = zlib.compress(rows + rows)
    refused(rebuilt(many, entry_count=2 * count), BadTargetIndex, ONE)


def test_spans_that_would_take_any_memory() -> None:
    """A tar that is said to be huge, with one point for all of it."""
    first = gzindex.POINT.pack(*gzindex.parse(GOOD_ONE).points[0])
    index = rebuilt(zlib.compress(first), entry_count=1, stream_size=1 << 40)
    refused(index, BadTargetIndex, ONE)


# -- fs.meta


def meta(entries: list[tuple[Segment, int]], local: bytes) -> bytes:
    """Return an LSMT layer with these entries and their tags."""
    stream = bytearray(writer.lsmt([], DISK, Lsmt(padding=1)))
    index = b"".join(pack_one(segment, tag=tag) for segment, tag in entries)
    trailer = bytearray(stream[-4096:])
    struct.pack_into("<QQ", trailer, 32, 4096 + len(local), len(entries))
    return bytes(stream[:4096]) + local + index + bytes(trailer)


def read_meta(raw: bytes) -> bytes | ObdError:
    target = open_target(MemorySource(ONE, TARGET), MemorySource(GOOD_ONE, INDEX))
    try:
        layer = open_layer(MemorySource(raw, META), target)
    except ObdError as error:
        judge(error, META)
        return error
    with Device([layer], META) as device:
        device.check()
        return device.pread(0, device.size)


LOCAL = b"l" * 2 * SECTOR
SECTORS = len(TAR) // SECTOR


def test_both_kinds_of_data() -> None:
    entries = [
        (Segment(0, 2, 8), 3),
        (Segment(4, 3, SECTORS - 3), 4),
        (Segment(9, 1, 0, True), 3),
    ]
    disk = read_meta(meta(entries, LOCAL))
    assert isinstance(disk, bytes)
    assert disk[: 2 * SECTOR] == LOCAL
    assert disk[4 * SECTOR : 7 * SECTOR] == TAR[-3 * SECTOR :]
    assert not any(disk[7 * SECTOR :])


META_LIES = {
    "past the target": [(Segment(0, 2, 8), 0), (Segment(4, 3, SECTORS - 2), 1)],
    "far past it": [(Segment(0, 2, 8), 0), (Segment(4, 3, (1 << 55) - 4), 1)],
    "the bit of the core": [(Segment(0, 2, 8), 0), (Segment(4, 1, 1 << 54), 1)],
    "the same without a tag": [(Segment(0, 2, 8), 0), (Segment(4, 1, 1 << 54), 0)],
    "past the data": [(Segment(0, 2, 9), 0), (Segment(4, 1, 0), 1)],
    "of a third kind": [(Segment(0, 2, 8), 0), (Segment(4, 1, 0), 2)],
    "far tags": [(Segment(0, 2, 8), 0), (Segment(4, 1, 0), 255)],
    "out of order": [(Segment(4, 2, 8), 0), (Segment(0, 1, 0), 1)],
    "past the disk": [(Segment(0, 2, 8), 0), (Segment(63, 2, 0), 1)],
    "empty": [(Segment(0, 2, 8), 0), (Segment(4, 0, 0), 1)],
}


@pytest.mark.parametrize("case", META_LIES)
def test_entry_of_meta(case: str) -> None:
    assert isinstance(read_meta(meta(META_LIES[case], LOCAL)), BadIndex)


def test_nothing_is_kept_of_what_failed() -> None:
    _core.limit_chunks(0)
    before = _core.chunk_memory()[0]
    _core.limit_chunks(64 << 20)
    damaged = bytearray(RAW)
    damaged[len(RAW) // 2] ^= 1
    assert isinstance(tried(GOOD, bytes(damaged)), ObdError)
    gc.collect()
    assert _core.chunk_memory()[0] == before == 0
