# SPDX-License-Identifier: Apache-2.0
"""
_core - the door to the C core: what the rest of the package may use of it.

Nothing here decides anything: no I/O of its own, no retry, no cache.
"""

from obdengine._core.binding import (
    Absent,
    Damage,
    Damaged,
    Lacking,
    StoredRange,
)
from obdengine._core.blobs import (
    PRESENCE_UNIT,
    USE_STEP,
    Blob,
    JumpTable,
    unit_sums,
)
from obdengine._core.devices import Device, DeviceCalls, RawExtent
from obdengine._core.exports import (
    REQUEST_MAX,
    Call,
    Command,
    Event,
    Session,
    SessionOptions,
)
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
from obdengine._core.spans import (
    GZIP,
    MEMBERS,
    POINT_MEMBER,
    POINT_SIZE,
    SPAN_MAX,
    TARGET_BIT,
    WINDOW_SIZE,
    ZSTD,
    Indexer,
    IndexStep,
    Spans,
    SpansBlob,
    TurboBlob,
    chunk_memory,
    limit_chunks,
    spans_blob,
)
from obdengine._core.streams import Unzstd
from obdengine._core.uppers import (
    JOURNAL_UUID,
    Io,
    JournalFound,
    JournalState,
    Upper,
    UpperFacts,
    journal_header,
    punch,
)

__all__ = [
    "ALGO_LZ4",
    "ALGO_ZSTD",
    "BLOCK_SEED",
    "GZIP",
    "JOURNAL_UUID",
    "MEMBERS",
    "POINT_MEMBER",
    "POINT_SIZE",
    "PRESENCE_UNIT",
    "Absent",
    "Blob",
    "Call",
    "Command",
    "Damage",
    "Damaged",
    "Device",
    "DeviceCalls",
    "Event",
    "IndexStep",
    "Indexer",
    "REQUEST_MAX",
    "SPAN_MAX",
    "TARGET_BIT",
    "USE_STEP",
    "WINDOW_SIZE",
    "ZSTD",
    "Io",
    "JournalFound",
    "JournalState",
    "JumpTable",
    "Lacking",
    "Port",
    "RawExtent",
    "SegMap",
    "Session",
    "SessionOptions",
    "Segments",
    "Spans",
    "SpansBlob",
    "StoredRange",
    "TurboBlob",
    "Unzstd",
    "Upper",
    "UpperFacts",
    "chunk_memory",
    "crc32c",
    "crc32c_kernels",
    "crc32c_with",
    "decode_block",
    "encode_blocks",
    "journal_header",
    "limit_chunks",
    "merge",
    "punch",
    "same_granules",
    "spans_blob",
    "unit_sums",
    "zero_granules",
]
