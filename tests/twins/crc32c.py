# SPDX-License-Identifier: Apache-2.0
"""
crc32c - raw reflected CRC-32C, one byte at a time.

Raw: the register starts as the seed and comes out as it is, nothing inverted.
"""

from __future__ import annotations

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


def _shifted(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_shifted(byte) for byte in range(256)]


def crc32c(data: bytes | memoryview, seed: int = 0) -> int:
    """Return the crc of data, going on from seed."""
    for byte in memoryview(data).cast("B"):
        seed = (seed >> 8) ^ _TABLE[(seed ^ byte) & 0xFF]
    return seed
