# SPDX-License-Identifier: Apache-2.0
"""
turbo - one input for the readers of TurboOCI layers: index, layer, compressed file.

As readers.py: it is read, or refused by a fit error. What else a reader needs is
always the same and good.
"""

from __future__ import annotations

import gzip
import io
from functools import cache

import zstandard

from obdengine import _core
from obdengine.blob import open_target
from obdengine.blob import target_format as format
from obdengine.blob.indexing import Indexing
from obdengine.device import Device
from obdengine.errors import ObdError
from obdengine.layer import open_layer
from obdengine.source import MemorySource
from tests.hostile.victims import NAME, judge

__all__ = ["RAWS", "TAR", "compressed", "index", "index_of", "meta"]

TAR = b"".join(bytes([n % 251]) * (n % 37) for n in range(4000))
TAR = TAR[: len(TAR) // 512 * 512]
HALF = len(TAR) // 2

RAWS = [
    gzip.compress(TAR, mtime=0),
    gzip.compress(TAR[:HALF], mtime=0) + gzip.compress(TAR[HALF:], mtime=0),
    b"".join(zstandard.compress(part) for part in (TAR[:HALF], TAR[HALF:])),
]

MOST = 1 << 20


@cache
def index_of(number: int) -> bytes:
    """Return a good index over one of RAWS."""
    stream = Indexing(io.BytesIO(RAWS[number]).read, NAME, 5000)
    while stream.read(MOST):
        pass
    return stream.index() or b""


def index(data: bytes) -> None:
    """Read the file that the first byte chooses by the index in the rest.

    Its crc is made right, to get past it.
    """
    raw = RAWS[data[0] % len(RAWS)] if data else b""
    made = bytearray(data[1:])
    if len(made) >= format.HEADER_SIZE:
        crc = _core.crc32c(bytes(made[: format.CRC_SIZE]))
        made[format.CRC_SIZE : format.HEADER_SIZE] = crc.to_bytes(4, "little")
    target = open_target(MemorySource(raw, NAME), MemorySource(bytes(made), NAME))
    try:
        damage = list(target.check(threads=1))
        for error in damage:
            judge(error)
        for at in range(0, min(target.size, MOST), 7001):
            _try_read(target, at)
    finally:
        target.close()


def _try_read(target: object, at: int) -> None:
    size = min(9000, target.size - at)  # type: ignore[attr-defined]
    try:
        assert len(target.pread(at, size)) == size  # type: ignore[attr-defined]
    except ObdError as error:
        judge(error)


def meta(raw: bytes) -> None:
    """Open raw as a TurboOCI layer over a good target, and read its disk."""
    points = MemorySource(index_of(0), NAME)
    target = open_target(MemorySource(RAWS[0], NAME), points)
    layer = open_layer(MemorySource(raw, NAME), target)
    with Device([layer], NAME) as device:
        device.check()
        list(zip(range(500), device.extents(), strict=False))
        device.pread(0, min(device.size, MOST))


def compressed(raw: bytes) -> None:
    """Index raw; what was indexed reads the same again."""
    stream = Indexing(io.BytesIO(raw).read, NAME, 5000)
    parts = []
    while len(parts) < 64 and (data := stream.read(65536)):
        parts.append(data)
    if len(parts) == 64:
        return
    made = stream.index()
    if made is None:
        return
    target = open_target(MemorySource(raw, NAME), MemorySource(made, NAME))
    try:
        assert target.pread(0, target.size) == b"".join(parts)
        assert not list(target.check(threads=1))
    finally:
        target.close()
