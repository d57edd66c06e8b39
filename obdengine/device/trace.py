# SPDX-License-Identifier: Apache-2.0
"""
trace - which bytes of which layers were read, in which order: overlaybd's format.

    header (24) | records (24 each)

A trace counts if and only if
  (1) its magic is right, and it has as many bytes of records as it says;
  (2) the crc over all records, padding included, is right;
  (3) every record is a read of at least one byte, at no negative offset.
What a record points at is judged by who replays it: traces come from outside,
and with another image than it was made for one does harm to nobody.
Offsets count in the stream of a layer, above ZFile. docs/formats/trace.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from obdengine import _core
from obdengine.errors import BadChecksum, BadHeader, BadMagic, Unsupported

__all__ = [
    "HEADER_FIELDS",
    "MAGIC",
    "MAX_RECORDS",
    "RECORD_FIELDS",
    "Read",
    "is_trace",
    "merge_traces",
    "pack_trace",
    "unpack_trace",
]

MAGIC = 3270449184
HEADER_FIELDS = [
    ("magic", "I4x"),
    ("data_size", "Q"),  # bytes of records
    ("crc", "I4x"),  # raw CRC-32C of all records
]
RECORD_FIELDS = [
    ("op", "c3x"),  # "R"
    ("layer", "I"),  # number in the stack, 0 at the bottom
    ("count", "Q"),  # bytes
    ("offset", "q"),  # bytes, in the stream of the layer
]
_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
_RECORD = struct.Struct("<" + "".join(code for _, code in RECORD_FIELDS))

# A server that starts has some thousands of reads; this many take 24 MiB.
MAX_RECORDS = 1 << 20


class Read(NamedTuple):
    """One read: bytes [offset, offset + size) of the stream of a layer."""

    layer: int
    offset: int
    size: int


def is_trace(raw: bytes) -> bool:
    """Tell whether raw begins as a trace does."""
    return raw[:4] == MAGIC.to_bytes(4, "little")


def unpack_trace(raw: bytes, name: str) -> list[Read]:
    """Return the reads of a trace; name is for errors.

    Raises FormatError for the first of the rules above that is broken.
    """
    if not is_trace(raw):
        found = repr(raw[:4]) if raw else "nothing"
        raise BadMagic(name, "not a trace", offset=0, expected=MAGIC, found=found)
    if len(raw) < _HEADER.size:
        raise BadHeader(name, "too short for a trace", offset=0, found=len(raw))
    _, size, crc = _HEADER.unpack_from(raw)
    records = memoryview(raw)[_HEADER.size :]
    if size != len(records) or size % _RECORD.size:
        expected = f"{len(records)}, in records of {_RECORD.size}"
        raise BadHeader(name, "data_size", offset=8, expected=expected, found=size)
    if size > MAX_RECORDS * _RECORD.size:
        raise Unsupported(name, "a trace of so many reads", offset=8, found=size)
    computed = _core.crc32c(records)
    if computed != crc:
        raise BadChecksum(
            name,
            "crc of the records",
            offset=16,
            expected=f"{crc:#010x} (stored)",
            found=f"{computed:#010x}",
        )
    return [
        _judged(number, row, name)
        for number, row in enumerate(_RECORD.iter_unpack(records))
    ]


def _judged(number: int, row: tuple[bytes, int, int, int], name: str) -> Read:
    op, layer, count, offset = row
    if op != b"R" or not 0 < count < 1 << 62 or offset < 0:
        at = _HEADER.size + number * _RECORD.size
        raise BadHeader(
            name,
            f"record {number}",
            offset=at,
            expected="a read of some bytes",
            found=f"{op!r}, {count} bytes at {offset}",
        )
    return Read(layer, offset, count)


def pack_trace(reads: Iterable[Read]) -> bytes:
    """Return the trace of reads."""
    records = b"".join(_RECORD.pack(b"R", r.layer, r.size, r.offset) for r in reads)
    return _HEADER.pack(MAGIC, len(records), _core.crc32c(records)) + records


def merge_traces(traces: Sequence[Sequence[Read]]) -> list[Read]:
    """Return the reads of several runs as one, without what was read before.

    They are taken by turns, so that what is read first in any run comes first.
    """
    seen: set[tuple[int, int]] = set()
    merged: list[Read] = []
    longest = max((len(trace) for trace in traces), default=0)
    for i in range(longest):
        for trace in traces:
            if i < len(trace):
                merged += _new_parts(trace[i], seen)
    return merged


# Reads are compared in steps of this many bytes.
_STEP = 4096


def _new_parts(read: Read, seen: set[tuple[int, int]]) -> list[Read]:
    first, last = read.offset // _STEP, (read.offset + read.size - 1) // _STEP
    if last - first > MAX_RECORDS:
        return [read]
    new = [s for s in range(first, last + 1) if (read.layer, s) not in seen]
    seen.update((read.layer, step) for step in new)
    if len(new) == last + 1 - first:
        return [read]
    return [Read(read.layer, step * _STEP, _STEP) for step in new]
