# SPDX-License-Identifier: Apache-2.0
"""
writer - layers in every form that the format allows, written with struct alone.

It also writes what no good tool would: stray tags, padding entries among the
others, data out of order. It takes whatever it is given, so hostile files are
made with it too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from obdengine.segment import Segment
from tests.twins.crc32c import crc32c
from tests.twins.record import PADDING_START, pack_one
from tests.twins.zblock import ALGO_LZ4, encode_blocks

SECTOR = 512
NO_UUID = "00000000-0000-0000-0000-000000000000"
PADDING = Segment(PADDING_START, 0, 0)

LSMT_MAGIC = b"LSMT\0\1\2\0" + bytes.fromhex("657e63d29444084ca2d2c8ec4fcfae8a")
ZFILE_MAGIC = b"ZFile\0\1\0" + b"tuji.yyf@Alibaba"


@dataclass(frozen=True)
class Run:
    """Sectors from start on: their bytes, or how many of them are zeroed."""

    start: int
    data: bytes = b""
    zeroed: int = 0

    @property
    def length(self) -> int:
        """Sectors that it covers."""
        return self.zeroed or len(self.data) // SECTOR


@dataclass(frozen=True)
class Lsmt:
    """How an LSMT layer is written; the defaults are a committed layer's."""

    sealed: bool = False  # in place: header flags 3, data in any order
    padding: int = 256  # entries come in multiples of this
    scattered: bool = False  # padding entries among the others
    tags: bool = False  # stray bytes where the tag is
    uuid: str = NO_UUID
    parent: str = NO_UUID
    message: bytes = b""
    seed: int = 0


@dataclass(frozen=True)
class ZFile:
    """How a ZFile is written."""

    algo: int = ALGO_LZ4
    block_size: int = 4096
    verify: bool = True
    rewritten: bool = True
    level: int = 3
    changes: dict[str, int] = field(default_factory=dict)  # of the fields, for lies


def lsmt_header(
    flags: int, index_offset: int, entries: int, virtual_size: int, how: Lsmt
) -> bytes:
    """Return the 4096 bytes of an LSMT header or trailer."""
    words = struct.pack("<IIQQQ", 390, flags, index_offset, entries, virtual_size)
    names = how.uuid.encode() + b"\0" + how.parent.encode() + b"\0"
    return (LSMT_MAGIC + words + names + b"\0\0\1\1" + how.message).ljust(4096, b"\0")


def lsmt(runs: Sequence[Run], virtual_size: int, how: Lsmt = Lsmt()) -> bytes:
    """Return one LSMT layer; the runs must be in order and apart."""
    chance = Random(how.seed)
    data, entries = bytearray(), {}
    order = sorted(runs, key=lambda _: chance.random()) if how.sealed else runs
    for run in order:
        moffset = 8 + len(data) // SECTOR
        zeroed = run.zeroed > 0
        entries[run.start] = Segment(run.start, run.length, moffset, zeroed)
        data += run.data
        if how.sealed and chance.random() < 0.3:  # what a later write left behind
            data += chance.randbytes(SECTOR)
    index = index_bytes([entries[run.start] for run in runs], how, chance)
    count = len(index) // 16
    index_offset = 4096 + len(data)
    header = lsmt_header(3 if how.sealed else 7, 0, 0, virtual_size, how)
    trailer = lsmt_header(6, index_offset, count, virtual_size, how)
    index += bytes(-len(index) % SECTOR)
    return header + bytes(data) + index + trailer


def index_bytes(segments: list[Segment], how: Lsmt, chance: Random) -> bytes:
    """Return the entries as they stand in the file, padded and tagged."""
    segments = list(segments)
    missing = -len(segments) % how.padding
    while missing:
        at = chance.randint(0, len(segments)) if how.scattered else len(segments)
        segments.insert(at, PADDING)
        missing -= 1
    tags = [chance.randrange(256) if how.tags else 0 for _ in segments]
    return b"".join(map(pack_one, segments, tags))


# The fields of a ZFile's header: name, offset, code.
ZFIELDS = {
    "size": (24, "I"),
    "digest": (28, "I"),
    "flags": (32, "Q"),
    "index_offset": (40, "Q"),
    "index_size": (48, "Q"),
    "original_size": (56, "Q"),
    "index_crc": (64, "I"),
    "block_size": (72, "I"),
    "algo": (76, "B"),
    "level": (77, "B"),
    "use_dict": (78, "B"),
    "dict_size": (84, "I"),
    "verify": (88, "B"),
}


def zfile_slot(**fields: int) -> bytes:
    """Return the 512 bytes of a header or trailer; the digest is computed last."""
    slot = bytearray(ZFILE_MAGIC.ljust(512, b"\0"))
    for name, value in fields.items():
        offset, code = ZFIELDS[name]
        struct.pack_into("<" + code, slot, offset, value)
    if "digest" not in fields:
        struct.pack_into("<I", slot, 28, crc32c(slot))
    return bytes(slot)


def zfile(stream: bytes, how: ZFile = ZFile()) -> bytes:
    """Return stream as a ZFile."""
    stored, lengths = encode_blocks(
        stream,
        algo=how.algo,
        level=how.level,
        block_size=how.block_size,
        verify=how.verify,
    )
    table = struct.pack(f"<{len(lengths)}I", *lengths)
    fixed = {
        "size": 96,
        "block_size": how.block_size,
        "algo": how.algo,
        "verify": int(how.verify),
    }
    final = fixed | {
        "index_offset": 512 + len(stored),
        "index_size": len(lengths),
        "original_size": len(stream),
        "index_crc": crc32c(table),
    }
    header = final | {"flags": 0x1B} if how.rewritten else fixed | {"flags": 0x13}
    trailer = final | {"flags": 0x16}
    slots = [zfile_slot(**(fields | how.changes)) for fields in (header, trailer)]
    return slots[0] + stored + table + slots[1]


def tar_header(name: bytes, size: bytes, typeflag: bytes) -> bytes:
    """Return one ustar block with its checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:107] = b"000644\0"
    block[124 : 124 + len(size)] = size
    block[136:148] = b"%11o " % 0
    block[148:156] = b" " * 8
    block[156:157] = typeflag
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar(payload: bytes, kind: str, size: int | None = None) -> bytes:
    """Return payload in the wrapper of three blocks ("pax") or one ("plain")."""
    claimed = len(payload) if size is None else size
    end = bytes(-len(payload) % 512 + 1024)
    if kind == "plain":
        header = tar_header(b"overlaybd.commit", b"%011o\0" % claimed, b"0")
        return header + payload + end
    record = b" size=%d\n" % claimed
    length = next(n for n in range(9, 40) if len(str(n)) + len(record) == n)
    record = b"%d" % length + record
    pax = tar_header(b"overlaybd.pax", b"%11o " % len(record), b"x")
    member = tar_header(b"overlaybd.commit", b"%11o " % 0, b"0")
    return pax + record.ljust(512, b"\0") + member + payload + end
