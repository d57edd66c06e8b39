# SPDX-License-Identifier: Apache-2.0
"""
victims - good layers of every form, what they read as, and how to try a bad one.

A try ends in the bytes of the disk or in an error that is one of ours and says
where; anything else fails the test that tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random

from obdengine.device import Device
from obdengine.errors import FormatError, ObdError
from obdengine.layer import open_layer
from obdengine.source import MemorySource
from tests.twins import writer
from tests.twins.writer import SECTOR, Lsmt, Run, ZFile
from tests.twins.zblock import ALGO_ZSTD

NAME = "victim.obd"
DISK = 96 * SECTOR

# Of a disk that a damaged layer makes large, this much is read.
MOST = 4 * DISK

COMMITTED = Lsmt()

_chance = Random(4)
RUNS = [
    Run(0, _chance.randbytes(3 * SECTOR)),
    Run(5, b"again and again " * 32 * 8),
    Run(13, zeroed=7),
    Run(40, _chance.randbytes(40) * (SECTOR * 5 // 40)),
    Run(90, _chance.randbytes(6 * SECTOR)),
]


@dataclass(frozen=True)
class Victim:
    """A good layer: its bytes, and where everything but the data of it ends."""

    name: str
    raw: bytes
    payload_end: int  # a tar's zeros behind it are not read
    protected: bool  # every byte that counts is under a crc


def stream(how: Lsmt = COMMITTED) -> bytes:
    """Return the LSMT layer that all victims hold."""
    return writer.lsmt(RUNS, DISK, how)


def _victims() -> list[Victim]:
    lz4 = writer.zfile(stream())
    zstd = writer.zfile(stream(), ZFile(ALGO_ZSTD, 16384, rewritten=False))
    bare = writer.zfile(stream(), ZFile(verify=False))
    pax, plain = writer.tar(lz4, "pax"), writer.tar(zstd, "plain")
    sealed = stream(Lsmt(sealed=True, padding=1, seed=3))
    return [
        Victim("plain", stream(), len(stream()), False),
        Victim("sealed", sealed, len(sealed), False),
        Victim("lz4", lz4, len(lz4), True),
        Victim("zstd-trailer-only", zstd, len(zstd), True),
        Victim("lz4-no-crc", bare, len(bare), False),
        Victim("lz4-pax", pax, 1536 + len(lz4), True),
        Victim("zstd-tar", plain, 512 + len(zstd), True),
    ]


VICTIMS = _victims()


def flat() -> bytes:
    """Return what every victim reads as."""
    disk = bytearray(DISK)
    for run in RUNS:
        where = slice(run.start * SECTOR, (run.start + run.length) * SECTOR)
        disk[where] = run.data or bytes(run.zeroed * SECTOR)
    return bytes(disk)


def read(raw: bytes) -> bytes:
    """Return the disk that one layer makes; raises what the engine raises."""
    layer = open_layer(MemorySource(raw, NAME))
    with Device([layer], NAME) as device:
        for _ in islice(device.extents(), 100):
            pass
        return device.pread(0, min(device.size, MOST))


def tried(raw: bytes) -> bytes | ObdError:
    """Return what reading raw gives: its bytes, or a fit error."""
    try:
        return read(raw)
    except ObdError as error:
        judge(error)
        return error


def judge(error: ObdError, name: str = NAME) -> None:
    """Assert that error is a sentence that says which file, and where and what."""
    text = str(error)
    assert name in text, text
    assert "\n" not in text, text
    assert len(text) < 600, text
    assert 0 < error.errno < 200
    if isinstance(error, FormatError):
        assert error.name.endswith(name)
        assert error.offset is not None, text
        assert error.offset >= 0, text
        assert error.expected is not None or error.found is not None, text


def refused(raw: bytes, kind: type[ObdError] = FormatError) -> ObdError:
    """Return the error that reading raw must end in, of the given kind."""
    result = tried(raw)
    assert isinstance(result, kind), result if isinstance(result, ObdError) else "read"
    return result
