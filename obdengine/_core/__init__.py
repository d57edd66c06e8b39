# SPDX-License-Identifier: Apache-2.0
"""
_core - the door to the C core: what the rest of the package may use of it.

Nothing here decides anything: no I/O of its own, no retry, no cache.
"""

from obdengine._core.binding import Absent, Damaged, StoredRange
from obdengine._core.blobs import (
    PRESENCE_UNIT,
    USE_STEP,
    Blob,
    JumpTable,
    unit_sums,
)
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
from obdengine._core.segments import SegMap, Segments, merge
from obdengine._core.streams import Unzstd
from obdengine._core.uppers import Io, Upper, UpperFacts, punch

__all__ = [
    "ALGO_LZ4",
    "ALGO_ZSTD",
    "BLOCK_SEED",
    "PRESENCE_UNIT",
    "Absent",
    "Blob",
    "Damaged",
    "Device",
    "Io",
    "JumpTable",
    "RawExtent",
    "SegMap",
    "Segments",
    "StoredRange",
    "USE_STEP",
    "Unzstd",
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
    "unit_sums",
    "zero_granules",
]
