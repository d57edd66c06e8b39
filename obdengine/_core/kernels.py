# SPDX-License-Identifier: Apache-2.0
"""kernels - checksums, blocks and scans: C on a buffer, nothing kept."""

from __future__ import annotations

from obdengine._core.binding import Buffer, check, ffi, lib, new_fault, source, target
from obdengine.errors import CoreError, UsageError

__all__ = [
    "ALGO_LZ4",
    "ALGO_ZSTD",
    "BLOCK_SEED",
    "crc32c",
    "crc32c_kernels",
    "crc32c_with",
    "decode_block",
    "encode_blocks",
    "same_granules",
    "zero_granules",
]

ALGO_LZ4: int = lib.OBD_ALGO_LZ4
ALGO_ZSTD: int = lib.OBD_ALGO_ZSTD
BLOCK_SEED: int = lib.OBD_BLOCK_SEED
_KERNELS = {"portable": lib.OBD_CRC32C_PORTABLE, "sse42": lib.OBD_CRC32C_SSE42}


def crc32c(data: Buffer, seed: int = 0) -> int:
    """Return the raw reflected CRC-32C of data: nothing is inverted."""
    src = source(data)
    return int(lib.obd_crc32c(seed, src, len(src)))


def crc32c_with(kernel: str, data: Buffer, seed: int = 0) -> int:
    """Return the same by one kernel; raises CoreError if it cannot run here."""
    src, out = source(data), ffi.new("uint32_t *")
    number = _KERNELS.get(kernel, -1)
    if lib.obd_crc32c_with(number, seed, src, len(src), out) != lib.OBD_OK:
        raise CoreError(f"crc32c: this machine cannot run the kernel {kernel!r}")
    return int(out[0])


def crc32c_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that this machine can run."""
    out = ffi.new("uint32_t *")
    return tuple(
        name
        for name, number in _KERNELS.items()
        if lib.obd_crc32c_with(number, 0, ffi.NULL, 0, out) == lib.OBD_OK
    )


def encode_blocks(
    data: Buffer,
    *,
    algo: int,
    level: int,
    block_size: int,
    verify: bool,
    room: bytearray | None = None,
) -> tuple[memoryview, list[int]]:
    """Compress data, cut in blocks, into stored blocks that lie end to end.

    Returns the stored bytes and the length of each block in them, its crc
    included. Only the last block may be shorter than block_size bytes. room:
    where the stored bytes shall be, which is made as long as it has to be;
    None: somewhere new.
    """
    src, count = source(data), -(-len(data) // block_size)
    bound = lib.obd_zblock_bound(algo, block_size, verify) * count
    stored = bytearray() if room is None else room
    if len(stored) < bound:
        stored += bytes(bound - len(stored))
    dst, lengths = target(stored), ffi.new("uint32_t[]", count)
    written = ffi.new("size_t *")
    status = lib.obd_zblock_encode(
        algo, level, block_size, verify, src, len(src), dst, bound, lengths, written
    )
    check(status, new_fault(), "encode_blocks")
    return memoryview(stored)[: written[0]], ffi.unpack(lengths, count)


def decode_block(
    stored: Buffer,
    size: int,
    *,
    algo: int,
    verify: bool,
    name: str = "block",
    offset: int = 0,
) -> bytes:
    """Return the size bytes of one stored block; BadChecksum, BadBlock if not."""
    src, out = source(stored), bytearray(size)
    dst, fault = target(out), new_fault()
    status = lib.obd_zblock_decode_one(algo, verify, src, len(src), dst, size, fault)
    fault.at = offset
    check(status, fault, name)
    return bytes(out)


def zero_granules(data: Buffer, granule: int) -> bytes:
    """Return a byte for each granule of data, the last may be short: 1 if zero."""
    src, flags = source(data), bytearray(-(-len(data) // granule))
    lib.obd_scan_zero(src, len(src), granule, target(flags))
    return bytes(flags)


def same_granules(a: Buffer, b: Buffer, granule: int) -> bytes:
    """Return a byte for each granule of a, the last may be short: 1 if as in b."""
    if len(a) != len(b):
        raise UsageError(f"buffers of {len(a)} and {len(b)} bytes cannot be compared")
    src, other = source(a), source(b)
    flags = bytearray(-(-len(src) // granule))
    lib.obd_scan_same(src, other, len(src), granule, target(flags))
    return bytes(flags)
