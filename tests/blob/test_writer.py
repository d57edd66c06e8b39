# SPDX-License-Identifier: Apache-2.0
"""test_writer - what we write reads back, is always the same, and is overlaybd's."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.blob import BlockTooLarge, PlainWriter, ZWriter, format, open_blob, zfile
from obdengine.errors import UsageError
from obdengine.source import FileSource, MemorySource
from obdengine.source.output import Output
from tests.twins import stack

MIB = 1 << 20

# More than two batches, so that threads have something to overtake each other with.
LONG = b"".join(
    bytes(5000) + Random(n).randbytes(3000) + b"abc" * 4000 for n in range(130)
)


def written(path: Path, stream: bytes, cuts: list[int] = [], **how: Any) -> bytes:  # noqa: B006
    """Return stream as a ZFile, given to the writer in pieces."""
    with Output(path) as out:
        writer = ZWriter(out, **({"codec": "lz4"} | how))
        for start, end in pairwise([0, *sorted(cuts), len(stream)]):
            writer.write(stream[start:end])
        writer.finish()
        out.commit()
    return path.read_bytes()


@given(st.data())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    stream = data.draw(st.binary(max_size=70_000))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5))
    path = tmp_path_factory.mktemp("blob") / "file"
    raw = written(
        path,
        stream,
        cuts,
        codec=data.draw(st.sampled_from(["lz4", "zstd"])),
        level=data.draw(st.none() | st.integers(1, 9)),
        block_size=data.draw(st.sampled_from([4096, 8192, 16384, 32768])),
        threads=data.draw(st.integers(1, 3)),
        verify=data.draw(st.booleans()),
        rewrite_header=data.draw(st.booleans()),
    )
    assert stack.inflate(raw) == stream
    blob = open_blob(FileSource(path))
    assert blob.pread(0, blob.size) == stream
    assert not list(blob.check())
    blob.close()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_threads_and_cuts_do_not_matter(tmp_path: Path, codec: str) -> None:
    chance = Random(3)
    first = written(tmp_path / "file", LONG, codec=codec)
    assert len(LONG) > 2 * MIB
    for threads in (2, 5):
        cuts = [chance.randrange(len(LONG)) for _ in range(40)]
        again = written(tmp_path / "file", LONG, cuts, codec=codec, threads=threads)
        assert again == first


def test_header_is_that_of_overlaybd(golden: Path, tmp_path: Path) -> None:
    """The same fields give the same 512 bytes, digest and all."""
    for name, codec, block_size in [
        ("layer1.lsmt", "lz4", 4096),
        ("layer3.lsmt", "zstd", 16384),
    ]:
        raw = (golden / "blocks-a" / name).read_bytes()
        stream = stack.inflate(raw)
        ours = written(tmp_path / "file", stream, codec=codec, block_size=block_size)
        for at in (0, -512):
            known = format.unpack_header(raw[at:][:512])
            made = format.unpack_header(ours[at:][:512])
            # Another version of the codec may compress differently.
            made = made._replace(
                index_offset=known.index_offset, index_crc=known.index_crc
            )
            slot = format.pack_header(made)
            made = made._replace(digest=zfile.digest_of(slot))
            assert format.pack_header(made) == raw[at:][:512]


def test_unfinished_header_is_that_of_overlaybd(golden: Path, tmp_path: Path) -> None:
    raw = (golden / "blocks-a" / "merged.zfile").read_bytes()
    ours = written(tmp_path / "file", b"x", rewrite_header=False)
    assert ours[:512] == raw[:512]


def test_starts_where_the_output_stands(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Output(path) as out:
        out.append(b"before")
        writer = ZWriter(out, codec="lz4")
        writer.write(b"content")
        writer.finish()
        out.commit()
    raw = path.read_bytes()
    assert raw[:6] == b"before"
    assert stack.inflate(raw[6:]) == b"content"


def test_caller_may_change_its_buffer(tmp_path: Path) -> None:
    path, buffer = tmp_path / "file", bytearray(b"a" * 100_000)
    with Output(path) as out:
        writer = ZWriter(out, codec="lz4")
        writer.write(buffer)
        buffer[:] = b"b" * len(buffer)
        writer.finish()
        out.commit()
    assert stack.inflate(path.read_bytes()) == b"a" * 100_000


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_block_of_64k_that_does_not_compress(tmp_path: Path, codec: str) -> None:
    noise = Random(1).randbytes(70_000)
    with Output(tmp_path / "file") as out:
        writer = ZWriter(out, codec=codec, block_size=65536)
        writer.write(noise)
        with pytest.raises(BlockTooLarge, match="65536"):
            writer.finish()
        writer.close()
    written(tmp_path / "file", noise, codec=codec, block_size=32768)
    raw = (tmp_path / "file").read_bytes()
    assert stack.inflate(raw) == noise


def test_table_that_does_not_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obdengine.blob.writer._TABLE_IN_MEMORY", 100)
    raw = written(tmp_path / "file", LONG)
    assert stack.inflate(raw) == LONG
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "gzip"},
        {"codec": "lz4", "level": 0},
        {"codec": "lz4", "level": 13},
        {"codec": "zstd", "level": 23},
        {"codec": "lz4", "block_size": 0},
        {"codec": "lz4", "block_size": 2048},
        {"codec": "lz4", "block_size": 5000},
        {"codec": "lz4", "block_size": 131072},
    ],
    ids=str,
)
def test_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with Output(tmp_path / "file") as out, pytest.raises(UsageError):
        ZWriter(out, **options)


def test_plain(tmp_path: Path) -> None:
    with Output(tmp_path / "file") as out:
        writer = PlainWriter(out)
        writer.write(b"one")
        writer.write(memoryview(b"two"))
        writer.finish()
        writer.close()
        out.commit()
    assert (tmp_path / "file").read_bytes() == b"onetwo"


def test_empty(tmp_path: Path) -> None:
    blob = open_blob(MemorySource(written(tmp_path / "file", b""), "file"))
    assert (blob.size, blob.blocks) == (0, 0)
    assert not list(blob.check())
