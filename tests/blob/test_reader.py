# SPDX-License-Identifier: Apache-2.0
"""test_reader - blobs of every form: what they say, hold, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine import source
from obdengine.blob import Blob, format, open_blob, zfile
from obdengine.errors import (
    BadBlock,
    BadChecksum,
    BadHeader,
    BadJumpTable,
    BadMagic,
    Closed,
    FormatError,
    OutOfRange,
    Unsupported,
)
from obdengine.source import MemorySource
from tests.blob.sources import RecordingSource
from tests.twins import stack, writer
from tests.twins.writer import ZFile
from tests.twins.zblock import ALGO_LZ4, ALGO_ZSTD

# Half of it compresses, half does not.
STREAM = bytes(9000) + Random(5).randbytes(40_000) + b"text " * 9000

FORMS = {
    "plain": (None, None),
    "lz4": (ZFile(), None),
    "lz4-64k-pax": (ZFile(block_size=65536), "pax"),
    "zstd-tar": (ZFile(ALGO_ZSTD, 16384, rewritten=False), "plain"),
    "no-crc": (ZFile(ALGO_LZ4, 8192, verify=False), None),
    "bare-pax": (None, "pax"),
}


def packed(form: str, stream: bytes = STREAM) -> bytes:
    how, tar = FORMS[form]
    raw = writer.zfile(stream, how) if how else stream
    return writer.tar(raw, tar) if tar else raw


def opened(raw: bytes) -> Blob:
    return open_blob(MemorySource(raw, "file.obd"))


every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_reads(form: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.obd"
    path.write_bytes(packed(form))
    blob = open_blob(source.open(path)) if kind == "file" else opened(packed(form))
    chance = Random(form)
    assert blob.size == len(STREAM)
    for _ in range(200):
        offset = chance.randrange(len(STREAM))
        size = chance.randint(0, len(STREAM) - offset)
        assert blob.pread(offset, size) == STREAM[offset : offset + size]
    assert blob.pread(0, len(STREAM)) == STREAM
    assert not list(blob.check())
    blob.close()


def test_facts() -> None:
    blob = opened(packed("lz4-64k-pax"))
    assert (blob.wrapper, blob.codec, blob.block_size) == ("tar-pax", "lz4", 65536)
    assert (blob.blocks, blob.verify, blob.header_rewritten) == (2, True, True)
    assert blob.payload_offset == 1536
    blob = opened(packed("zstd-tar"))
    assert (blob.wrapper, blob.codec, blob.block_size) == ("tar-plain", "zstd", 16384)
    assert (blob.blocks, blob.verify, blob.header_rewritten) == (6, True, False)
    blob = opened(packed("plain"))
    assert (blob.wrapper, blob.codec, blob.block_size) == (None, None, None)
    assert (blob.blocks, blob.verify) == (0, False)
    assert blob.payload_size == blob.size == len(STREAM)


def test_golden(golden: Path) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())
    for name in [layer["committed"] for layer in known["layers"]] + known["merged"]:
        raw = (folder / name).read_bytes()
        blob = open_blob(source.open(folder / name))
        assert blob.pread(0, blob.size) == stack.inflate(stack.untar(raw))
        assert not list(blob.check(threads=3))
        blob.close()


def test_one_sector_fetches_one_block() -> None:
    recorded = RecordingSource(writer.zfile(STREAM))
    blob = open_blob(recorded)
    del recorded.reads[:]
    assert blob.pread(6 * 4096, 512) == STREAM[6 * 4096 :][:512]
    # Block 6 does not compress: it takes 4118 bytes and so two pages, or three.
    assert sum(size for _, size in recorded.reads) <= 3 * 4096
    del recorded.reads[:]
    assert blob.pread(6 * 4096 + 512, 512) == STREAM[6 * 4096 + 512 :][:512]
    assert recorded.reads == []


def test_header_that_is_final_spares_the_trailer() -> None:
    raw = writer.zfile(STREAM)
    recorded = RecordingSource(raw)
    open_blob(recorded)
    assert all(offset < len(raw) - 512 for offset, _ in recorded.reads)


def test_range_outside() -> None:
    blob = opened(packed("lz4"))
    with pytest.raises(OutOfRange):
        blob.pread(len(STREAM) - 1, 2)


@pytest.mark.parametrize("form", ["plain", "lz4"])
def test_after_close(form: str) -> None:
    blob = opened(packed(form))
    blob.close()
    blob.close()
    with pytest.raises(Closed):
        blob.pread(0, 1)


def test_source_is_closed_when_opening_fails() -> None:
    broken = MemorySource(packed("lz4")[:700], "file.obd")
    with pytest.raises(FormatError):
        open_blob(broken)
    with pytest.raises(Closed):
        broken.pread(0, 1)


# ---- damage ----


def test_check_lists_every_damaged_block() -> None:
    raw = bytearray(packed("lz4"))
    table = blocks_of(bytes(raw))
    for block in (0, 4, 5, len(table) - 1):
        raw[table[block] + 1] ^= 0x40
    found = list(opened(bytes(raw)).check())
    assert [error.offset for error in found] == [table[n] for n in (0, 4, 5, -1)]
    assert {type(error) for error in found} == {BadChecksum}


def test_check_without_crc_finds_what_does_not_inflate() -> None:
    raw = bytearray(packed("no-crc"))
    first = blocks_of(bytes(raw))[0]
    raw[first : first + 8] = b"\xff" * 8
    (error,) = opened(bytes(raw)).check()
    assert isinstance(error, BadBlock)
    assert error.offset == first


def blocks_of(raw: bytes) -> list[int]:
    """Return where each stored block of a ZFile begins."""
    values, _ = zfile.read_values(zfile.Payload(MemorySource(raw, ""), 0, len(raw)))
    at, found = 512, []
    for n in range(values.index_size):
        entry = raw[values.index_offset + 4 * n :][:4]
        found.append(at)
        at += int.from_bytes(entry, "little")
    return found


def test_check_compares_header_and_trailer() -> None:
    raw = bytearray(packed("lz4"))
    other = writer.zfile(STREAM + bytes(4096))
    raw[-512:] = other[-512:]
    found = {error.what for error in opened(bytes(raw)).check()}
    assert "original_size in the ZFile trailer" in found
    assert "index_size in the ZFile trailer" in found
    raw[-512:] = bytes(512)
    (error,) = opened(bytes(raw)).check()
    assert isinstance(error, BadMagic)


@pytest.mark.parametrize("end", ["cut", "dirty"])
def test_check_looks_at_the_end_of_the_tar(end: str) -> None:
    raw = packed("lz4-64k-pax")
    blob = opened(raw[:-1] if end == "cut" else raw[:-1] + b"x")
    (error,) = blob.check()
    assert error.what == "the end of the tar"
    assert error.offset == blob.payload_offset + blob.payload_size


@pytest.mark.parametrize("stream", [STREAM, STREAM * 100, b""], ids=len)
@pytest.mark.parametrize("form", ["lz4", "plain"])
def test_progress_ends_with_all(form: str, stream: bytes) -> None:
    seen: list[tuple[int, int]] = []
    list(opened(packed(form, stream)).check(lambda *done: seen.append(done)))
    assert seen[-1] == (len(stream), len(stream))


# ---- headers that lie ----

LIES = [
    ({"size": 95}, BadHeader),
    ({"digest": 1}, BadChecksum),
    ({"index_crc": 1}, BadChecksum),
    ({"algo": 0}, Unsupported),
    ({"algo": 3}, Unsupported),
    ({"algo": 255}, Unsupported),
    ({"use_dict": 1}, Unsupported),
    ({"dict_size": 4096}, Unsupported),
    ({"verify": 2}, BadHeader),
    *(({"block_size": n}, BadHeader) for n in (0, 1, 2048, 4095, 4097, 12288)),
    *(({"block_size": n}, BadHeader) for n in (131072, 2**31, 2**32 - 1)),
    ({"block_size": 8192}, BadHeader),  # then the table has too many
    ({"index_size": 0}, BadHeader),
    ({"index_size": 22}, BadHeader),
    ({"index_size": 2**62}, BadHeader),
    ({"index_size": 2**64 - 1}, BadHeader),
    ({"index_offset": 0}, BadHeader),
    ({"index_offset": 511}, BadHeader),
    ({"index_offset": 2**64 - 1}, BadHeader),
    ({"original_size": 2**64 - 1}, BadHeader),
    ({"original_size": 2**64 - 1, "index_size": 2**52}, BadHeader),
    ({"original_size": 2**63, "index_size": 2**51, "index_offset": 512}, BadHeader),
]


@pytest.mark.parametrize(("changes", "kind"), LIES, ids=str)
@pytest.mark.parametrize("rewritten", [True, False], ids=["header", "trailer"])
def test_lies(
    changes: dict[str, int], kind: type[FormatError], rewritten: bool
) -> None:
    raw = writer.zfile(STREAM, ZFile(rewritten=rewritten, changes=changes))
    error = refused(raw)
    assert isinstance(error, kind)
    assert error.found is not None


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0x17, BadHeader),  # a header
        (0x12, BadHeader),  # not sealed
        (0x14, BadHeader),  # not data
        (0x36, Unsupported),  # with a compressed table
        (0x56, Unsupported),
        (0x16 | 1 << 63, Unsupported),
    ],
)
def test_flags_of_a_trailer(flags: int, kind: type[FormatError]) -> None:
    whole = writer.zfile(STREAM, ZFile(rewritten=False))
    lying = writer.zfile(STREAM, ZFile(rewritten=False, changes={"flags": flags}))
    assert isinstance(refused(whole[:-512] + lying[-512:]), kind)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0x1A, BadHeader),  # a trailer
        (0x19, BadHeader),  # not data
        (0x3B, Unsupported),  # with a compressed table
        (0x5B, Unsupported),
        (0x1B | 1 << 63, Unsupported),
    ],
)
def test_flags_of_a_header(flags: int, kind: type[FormatError]) -> None:
    lying = writer.zfile(STREAM, ZFile(changes={"flags": flags}))
    assert isinstance(refused(lying), kind)


def refused(raw: bytes) -> FormatError:
    """Return the error that opening raw ends with."""
    with pytest.raises(FormatError) as raised:
        opened(raw)
    assert raised.value.name == "file.obd"
    assert raised.value.offset is not None
    return raised.value


@pytest.mark.parametrize("delta", [-4, -1, 1, 4, 4096])
def test_table_elsewhere(delta: int) -> None:
    raw = writer.zfile(STREAM)
    offset = format.unpack_header(raw).index_offset + delta
    lying = writer.zfile(STREAM, ZFile(changes={"index_offset": offset}))
    with pytest.raises(FormatError):
        opened(lying)


@pytest.mark.parametrize("length", [0, 1, 4, 5000, 2**32 - 1])
def test_lengths_that_do_not_fit(length: int) -> None:
    """The digests are right and the flag for them is clear: the sum must tell."""
    how = ZFile(changes={"flags": 0x0B})
    raw = bytearray(writer.zfile(STREAM, how))
    at = format.unpack_header(raw).index_offset + 8
    raw[at : at + 4] = length.to_bytes(4, "little")
    with pytest.raises(BadJumpTable, match=r"file\.obd: offset \d+"):
        opened(bytes(raw))


@pytest.mark.parametrize(
    ("form", "known_by"),
    [("lz4", 8), ("no-crc", 8), ("bare-pax", 512), ("zstd-tar", 520)],
)
def test_cut_anywhere(form: str, known_by: int) -> None:
    """From the byte on that shows what it is, a shorter file is an error."""
    raw, chance = packed(form), Random(form)
    end = opened(raw).payload_offset + opened(raw).payload_size
    cuts = [chance.randrange(known_by, end) for _ in range(99)]
    for cut in [known_by, end - 1, *cuts]:
        refused(raw[:cut])


@given(st.sampled_from(["lz4", "zstd-tar", "lz4-64k-pax"]), st.data())
def test_flipped_bit_is_an_error_or_harmless(form: str, data: st.DataObject) -> None:
    raw = bytearray(packed(form))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    assert outcome(bytes(raw)) == STREAM


def outcome(raw: bytes) -> bytes:
    """Return what raw reads as, the right answer if that is an error of ours."""
    try:
        blob = opened(raw)
        # A wrapper that is not recognized any more is the layer's to refuse.
        return blob.pread(0, blob.size) if blob.codec else STREAM
    except FormatError:
        return STREAM
