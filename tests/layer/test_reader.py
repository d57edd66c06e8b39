# SPDX-License-Identifier: Apache-2.0
"""test_reader - layers of every form, and files that are no layers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

import pytest

from obdengine.errors import (
    BadHeader,
    BadIndex,
    BadMagic,
    Closed,
    FormatError,
    SourceMissing,
    Unsupported,
)
from obdengine.layer import Layer, open_layer
from obdengine.segment import Segment
from obdengine.source import MemorySource
from tests.twins import invent, stack, writer
from tests.twins.record import pack_one
from tests.twins.writer import Lsmt, Run

SIZE = 1 << 20
SECTORS = SIZE // 512
UUID = "0123ABCD-0000-4000-8000-00000000000A"
PARENT = "ffffffff-0000-4000-8000-00000000000b"
RUNS = [Run(0, b"a" * 512), Run(3, zeroed=5), Run(8, b"b" * 1024)]


def opened(raw: bytes, name: str = "file.obd") -> Layer:
    return open_layer(MemorySource(raw, name))


def refused(raw: bytes, kind: type[FormatError]) -> FormatError:
    with pytest.raises(kind) as raised:
        opened(raw)
    assert raised.value.name == "file.obd"
    assert raised.value.offset is not None
    return raised.value


def changed(raw: bytes, at: int, code: str, value: int | bytes) -> bytes:
    lying = bytearray(raw)
    struct.pack_into("<" + code, lying, at % len(raw), value)
    return bytes(lying)


def test_facts() -> None:
    how = Lsmt(uuid=UUID, parent=PARENT, message="grüße".encode())
    layer = opened(writer.lsmt(RUNS, SIZE, how))
    assert layer.kind == "committed"
    assert layer.virtual_size == SIZE
    assert (layer.uuid, layer.parent_uuid) == (UUID.lower(), PARENT)
    assert layer.message == "grüße"
    assert (layer.entries, layer.padding) == (3, 253)
    assert (layer.data_size, layer.zero_size) == (3 * 512, 5 * 512)
    assert layer.index_offset == 4096 + 3 * 512
    assert list(layer.segments) == [
        Segment(0, 1, 8),
        Segment(3, 5, 9, True),
        Segment(8, 2, 9),
    ]
    assert "file.obd" in repr(layer)
    layer.close()
    with pytest.raises(Closed):
        layer.blob.pread(0, 1)


def test_no_names() -> None:
    layer = opened(writer.lsmt([], SIZE))
    assert (layer.uuid, layer.parent_uuid, layer.message) == (None, None, "")
    raw = writer.lsmt([], SIZE)
    for at in (0, 4096 + 4096):
        raw = changed(raw, at + 56, "74s", b"")
    layer = opened(raw)
    assert (layer.uuid, layer.parent_uuid) == (None, None)


@pytest.mark.parametrize("seed", range(60))
def test_random_forms(seed: int) -> None:
    """Every form that the twin writes, read by us and by the twin."""
    raw = invent.layer(Random(seed), SIZE, 30)
    layer, known = opened(raw), stack.open_stream(raw)
    assert list(layer.segments) == list(known.segments)
    assert layer.virtual_size == known.virtual_size
    assert not list(layer.check(threads=1))
    layer.close()


def test_golden(golden: Path) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())
    for facts in known["layers"]:
        layer = open_layer(folder / facts["committed"])
        assert layer.kind == "committed"
        assert layer.entries == facts["index_entries"]
        assert (layer.entries + layer.padding) % 256 == 0
        assert layer.uuid == facts["uuid"]
        assert layer.virtual_size == known["virtual_size"]
        assert not list(layer.check())
        layer.close()


def test_golden_sealed_in_place(golden: Path) -> None:
    sealed = open_layer(golden / "blocks-a" / "layer1.sealed")
    committed = open_layer(golden / "blocks-a" / "layer1.lsmt")
    assert (sealed.kind, sealed.padding) == ("sealed", 0)
    assert sealed.data_size == committed.data_size
    assert not list(sealed.check())
    sealed.close()
    committed.close()


def test_golden_merged_has_tags_that_do_not_count(golden: Path) -> None:
    merged = open_layer(golden / "blocks-a" / "merged.zfile")
    assert {segment.layer for segment in merged.segments} == {0}
    assert merged.entries == 289
    merged.close()


# ---- what is no layer ----

PLAIN = writer.lsmt(RUNS, SIZE)
TRAILER = len(PLAIN) - 4096


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        open_layer(tmp_path / "nowhere")


@pytest.mark.parametrize("raw", [b"", b"LSMT", b"\x7fELF" * 5000, bytes(10_000)])
def test_other_files(raw: bytes) -> None:
    assert "not a layer" in str(refused(raw, BadMagic))


def test_writable_layers_are_refused_with_a_reason() -> None:
    data = changed(PLAIN[:TRAILER], 28, "I", 3)
    assert "was not sealed" in str(refused(data, Unsupported))
    assert "was not sealed" in str(refused(data[:4096], Unsupported))
    index = changed(PLAIN, 28, "I", 1)
    assert "index file" in str(refused(index, Unsupported))
    sparse = changed(PLAIN, 28, "I", 19)
    assert "sparse" in str(refused(sparse, Unsupported))


def test_turbo_layer_is_refused_by_its_name() -> None:
    with pytest.raises(Unsupported, match="TurboOCI"):
        opened(PLAIN, "layer.ext4.fs.meta")


@pytest.mark.parametrize("end", [0, TRAILER], ids=["header", "trailer"])
@pytest.mark.parametrize(
    ("at", "code", "value", "kind"),
    [
        (0, "B", 0, BadMagic),
        (8, "B", 0, BadMagic),
        (24, "I", 389, BadHeader),
        (28, "I", 0x26 | 1, FormatError),  # bit 5: another's hybrid layers
        (28, "I", 0x0F, FormatError),  # bit 3: never used
        (28, "I", 0, BadHeader),
        (132, "B", 2, Unsupported),
        (133, "B", 0, Unsupported),
    ],
)
def test_lies(
    end: int, at: int, code: str, value: int, kind: type[FormatError]
) -> None:
    refused(changed(PLAIN, end + at, code, value), kind)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (32, 0),  # index_offset
        (32, 4095),
        (32, 4096 + 3 * 512 + 1),
        (32, 4096 + 3 * 512 - 512),
        (32, 2**64 - 1),
        (32, 2**64 - 4096),
        (40, 200),  # index_size
        (40, 257),
        (40, 0),
        (40, 1_000_001),
        (40, 2**60),
        (40, 2**64 - 1),
        (48, 511),  # virtual_size
        (48, SIZE + 512),
        (48, 0),
        (48, 2**59 + 512),
        (48, 2**64 - 512),
    ],
)
def test_sizes_that_do_not_fit(at: int, value: int) -> None:
    error = refused(changed(PLAIN, TRAILER + at, "Q", value), BadHeader)
    assert error.offset in (TRAILER + at, TRAILER + 32)
    assert error.expected is not None
    assert error.found is not None


def with_entries(*entries: bytes, virtual_size: int = SIZE) -> bytes:
    """Return a layer of three sectors of data with just these entries."""
    raw = bytearray(writer.lsmt(RUNS, virtual_size))
    index = 4096 + 3 * 512
    raw[index : index + 16 * len(entries)] = b"".join(entries)
    return bytes(raw)


@pytest.mark.parametrize(
    "second",
    [
        Segment(0, 1, 8),  # again
        Segment(9, 1, 8),  # overlaps
        Segment(12, 0, 8),  # empty
        Segment(12, 1, 7),  # in the header
        Segment(12, 1, 0),
        Segment(12, 4, 8),  # into the index
        Segment(12, 1, 11),
        Segment(12, 1, 2**55 - 1),
        Segment(SECTORS, 1, 8),  # past the disk
        Segment(SECTORS - 1, 2, 8),
        Segment(2**50 - 2, 1, 8),
        Segment(SECTORS - 1, 16383, 0, True),
    ],
)
def test_entries_that_break_a_rule(second: Segment) -> None:
    raw = with_entries(pack_one(Segment(8, 2, 8)), pack_one(second))
    error = refused(raw, BadIndex)
    assert error.offset == 4096 + 3 * 512 + 16
    packed = refused(writer.zfile(raw), BadIndex)
    assert packed.offset == error.offset
    assert "unpacked" in str(packed)


def test_disk_of_unknown_size_takes_any_entry() -> None:
    far = Segment(2**49, 1, 8)
    padding = [pack_one(writer.PADDING)] * 2
    layer = opened(with_entries(pack_one(far), *padding, virtual_size=0))
    assert layer.virtual_size == 0
    assert list(layer.segments) == [far]


def test_header_of_another_size() -> None:
    refused(changed(PLAIN, 48, "Q", SIZE * 2), BadHeader)
    sealed = writer.lsmt(RUNS, SIZE, Lsmt(sealed=True, padding=1))
    grown = changed(sealed, 48, "Q", SIZE // 2)
    assert opened(grown).virtual_size == SIZE


def test_check_compares_the_names() -> None:
    raw = changed(PLAIN, TRAILER + 134, "3s", b"new")
    raw = changed(raw, TRAILER + 56, "36s", UUID.encode())
    fields = [error.what for error in opened(raw).check()]
    assert fields == ["uuid in the trailer", "user_tag in the trailer"]


@pytest.mark.parametrize("text", [b"\xff" * 37, b"\x1b[2J\0", b"1234\0"])
def test_uuid_that_is_none(text: bytes) -> None:
    error = refused(changed(PLAIN, TRAILER + 56, f"{len(text)}s", text), BadHeader)
    assert "\x1b" not in str(error)


def test_cut_anywhere() -> None:
    for cut in [*range(0, 9), *range(9, len(PLAIN), 97), len(PLAIN) - 1]:
        refused(PLAIN[:cut], FormatError)


def test_source_is_closed_when_opening_fails() -> None:
    broken = MemorySource(PLAIN[:-1], "file.obd")
    with pytest.raises(FormatError):
        open_layer(broken)
    with pytest.raises(Closed):
        broken.pread(0, 1)
