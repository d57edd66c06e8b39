# SPDX-License-Identifier: Apache-2.0
"""test_unpack - whole files are unpacked in full, or refused with the reason."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
from collections.abc import Callable

import pytest
import zstandard

from obdengine.blob.unpack import PLAIN, Unpacked
from obdengine.errors import FormatError
from tests.tools import requires

DATA = random.Random(7).randbytes(300_000) + bytes(3_000_000) + b"the end"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    PLAIN: bytes,
}


def unpack(packed: bytes, step: int = 1 << 16) -> tuple[str, bytes]:
    stream = Unpacked(io.BytesIO(packed), "blob")
    found = b"".join(iter(lambda: stream.read(step), b""))
    assert stream.position == len(packed)
    assert stream.read(step) == b""
    return stream.compression, found


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("step", [1000, 1 << 20, -1])
def test_one_member(kind: str, step: int) -> None:
    assert unpack(PACKERS[kind](DATA), step) == (kind, DATA)


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != PLAIN])
def test_many_members_padded(kind: str) -> None:
    pieces = [b"", DATA[:1], DATA[1:200_000], b"", DATA[200_000:], b""]
    packed = b"".join(PACKERS[kind](piece) for piece in pieces)
    assert unpack(packed) == (kind, DATA)
    assert unpack(packed + bytes(1000)) == (kind, DATA)


def test_skippable_frame_of_zstd() -> None:
    skipped = b"\x5e\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    packed = skipped + zstandard.compress(DATA) + skipped
    assert unpack(packed) == ("zstd", DATA)


@requires("pigz")
def test_pigz() -> None:
    done = subprocess.run(
        ["pigz", "-i", "-b", "128"], input=DATA, stdout=subprocess.PIPE, check=True
    )
    assert unpack(done.stdout) == ("gzip", DATA)


@requires("bgzip")
def test_bgzip() -> None:
    done = subprocess.run(["bgzip"], input=DATA, stdout=subprocess.PIPE, check=True)
    assert unpack(done.stdout) == ("gzip", DATA)


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"BZ", bytes(10)])
def test_what_is_short_is_plain(data: bytes) -> None:
    assert unpack(data) == (PLAIN, data)


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != PLAIN])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed + b"garbage",
        lambda packed: packed[:100] + bytes(200) + packed[300:],
    ],
    ids=["short", "half", "garbage", "zeros"],
)
def test_damage_is_an_error(kind: str, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError, match=f"does not unpack as {kind}"):
        unpack(spoil(PACKERS[kind](DATA)))


def test_another_kind_behind_is_an_error() -> None:
    with pytest.raises(FormatError, match="something else"):
        unpack(gzip.compress(b"a") + zstandard.compress(b"b"))


@pytest.mark.parametrize("kind", PACKERS)
def test_no_read_returns_more_than_asked(kind: str) -> None:
    stream = Unpacked(io.BytesIO(PACKERS[kind](bytes(50_000_000))), "bomb")
    sizes = {len(data) for data in iter(lambda: stream.read(4096), b"")}
    assert max(sizes) <= 4096
