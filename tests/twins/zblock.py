# SPDX-License-Identifier: Apache-2.0
"""
zblock - one block of a ZFile: compressed bytes, then perhaps their crc.

Compression is left to the packages lz4 and zstandard, and the crc to its twin.
"""

from __future__ import annotations

import lz4.block
import zstandard

from obdengine.errors import BadBlock, BadChecksum, BadJumpTable
from tests.twins.crc32c import crc32c

ALGO_LZ4 = 1
ALGO_ZSTD = 2
BLOCK_SEED = 100007
CRC_SIZE = 4


def bound(algo: int, size: int) -> int:
    """Return the most bytes that size bytes can become, as the codecs promise."""
    if algo == ALGO_LZ4:
        return size + size // 255 + 16
    return size + (size >> 8) + (max(0, (128 << 10) - size) >> 11)


def compress(plain: bytes, algo: int, level: int | None = None) -> bytes:
    """Return plain as one raw LZ4 block or one zstd frame."""
    if algo == ALGO_LZ4:
        return lz4.block.compress(plain, store_size=False)
    return zstandard.ZstdCompressor(level=level or 3).compress(plain)


def inflate(packed: bytes, size: int, algo: int) -> bytes:
    """Return at most size bytes; the package's own error when it cannot."""
    if algo == ALGO_LZ4:
        return lz4.block.decompress(packed, uncompressed_size=size)
    inflater = zstandard.ZstdDecompressor().decompressobj()
    plain = inflater.decompress(packed)
    if not inflater.eof or inflater.unused_data:
        raise zstandard.ZstdError("not exactly one frame")
    return plain


def encode_blocks(
    data: bytes, *, algo: int, level: int, block_size: int, verify: bool
) -> tuple[bytes, list[int]]:
    """Return the stored blocks of data laid end to end, and each one's length."""
    stored = []
    for at in range(0, len(data), block_size):
        packed = compress(bytes(data[at : at + block_size]), algo, level)
        crc = crc32c(packed, BLOCK_SEED).to_bytes(4, "little") if verify else b""
        stored.append(packed + crc)
    return b"".join(stored), [len(block) for block in stored]


def decode_block(
    stored: bytes,
    size: int,
    *,
    algo: int,
    verify: bool,
    name: str = "",
    offset: int = 0,
) -> bytes:
    """Return the size bytes that stored holds, or raise BadChecksum or BadBlock."""
    packed = bytes(stored)
    if verify and len(packed) < CRC_SIZE:
        raise BadJumpTable(name, "no room for a crc", offset=offset)
    if verify:
        packed, crc = packed[:-4], int.from_bytes(packed[-4:], "little")
        if crc32c(packed, BLOCK_SEED) != crc:
            raise BadChecksum(name, "the crc of a block", offset=offset)
    try:
        plain = inflate(packed, size, algo)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError, ValueError) as error:
        raise BadBlock(name, "a block does not inflate", offset=offset) from error
    if len(plain) != size:
        raise BadBlock(name, "a block", offset=offset, expected=size, found=len(plain))
    return plain
