# SPDX-License-Identifier: Apache-2.0
"""
stack - a stack of layers read from their raw bytes, by painting a flat disk.

The offsets are written out once more here, apart from the ones that the engine
has: a slip in either shows. It takes good files only and judges nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from obdengine.segment import Segment
from tests.twins.record import PADDING_START, unpack_one
from tests.twins.zblock import decode_block

SECTOR = 512


class Stream(NamedTuple):
    """What is left of a layer when every wrapper is off."""

    lsmt: bytes
    segments: list[Segment]
    virtual_size: int


def open_stream(raw: bytes) -> Stream:
    """Unwrap raw, tar then ZFile then LSMT, and read the index by the trailer."""
    lsmt = inflate(untar(raw))
    index_offset, entries, virtual_size = struct.unpack_from(
        "<QQQ", lsmt, len(lsmt) - 4064
    )
    found = [unpack_one(lsmt[index_offset + 16 * i :][:16]) for i in range(entries)]
    segments = [segment for segment in found if segment.start != PADDING_START]
    return Stream(lsmt, segments, virtual_size)


def untar(raw: bytes) -> bytes:
    """Return the payload of the wrapper, or raw where there is none."""
    if raw[257:265] != b"ustar\x0000":
        return raw
    if raw[156:157] != b"x":
        size = int(raw[124:136].strip(b" \0") or b"0", 8)
        return raw[512 : 512 + size] if size else raw[512:]
    record_size = int(raw[124:136].strip(b" \0"), 8)
    record = raw[512 : 512 + record_size]
    size = int(record.split(b"size=")[1].split(b"\n")[0])
    return raw[1536 : 1536 + size]


def inflate(raw: bytes) -> bytes:
    """Return what a ZFile holds, or raw where it is none."""
    if raw[:8] != b"ZFile\0\1\0":
        return raw
    (flags,) = struct.unpack_from("<Q", raw, 32)
    slot = raw[:512] if flags & 8 else raw[-512:]
    index_offset, blocks, size, _, _, block_size, algo = struct.unpack_from(
        "<QQQIIIB", slot, 40
    )
    (dict_size,), verify = struct.unpack_from("<I", slot, 84), slot[88] == 1
    plain, at = bytearray(), 512 + dict_size
    for length in struct.unpack_from(f"<{blocks}I", raw, index_offset):
        want = min(block_size, size - len(plain))
        stored = raw[at : at + length]
        plain += decode_block(stored, want, algo=algo, verify=verify)
        at += length
    return bytes(plain)


def paint(disk: bytearray, stream: Stream) -> None:
    """Put what one layer says over what is below it."""
    for segment in stream.segments:
        stored = bytes(segment.length * SECTOR)
        if not segment.zeroed:
            stored = stream.lsmt[segment.moffset * SECTOR :][: len(stored)]
        disk[segment.start * SECTOR : segment.end * SECTOR] = stored


def flat(layers: Sequence[bytes]) -> bytes:
    """Return the whole disk that the raw layers make, the bottom one first."""
    streams = [open_stream(raw) for raw in layers]
    disk = bytearray(max(stream.virtual_size for stream in streams))
    for stream in streams:
        paint(disk, stream)
    sizes = [stream.virtual_size for stream in streams if stream.virtual_size]
    return bytes(disk[: sizes[-1]])
