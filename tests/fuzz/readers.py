# SPDX-License-Identifier: Apache-2.0
"""
readers - one input for the Python readers: it is read, or refused by a fit error.

The first byte chooses what the rest is. guided.py feeds this from a fuzzer,
test_regressions.py from files; nothing here knows either.
"""

from __future__ import annotations

import struct
import tempfile
from itertools import islice
from pathlib import Path

from obdengine import _core
from obdengine.blob import tar
from obdengine.config import ImageConfig
from obdengine.device import Device
from obdengine.errors import ObdError
from obdengine.layer import open_layer
from obdengine.source import MemorySource
from tests.fuzz import turbo
from tests.hostile.victims import NAME, judge

LAYER, MENDED, CONFIG, TAR, INDEX, META, COMPRESSED = range(7)

ZMAGIC = b"ZFile\0\1\0"
BLOCK_SEED = 100007
MOST_BLOCKS = 200


def one_input(data: bytes) -> None:
    """Try data; returns whatever it is, unless the engine does wrong."""
    target = TARGETS[data[0] % len(TARGETS) if data else 0]
    try:
        target(data[1:])
    except ObdError as error:
        if target is not config:
            judge(error)


def layer(raw: bytes) -> None:
    """Open raw as a layer, read and describe its disk, and check it."""
    opened = open_layer(MemorySource(raw, NAME))
    with Device([opened], NAME) as device:
        device.check()
        size = min(device.size, 1 << 20)
        whole, failure = _read(device, size)
        covered = 0
        for extent in islice(device.extents(), 500):
            assert extent.offset == covered
            covered = extent.end
        damage = list(islice(opened.check(threads=1), 5))
        for error in damage:
            judge(error)
        if failure is None:
            assert device.pread(size // 3, size // 3) == whole[size // 3 :][: size // 3]


def _read(device: Device, size: int) -> tuple[bytes, ObdError | None]:
    try:
        return device.pread(0, size), None
    except ObdError as error:
        judge(error)
        return b"", error


def mended_layer(raw: bytes) -> None:
    """Do the same after putting every checksum right, to get past them."""
    layer(mended(raw))


def mended(raw: bytes) -> bytes:
    """Return raw with the digests, and the crcs of table and blocks, made right."""
    start = raw.find(ZMAGIC)
    if start < 0 or len(raw) < start + 1024:
        return raw
    data = bytearray(raw)
    end = data.rfind(ZMAGIC)
    for slot in (start, end):
        if slot + 512 <= len(data):
            _mend_table(data, start, slot)
            data[slot + 28 : slot + 32] = bytes(4)
            digest = _core.crc32c(bytes(data[slot : slot + 512]))
            struct.pack_into("<I", data, slot + 28, digest)
    return bytes(data)


def _mend_table(data: bytearray, start: int, slot: int) -> None:
    at, count = struct.unpack_from("<QQ", data, slot + 40)
    if count > MOST_BLOCKS or start + at + 4 * count > len(data):
        return
    table = bytes(data[start + at : start + at + 4 * count])
    struct.pack_into("<I", data, slot + 64, _core.crc32c(table))
    block = start + 512
    for (length,) in struct.iter_unpack("<I", table):
        if length < 4 or block + length > len(data):
            return
        crc = _core.crc32c(bytes(data[block : block + length - 4]), BLOCK_SEED)
        if data[slot + 88] == 1:
            struct.pack_into("<I", data, block + length - 4, crc)
        block += length


def config(text: bytes) -> None:
    """Read text as a configuration, and look for its layers."""
    with tempfile.TemporaryDirectory(prefix="obd-fuzz-") as folder:
        path = Path(folder) / "config.v1.json"
        path.write_bytes(text)
        files = ImageConfig.load(path).layer_files()
        assert 0 < len(files) <= 255


def wrapper(raw: bytes) -> None:
    """Look for a tar wrapper around raw."""
    found = tar.unwrap(MemorySource(raw, NAME))
    assert 0 <= found.offset <= found.offset + found.size <= len(raw)


TARGETS = (
    *(layer, mended_layer, config, wrapper),
    *(turbo.index, turbo.meta, turbo.compressed),
)
