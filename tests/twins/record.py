# SPDX-License-Identifier: Apache-2.0
"""
record - the 16-byte entries of an LSMT index, packed, unpacked and judged.

An index counts if, without the padding entries (start 2^50 - 1),
  (1) every length is at least 1;
  (2) every entry starts at or after the end of the one before it;
  (3) every entry ends at or before the end of the disk;
  (4) every entry that is not zeroed lies between the first data sector of the
      layer's file and the last.
The tag byte means nothing in an ordinary layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from obdengine.errors import BadIndex
from obdengine.segment import Segment

ENTRY_SIZE = 16
PADDING_START = (1 << 50) - 1


def _bits(value: int, low: int, count: int) -> int:
    return value >> low & ((1 << count) - 1)


def pack_one(segment: Segment, tag: int = 0) -> bytes:
    """Return the entry's 16 bytes; bits that do not fit are an error."""
    start, length, moffset, zeroed, _ = segment
    assert start >> 50 == length >> 14 == moffset >> 55 == tag >> 8 == 0
    low = start | length << 50
    high = moffset | int(zeroed) << 55 | tag << 56
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def pack(segments: Iterable[Segment]) -> bytes:
    """Return the entries' bytes one after the other, tag 0."""
    return b"".join(pack_one(segment) for segment in segments)


def unpack_one(raw: bytes) -> Segment:
    """Return the entry in 16 bytes, whatever it says; the tag is dropped."""
    low = int.from_bytes(raw[:8], "little")
    high = int.from_bytes(raw[8:16], "little")
    return Segment(
        _bits(low, 0, 50), _bits(low, 50, 14), _bits(high, 0, 55), bool(high >> 55 & 1)
    )


def unpack(
    raw: bytes,
    *,
    name: str,
    offset: int,
    disk_sectors: int,
    data_start: int,
    data_end: int,
) -> list[Segment]:
    """Return the entries that count, or raise BadIndex for the first wrong one."""
    segments: list[Segment] = []
    floor = 0
    for at in range(0, len(raw), ENTRY_SIZE):
        segment = unpack_one(raw[at : at + ENTRY_SIZE])
        if segment.start == PADDING_START:
            continue
        inside = data_start <= segment.moffset <= data_end - segment.length
        if (
            segment.length == 0
            or segment.start < floor
            or segment.end > disk_sectors
            or (not segment.zeroed and not inside)
        ):
            raise BadIndex(name, f"entry {segment}", offset=offset + at)
        floor = segment.end
        segments.append(segment)
    return segments
