# SPDX-License-Identifier: Apache-2.0
"""test_lies - files that are whole, with right checksums, and say wrong things."""

from __future__ import annotations

import struct

import pytest

from obdengine.errors import (
    BadBlock,
    BadChecksum,
    BadHeader,
    BadIndex,
    BadJumpTable,
    FormatError,
    Unsupported,
)
from obdengine.segment import Segment
from tests.hostile import victims
from tests.hostile.victims import refused, tried
from tests.twins import writer
from tests.twins.crc32c import crc32c
from tests.twins.record import PADDING_START, pack
from tests.twins.writer import SECTOR, Lsmt, ZFile
from tests.twins.zblock import ALGO_ZSTD

STREAM = victims.stream()
BLOCKS = -(-len(STREAM) // 4096)
HUGE = [1 << 31, 1 << 32, 1 << 40, 1 << 63, (1 << 64) - 1]

both_ends = pytest.mark.parametrize("rewritten", [True, False], ids=["head", "tail"])


ZFILE_LIES = [
    *(("block_size", n) for n in (0, 1, 512, 2048, 4095, 4097, 6144, 12288, 131072)),
    *(("block_size", n) for n in (8192, 65536, 1 << 31, (1 << 32) - 1)),
    *(("algo", n) for n in (0, 2, 3, 255)),
    *(("verify", n) for n in (0, 2, 255)),
    ("use_dict", 1),
    *(("dict_size", n) for n in (1, 512, (1 << 32) - 1)),
    *(("index_offset", n) for n in (0, 1, 511, 512, *HUGE)),
    *(("index_size", n) for n in (0, 1, BLOCKS - 1, BLOCKS + 1, *HUGE)),
    *(("original_size", n) for n in (0, 1, 4096, len(STREAM) - 1, len(STREAM) + 1)),
    *(("original_size", n) for n in HUGE),
    ("index_crc", 1),
    *(("size", n) for n in (0, 95, 97, 512, (1 << 32) - 1)),
    *(("flags", n) for n in (0, 1, 0x20, 0x3B, 0x36, 1 << 6, 1 << 63)),
    *(("flags", n) for n in (0x5B, 0x53, 0x1B | 1 << 63, 0x13 | 1 << 32)),
    ("digest", 5),
]


@both_ends
@pytest.mark.parametrize(("field", "value"), ZFILE_LIES)
def test_zfile_field(field: str, value: int, rewritten: bool) -> None:
    how = ZFile(rewritten=rewritten, changes={field: value})
    refused(writer.zfile(STREAM, how))


@both_ends
@pytest.mark.parametrize("size", [*HUGE, 1 << 59, (1 << 64) - 512])
@pytest.mark.parametrize("block_size", [4096, 65536])
def test_zfile_sizes_near_the_end_of_numbers(size, block_size, rewritten) -> None:
    changes = {"original_size": size, "index_size": -(-size // block_size)}
    how = ZFile(block_size=block_size, rewritten=rewritten, changes=changes)
    refused(writer.zfile(STREAM, how), BadHeader)
    changes["index_offset"] = (1 << 64) - 4 * (changes["index_size"] % (1 << 20)) - 512
    refused(writer.zfile(STREAM, how), FormatError)


def with_table(lengths: list[int], **changes: int) -> bytes:
    """Return the victim as a ZFile whose table has these lengths, rightly summed."""
    good = writer.zfile(STREAM)
    (at,) = struct.unpack_from("<Q", good, 40)
    table = struct.pack(f"<{len(lengths)}I", *lengths)
    size, blocks = len(STREAM), len(lengths)
    fields = {"size": 96, "flags": 0x1B, "index_offset": at, "index_size": blocks}
    fields |= {"original_size": size, "index_crc": crc32c(table), "block_size": 4096}
    slot = writer.zfile_slot(**(fields | {"algo": 1, "verify": 1} | changes))
    return slot + good[512:at] + table + slot


def lengths_of(zfile: bytes) -> list[int]:
    at, count = struct.unpack_from("<QQ", zfile, 40)
    return list(struct.unpack_from(f"<{count}I", zfile, at))


GOOD = lengths_of(writer.zfile(STREAM))


def test_table_helper_makes_good_files() -> None:
    assert tried(with_table(GOOD)) == victims.flat()


@pytest.mark.parametrize("number", [0, 1, BLOCKS - 1])
@pytest.mark.parametrize("value", [0, 1, 4, 5000, 65536, 1 << 31, (1 << 32) - 1])
def test_table_length(number: int, value: int) -> None:
    lengths = list(GOOD)
    lengths[number] = value
    error = refused(with_table(lengths), BadJumpTable)
    (at,) = struct.unpack_from("<Q", with_table(GOOD), 40)
    assert at <= error.offset <= at + 4 * BLOCKS


@pytest.mark.parametrize("less", [1, 4, 20])
def test_table_that_sums_to_less(less: int) -> None:
    lengths = [*GOOD[:-1], GOOD[-1] - less]
    refused(with_table(lengths), BadJumpTable)


@pytest.mark.parametrize("move", [1, -1, 7])
def test_table_of_the_right_sum_and_wrong_cuts(move: int) -> None:
    lengths = list(GOOD)
    lengths[0] += move
    lengths[1] -= move
    refused(with_table(lengths), BadChecksum)


def test_table_that_sums_past_the_end_in_64_bits() -> None:
    lengths = [(1 << 32) - 1] * BLOCKS
    refused(with_table(lengths), BadJumpTable)


def test_tables_of_nothing() -> None:
    refused(with_table([], original_size=0), FormatError)


# A block that is a valid frame of another size, under a right crc.
def test_blocks_of_a_wrong_size() -> None:
    short = writer.zfile(STREAM[:-4096] + STREAM[-4096:-1], ZFile(ALGO_ZSTD))
    changes = {"original_size": len(STREAM)}
    how = ZFile(ALGO_ZSTD, changes=changes)
    lying = writer.zfile(STREAM[:-1], how)
    assert len(short) == len(lying)
    refused(lying, BadBlock)


LSMT_LIES = [
    *((24, "I", n) for n in (0, 389, 391, (1 << 32) - 1)),  # size
    *((28, "I", n) for n in (0, 1, 3, 4, 7, 14, 22, 38, 1 << 31)),  # flags
    *((32, "Q", n) for n in (0, 1, 512, 4095, 4097, *HUGE)),  # index_offset
    *((40, "Q", n) for n in (0, 1, 257, 512, 1_000_000, 1_000_001, *HUGE)),
    *((48, "Q", n) for n in (1, 511, 512, 49151, 1 << 60, *HUGE)),  # virtual_size
    (132, "B", 0),
    (132, "B", 2),
    (133, "B", 9),
    (0, "B", 0),
    (8, "B", 0),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zfile"])
@pytest.mark.parametrize(("offset", "code", "value"), LSMT_LIES)
def test_lsmt_trailer(offset: int, code: str, value: int, packed: bool) -> None:
    lying = bytearray(STREAM)
    struct.pack_into("<" + code, lying, len(STREAM) - 4096 + offset, value)
    error = refused(writer.zfile(bytes(lying)) if packed else bytes(lying))
    assert error.offset <= len(STREAM)


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        (24, "I", 5),
        *((28, "I", flags) for flags in (1, 6, 19, 15, 39, 71, 7 | 1 << 31)),
        (132, "B", 3),
    ],
)
def test_lsmt_header(offset: int, code: str, value: int) -> None:
    lying = bytearray(STREAM)
    struct.pack_into("<" + code, lying, offset, value)
    refused(bytes(lying))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zfile"])
@pytest.mark.parametrize("field", [56, 93])
@pytest.mark.parametrize(
    "text", [b"\xff" * 37, b"x" * 37, b"1234\0", b"\n" * 36 + b"\0"]
)
def test_uuid_of_any_bytes(field: int, text: bytes, packed: bool) -> None:
    lying = bytearray(STREAM)
    at = len(STREAM) - 4096 + field
    lying[at : at + len(text)] = text
    # Whether a strange uuid is refused is a matter of taste; crashing is not.
    tried(writer.zfile(bytes(lying)) if packed else bytes(lying))


@pytest.mark.parametrize("size", [(1 << 59) + 512, 1 << 60, 1 << 63, (1 << 64) - 512])
def test_disk_larger_than_entries_can_say(size: int) -> None:
    refused(writer.lsmt(victims.RUNS, size), BadHeader)


def with_index(segments: list[Segment], sectors: int = 16, disk: int = 1000) -> bytes:
    """Return a layer with any entries over sectors of data."""
    index = pack(segments)
    data = bytes(range(256)) * (2 * sectors)
    header = writer.lsmt_header(7, 0, 0, disk * SECTOR, Lsmt())
    at = 4096 + len(data)
    trailer = writer.lsmt_header(6, at, len(segments), disk * SECTOR, Lsmt())
    return header + data + index + bytes(-len(index) % SECTOR) + trailer


FIRST = Segment(10, 10, 8)

INDEX_LIES = {
    "overlaps": Segment(19, 5, 8),
    "inside the first": Segment(12, 1, 8),
    "same again": FIRST,
    "before": Segment(3, 2, 8),
    "empty": Segment(30, 0, 8),
    "empty zeroed": Segment(30, 0, 8, True),
    "past the data by one": Segment(30, 2, 23),
    "past the data": Segment(30, 1, 24),
    "into the trailer": Segment(30, 9, 20),
    "before the data": Segment(30, 1, 7),
    "at the header": Segment(30, 1, 0),
    "far past the data": Segment(30, 1, (1 << 55) - 1),
    "past the disk by one": Segment(999, 2, 8),
    "zeroed past the disk": Segment(999, 2, 8, True),
    "after the disk": Segment(1000, 1, 8),
    "far after the disk": Segment(PADDING_START - 1, 16383, 8),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zfile"])
@pytest.mark.parametrize("lie", INDEX_LIES)
def test_index_entry(lie: str, packed: bool) -> None:
    raw = with_index([FIRST, INDEX_LIES[lie]])
    error = refused(writer.zfile(raw) if packed else raw, BadIndex)
    assert error.offset == 4096 + 16 * SECTOR + 16


def test_index_helper_makes_good_files() -> None:
    raw = with_index([FIRST, Segment(20, 1, 23), Segment(998, 2, 0, True)])
    assert len(victims.read(raw)) == victims.MOST


# ---- tar ----

PAYLOAD = writer.zfile(STREAM)


def with_pax(record: bytes, size: bytes | None = None, typeflag: bytes = b"0") -> bytes:
    claimed = b"%11o " % len(record) if size is None else size
    pax = writer.tar_header(b"overlaybd.pax", claimed, b"x")
    member = writer.tar_header(b"overlaybd.commit", b"%11o " % 0, typeflag)
    head = pax + record.ljust(512, b"\0") + member
    return head + PAYLOAD + bytes(-len(PAYLOAD) % 512 + 1024)


def test_tar_helper_makes_good_files() -> None:
    record = b"14 size=%d\n" % len(PAYLOAD)
    assert len(record) in range(13, 16)
    record = b"%d size=%d\n" % (len(record), len(PAYLOAD))
    assert tried(with_pax(record)) == victims.flat()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\0" * 15,
        b"15 size=-99999\n",
        b"16 size=99999999\n"[:16],
        b"17 size=99999999\n",
        b"10 size=\n"[:9],
        b"9 size=\n",
        b"10 size=1\n",
        b"15 size=123456\n",
        b"99 size=123456\n",
        b"99 size=%d\n" % len(PAYLOAD),
        b"14 size=%d\n" % len(PAYLOAD),
        b"0 size=1\n",
        b"-1 size=1\n",
        b"1 size=1\n",
        b" size=1\n",
        b"x",
        b"30 size=99999999999999999999\n\n",
        b"12 size=1e9\n",
        b"11 size=\xb2\xb3\n",
    ],
)
def test_pax_record(record: bytes) -> None:
    refused(with_pax(record))


@pytest.mark.parametrize(
    "size",
    [
        b"%11o " % 0,
        b"77777777777 ",
        b"99999999999 ",
        b"-0000000001 ",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"\x80" + bytes(10) + b"\x0f",
        b"abc",
        b"1\0001",
    ],
)
def test_pax_size_field(size: bytes) -> None:
    record = b"15 size=%d\n" % len(PAYLOAD)
    result = tried(with_pax(record, size))
    # Base 256 may well say 15 in a way that GNU tar would understand.
    assert not isinstance(result, bytes) or result == victims.flat()


@pytest.mark.parametrize(
    "typeflag", [b"1", b"2", b"3", b"5", b"x", b"g", b"L", b"\xff"]
)
def test_tar_member_that_is_no_file(typeflag: bytes) -> None:
    record = b"%d size=%d\n" % (len(b"15 size=%d\n" % len(PAYLOAD)), len(PAYLOAD))
    refused(with_pax(record, typeflag=typeflag), Unsupported)


@pytest.mark.parametrize("kind", ["pax", "plain"])
@pytest.mark.parametrize("more", [-512, -1, 1, 512, 2048, 1 << 20, (1 << 33) - 1])
def test_tar_size(kind: str, more: int) -> None:
    claimed = min(len(PAYLOAD) + more, (1 << 33) - 1)
    result = tried(writer.tar(PAYLOAD, kind, claimed))
    # The header that was rewritten tells where all is: more room does no harm.
    assert not isinstance(result, bytes) or result == victims.flat()
    if more < 0 or more > 2048:
        assert isinstance(result, FormatError)


def test_tar_in_tar_in_tar() -> None:
    nested = PAYLOAD
    for _ in range(50):
        nested = writer.tar(nested, "pax")
    refused(nested)


def test_zfile_in_zfile() -> None:
    refused(writer.zfile(writer.zfile(STREAM)))


# ---- not layers at all ----


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"LSMT",
        b"ZFile\0\1\0",
        b"LSMT\0\1\2\0",
        bytes(4096),
        bytes(1 << 20),
        b"\xff" * 9000,
        b"{}" * 4000,
        b"ZFile\0\1\0" + b"tuji.yyf@Alibaba" + bytes(600),
        b"QFI\xfb" + bytes(9000),
    ],
)
def test_not_a_layer(raw: bytes) -> None:
    refused(raw)
