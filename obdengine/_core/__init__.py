# SPDX-License-Identifier: Apache-2.0
"""
_core - the door to the C core: what the rest of the package may use of it.

Nothing here decides anything: no I/O of its own, no retry, no cache.
"""

from obdengine._core.binding import Absent, StoredRange
from obdengine._core.blobs import PRESENCE_UNIT, Blob, JumpTable
from obdengine._core.devices import Device, RawExtent
from obdengine._core.kernels import (
    ALGO_LZ4,
    ALGO_ZSTD,
    BLOCK_SEED,
    crc32c,
    crc32c_kernels,
    crc32c_with,
    decode_block,
    encode_blocks,
    same_granules,
    zero_granules,
)
from obdengine._core.ports import Port
from obdengine._core.segments import SegMap, Segments, merge
from obdengine._core.uppers import Io, Upper, UpperFacts, punch

__all__ = [
    "ALGO_LZ4",
    "ALGO_ZSTD",
    "BLOCK_SEED",
    "PRESENCE_UNIT",
    "Absent",
    "Blob",
    "Device",
    "Io",
    "JumpTable",
    "Port",
    "RawExtent",
    "SegMap",
    "Segments",
    "StoredRange",
    "Upper",
    "UpperFacts",
    "crc32c",
    "crc32c_kernels",
    "crc32c_with",
    "decode_block",
    "encode_blocks",
    "merge",
    "punch",
    "same_granules",
    "zero_granules",
]
