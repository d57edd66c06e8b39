# SPDX-License-Identifier: Apache-2.0
"""
jump - the table of a ZFile's block lengths, and where each block starts.

A table counts if
  (1) it has a length for each block that the inflated size is cut into;
  (2) every length is more than the crc and no more than a block can grow to;
  (3) together they end exactly where the table begins.
"""

from __future__ import annotations

import struct
from itertools import accumulate

from obdengine.errors import BadJumpTable
from tests.twins.zblock import CRC_SIZE, bound


def offsets(
    raw: bytes,
    *,
    algo: int,
    block_size: int,
    size: int,
    verify: bool,
    first_offset: int,
    end_offset: int,
    name: str = "",
    table_offset: int = 0,
) -> list[int]:
    """Return the offset of each block, and of the end of the last."""
    lengths = struct.unpack(f"<{len(raw) // 4}I", raw)
    smallest = 1 + (CRC_SIZE if verify else 0)
    largest = bound(algo, block_size) + (CRC_SIZE if verify else 0)
    for number, length in enumerate(lengths):
        if not smallest <= length <= largest:
            raise BadJumpTable(name, "a length", offset=table_offset + 4 * number)
    found = list(accumulate(lengths, initial=first_offset))
    if len(lengths) != -(-size // block_size) or found[-1] != end_offset:
        raise BadJumpTable(name, "the number or sum of lengths", offset=table_offset)
    return found
