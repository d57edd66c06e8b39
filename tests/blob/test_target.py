# SPDX-License-Identifier: Apache-2.0
"""test_target - compressed layers indexed once, and read at any offset after."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from obdengine import _core
from obdengine.blob import Target, open_target
from obdengine.blob.indexing import Indexing
from obdengine.errors import (
    BadBlock,
    BadChecksum,
    BadMagic,
    BadTargetIndex,
    Unsupported,
)
from obdengine.source import MemorySource
from tests.tools import requires
from tests.twins import gzindex

SPAN = 40_000


def plain(size: int = 500_000, seed: int = 1) -> bytes:
    """Return bytes that compress, with matches far back and blocks of all sizes."""
    chance = Random(seed)
    out = bytearray(chance.randbytes(3000))
    while len(out) < size:
        at, length = chance.randrange(len(out)), chance.randrange(1, 90)
        out += out[at : at + length] if chance.random() < 0.8 else chance.randbytes(30)
    return bytes(out[:size])


PLAIN = plain()


def indexed(raw: bytes, span: int = SPAN) -> tuple[bytes, bytes | None, Indexing]:
    """Read raw through an Indexing; return the tar, the index, and it."""
    stream = Indexing(io.BytesIO(raw).read, "layer", span)
    parts = []
    while data := stream.read(33_333):
        parts.append(data)
    return b"".join(parts), stream.index(), stream


def target_of(raw: bytes, index: bytes | None) -> Target:
    points = MemorySource(index, "index") if index else None
    return open_target(MemorySource(raw, "layer"), points)


def read_all_ways(target: Target, wanted: bytes, seed: int = 2) -> None:
    """Read in one piece, in random pieces, and with nothing kept."""
    assert target.size == len(wanted)
    assert target.pread(0, target.size) == wanted
    chance = Random(seed)
    for number in range(60):
        if number % 20 == 0:
            _core.limit_chunks(0)  # drops what is kept
            _core.limit_chunks(1 << 26)
        at = chance.randrange(len(wanted) or 1)
        size = min(chance.choice([0, 1, 512, 4096, 90_000]), len(wanted) - at)
        assert target.pread(at, size) == wanted[at : at + size]


def zstd_frames(data: bytes, size: int) -> bytes:
    parts = range(0, len(data), size)
    return b"".join(zstandard.compress(data[at : at + size]) for at in parts)


def member_with_everything(data: bytes) -> bytes:
    """Return a gzip member whose header has all that a header may have."""
    head = b"\x1f\x8b\x08" + bytes([2 | 4 | 8 | 16]) + bytes(4) + b"\0\3"
    head += struct.pack("<H", 5) + b"extra" + b"name\0" + b"comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def members(data: bytes, size: int) -> bytes:
    parts = range(0, len(data), size)
    return b"".join(gzip.compress(data[at : at + size], mtime=0) for at in parts)


FORMS: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "gzip": (lambda d: gzip.compress(d, mtime=0), "gzip", 1),
    "every header field": (member_with_everything, "gzip", 1),
    "stored": (lambda d: gzip.compress(d, 0, mtime=0), "gzip", 1),
    "two members": (lambda d: members(d, 300_000), "gzip", 2),
    "small members": (lambda d: members(d, 9_000), "gzip", 2),
    "members with everything": (
        lambda d: member_with_everything(d[:9]) + member_with_everything(d[9:]),
        "gzip",
        2,
    ),
    "an empty member last": (
        lambda d: members(d, 300_000) + gzip.compress(b""),
        "gzip",
        2,
    ),
    "an empty member first": (
        lambda d: gzip.compress(b"") + gzip.compress(d),
        "gzip",
        2,
    ),
    "zeros behind": (lambda d: gzip.compress(d) + bytes(5000), "gzip", 1),
    "frames": (lambda d: zstd_frames(d, 30_000), "zstd", 2),
    "one frame": (zstandard.compress, "zstd", 2),
    "skippable frames": (
        lambda d: (
            b"\x50\x2a\x4d\x18\3\0\0\0abc"
            + zstd_frames(d, 70_000)
            + b"\x5f\x2a\x4d\x18\0\0\0\0"
        ),
        "zstd",
        2,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str) -> None:
    pack, codec, version = FORMS[form]
    raw = pack(PLAIN)
    tar, index, stream = indexed(raw)
    assert tar == PLAIN
    assert stream.codec == codec
    assert stream.position == len(raw)
    assert index is not None
    assert index[8] == version
    target = target_of(raw, index)
    assert (target.codec, target.members, target.summed) == (codec, version == 2, True)
    read_all_ways(target, PLAIN)
    assert list(target.check()) == []
    target.close()


@requires("pigz", "bgzip")
@pytest.mark.parametrize("tool", ["pigz", "pigz -i", "bgzip"])
def test_what_others_write(tool: str) -> None:
    data = plain(3_000_000, 3)
    words = [*tool.split(), "-c"]
    raw = subprocess.run(words, input=data, stdout=subprocess.PIPE, check=True).stdout
    tar, index, stream = indexed(raw, 1 << 20)
    assert tar == data
    assert (stream.members > 40) == (tool == "bgzip")
    target = target_of(raw, index)
    read_all_ways(target, data)
    assert target.blocks >= 2
    target.close()


def test_a_tar_as_it_is() -> None:
    tar, index, stream = indexed(PLAIN)
    assert (tar, index, stream.codec) == (PLAIN, None, "none")
    target = target_of(PLAIN, None)
    read_all_ways(target, PLAIN)
    target.close()


def test_nothing_in_it() -> None:
    for raw in (gzip.compress(b""), zstandard.compress(b""), gzip.compress(b"") * 3):
        tar, index, _ = indexed(raw)
        assert tar == b""
        target = target_of(raw, index)
        assert target.size == 0
        assert list(target.check()) == []
        target.close()


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 9)), max_size=12),
    st.integers(1, 3000),
)
def test_any_members(parts: list[tuple[int, int]], span: int) -> None:
    data = [PLAIN[7 * n : 7 * n + size] for n, (size, _) in enumerate(parts)]
    raw = b"".join(
        gzip.compress(piece, level, mtime=0)
        for piece, (_, level) in zip(data, parts, strict=True)
    )
    tar, index, _ = indexed(raw, span)
    assert tar == b"".join(data)
    if index:
        target = target_of(raw, index)
        for at in range(0, len(tar), 701):
            assert target.pread(at, min(900, len(tar) - at)) == tar[at : at + 900]
        assert list(target.check(threads=1)) == []
        target.close()


# -- As overlaybd has it


def test_twin_reads_our_index() -> None:
    """As overlaybd reads one: its procedure, by another hand."""
    raw = gzip.compress(PLAIN, mtime=0)
    _, index, _ = indexed(raw)
    assert index is not None
    found = gzindex.parse(index)
    assert found.fields["major"] == 1
    assert found.fields["window"] == 32768
    assert len(found.points) > 5
    for point in found.points:
        assert len(gzindex.window_of(found, point)) == 32768
    for at in range(0, len(PLAIN) - 3000, 7919):
        assert gzindex.read(found, raw, at, 3000) == PLAIN[at : at + 3000]


def test_golden_indexes(golden: Path) -> None:
    folder = golden / "turbo-c"
    for number in (0, 2):
        raw = (folder / f"layer{number}.tar.gz").read_bytes()
        index = (folder / f"layer{number}.gzip.meta").read_bytes()
        target, found = target_of(raw, index), gzindex.parse(index)
        assert not target.summed
        assert target.blocks == len(found.points)
        read_all_ways(target, gzip.decompress(raw))
        assert list(target.check()) == []
        target.close()


def test_windows_that_are_not_packed() -> None:
    raw = gzip.compress(PLAIN, mtime=0)
    _, index, _ = indexed(raw)
    assert index is not None
    found = gzindex.parse(index)
    windows, table = b"", b""
    for point in found.points:
        place = 333 + len(windows)
        windows += gzindex.window_of(found, point)
        table += gzindex.POINT.pack(point.out, point.at, place, point.bits, 32768)
    loose = gzindex.changed(
        index[:333] + windows + table,
        dict_algo=0,
        extension=bytes(256),
        index_offset=333 + len(windows),
        index_size=len(table),
        file_size=333 + len(windows) + len(table),
    )
    target = target_of(raw, loose)
    read_all_ways(target, PLAIN)
    target.close()


# -- Damage, and what cannot be


def test_every_member_is_verified() -> None:
    raw = members(PLAIN, 100_000)
    ends = [at for at in range(1, len(raw)) if raw[at : at + 3] == b"\x1f\x8b\x08"]
    for end in [*ends, len(raw)]:
        for back, kind in ((5, "crc"), (1, "size")):
            damaged = bytearray(raw)
            damaged[end - back] ^= 1
            with pytest.raises(BadChecksum, match=kind):
                indexed(bytes(damaged))


@pytest.mark.parametrize("form", FORMS)
def test_cut_off(form: str) -> None:
    raw = FORMS[form][0](PLAIN)
    end = len(raw.rstrip(b"\0")) - (8 if form != "zeros behind" else 0)
    if form in ("an empty member last", "skippable frames"):
        end = len(raw) // 2
    for cut in (end, end // 2 + 1):
        with pytest.raises((BadBlock, BadChecksum)) as caught:
            indexed(raw[:cut])
        assert caught.value.offset is not None


def test_garbage_behind_is_left_out_and_said() -> None:
    raw = gzip.compress(PLAIN) + bytes(700) + b"signature"
    tar, index, stream = indexed(raw)
    assert tar == PLAIN
    assert len(stream.notes) == 1
    assert "left out" in stream.notes[0]
    target = target_of(raw, index)
    read_all_ways(target, PLAIN)
    target.close()


def test_member_behind_zeros() -> None:
    raw = gzip.compress(PLAIN) + bytes(700) + gzip.compress(b"more")
    with pytest.raises(Unsupported, match="behind zeros"):
        indexed(raw)


def test_something_behind_frames() -> None:
    with pytest.raises(BadBlock, match="behind the last frame"):
        indexed(zstandard.compress(PLAIN) + b"something")


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_too_long_to_read_from_within(codec: str) -> None:
    if codec == "zstd":
        raw = zstandard.compress(bytes(40 << 20))
    else:
        # One block of deflate: zlib itself would begin others.
        raw = _one_long_block(40 << 20)
        assert len(gzip.decompress(raw)) == 40 << 20
    with pytest.raises(Unsupported, match="32 MiB in each"):
        indexed(raw)


def _one_long_block(size: int) -> bytes:
    """Return a gzip file of zeros whose deflate stream is one fixed block."""
    # 1 final, 01 fixed; literal 0 is 00110000; 258 is 285, 11000101, and
    # distance 1 is 00000; the end is 0000000. Codes go in from the left.
    matches, rest = divmod(size - 1, 258)
    bits = "1" + "10" + "00110000" + "1100010100000" * matches
    bits += "00110000" * rest + "0000000"
    bits += "0" * (-len(bits) % 8)
    body = int(bits[::-1], 2).to_bytes(len(bits) // 8, "little")
    crc = zlib.crc32(bytes(size))
    return b"\x1f\x8b\x08" + bytes(7) + body + struct.pack("<II", crc, size)


def test_other_compressions() -> None:
    with pytest.raises(Unsupported, match="found xz"):
        indexed(b"\xfd7zXZ\0" + bytes(100))


def test_index_that_leaves_members_out() -> None:
    """What overlaybd makes of such a file: an index of the first member."""
    first = gzip.compress(PLAIN, mtime=0)
    raw = first + gzip.compress(b"and more")
    _, index, _ = indexed(first)
    assert index is not None
    index = gzindex.changed(index, target_size=len(raw))
    target = target_of(raw, index)
    assert target.pread(0, 100) == PLAIN[:100]
    with pytest.raises(BadTargetIndex, match="first gzip member only"):
        target.pread(len(PLAIN) - 10, 10)
    assert len(list(target.check())) == 1
    target.close()


def test_target_that_was_changed() -> None:
    raw = bytearray(gzip.compress(PLAIN, mtime=0))
    other = gzip.compress(PLAIN[::-1], mtime=0)
    _, index, _ = indexed(bytes(raw))
    assert index is not None
    raw[len(raw) // 2] ^= 0x10
    target = target_of(bytes(raw), index)
    with pytest.raises((BadBlock, BadChecksum), match="layer: offset"):
        target.pread(0, target.size)
    assert list(target.check())
    target.close()
    size = min(len(raw), len(other))
    target = target_of(other[:size].ljust(len(raw), b"\0"), index)
    with pytest.raises((BadBlock, BadChecksum)):
        target.pread(100, 1)
    target.close()


def test_target_without_its_index() -> None:
    for raw in (gzip.compress(PLAIN), zstandard.compress(PLAIN)):
        with pytest.raises(BadMagic, match="gzipIndex"):
            target_of(raw, None)


def test_many_readers() -> None:
    raw = members(PLAIN, 120_000)
    _, index, _ = indexed(raw)
    target, wrong = target_of(raw, index), []

    def run(seed: int) -> None:
        chance = Random(seed)
        for _ in range(60):
            at = chance.randrange(len(PLAIN) - 5000)
            if target.pread(at, 5000) != PLAIN[at : at + 5000]:
                wrong.append(at)

    _core.limit_chunks(1 << 18)
    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept, _ = _core.chunk_memory()
    _core.limit_chunks(1 << 26)
    target.close()
    assert not wrong
    assert kept <= 1 << 18


def test_which_bytes_of_a_target_are_needed() -> None:
    """A read asks for the span that it is in, and for no more."""
    raw = gzip.compress(PLAIN, mtime=0)
    _, index, _ = indexed(raw)
    target = target_of(raw, index)
    for at in range(0, len(PLAIN) - 100, 30_000):
        start, size = target.core.stored(at, 100)
        assert 0 < size < len(raw) // 3
        assert start + size <= len(raw)
    target.close()
