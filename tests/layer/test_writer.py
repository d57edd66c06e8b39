# SPDX-License-Identifier: Apache-2.0
"""test_writer - layers that we write: what overlaybd would, and what it can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.blob import open_blob
from obdengine.errors import LimitError, UsageError
from obdengine.layer import LayerWriter, Totals, format, open_layer
from obdengine.layer.writer import MAX_RUN
from obdengine.segment import PADDING_START, Segment
from obdengine.source import FileSource, MemorySource
from tests.layer.kept import Kept
from tests.twins import stack
from tests.twins.record import unpack_one

SIZE = 1 << 20


Step = tuple[int, int, bool]  # gap, length, zeroed


def written(steps: list[Step], **how: Any) -> tuple[bytes, Totals, bytes]:
    """Return a layer of steps, its totals, and the disk as it must read."""
    out = Kept()
    layer = LayerWriter(out, **({"virtual_size": SIZE} | how))
    disk = bytearray(how.get("virtual_size", SIZE))
    start = 0
    for number, (gap, length, zeroed) in enumerate(steps):
        start += gap
        if zeroed:
            layer.zero(start, length)
        else:
            data = bytes([number % 255 + 1]) * (512 * length)
            disk[start * 512 : start * 512 + len(data)] = data
            layer.data(start, memoryview(data))
        start += length
    totals = layer.finish()
    assert out.finished
    return bytes(out.stream), totals, bytes(disk)


steps = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 40), st.booleans()), max_size=40
)


@given(steps)
def test_round_trip(steps: list[Step]) -> None:
    raw, totals, disk = written(steps)
    assert stack.flat([raw]) == disk
    layer = open_layer(MemorySource(raw, "layer"))
    assert layer.entries == totals.entries
    assert (layer.data_size, layer.zero_size) == (totals.data_size, totals.zero_size)
    assert layer.blob.size == totals.stream_size == len(raw)
    assert not list(layer.check(threads=1))
    layer.close()


@given(steps)
def test_form(steps: list[Step]) -> None:
    """Dense data in the disk's order, runs joined, padding counted."""
    raw, totals, _ = written(steps)
    trailer = format.unpack_header(raw[-4096:])
    assert trailer.index_size % 256 == 0
    assert trailer.index_offset + 16 * trailer.index_size + 4096 == len(raw)
    index = raw[trailer.index_offset : -4096]
    entries = [unpack_one(index[at : at + 16]) for at in range(0, len(index), 16)]
    real, padding = entries[: totals.entries], entries[totals.entries :]
    assert set(padding) <= {Segment(PADDING_START, 0, 0)}
    moffset, last = 8, Segment(-1, 0, 0)
    for entry in real:
        assert entry.start > last.end or entry.zeroed != last.zeroed
        assert entry.moffset == moffset
        moffset += 0 if entry.zeroed else entry.length
        last = entry
    assert trailer.index_offset == moffset * 512


@pytest.mark.parametrize("number", range(6))
def test_golden_layer_comes_out_the_same(golden: Path, number: int) -> None:
    """Give our writer what a golden layer says: the stream is equal, byte for byte."""
    blob = open_blob(FileSource(golden / "blocks-a" / f"layer{number}.lsmt"))
    known = blob.pread(0, blob.size)
    layer = open_layer(MemorySource(known, "layer"))
    out = Kept()
    ours = LayerWriter(
        out,
        virtual_size=layer.virtual_size,
        uuid=layer.uuid,
        parent_uuid=layer.parent_uuid,
        message=layer.message,
    )
    for segment in layer.segments:
        if segment.zeroed:
            ours.zero(segment.start, segment.length)
        else:
            at = segment.moffset * 512
            ours.data(segment.start, known[at : at + segment.length * 512])
    ours.finish()
    assert bytes(out.stream) == known
    layer.close()
    blob.close()


def test_long_runs_are_cut_where_4k_blocks_are() -> None:
    size = 2 * MAX_RUN * 512 + 512
    raw, totals, disk = written([(0, 2 * MAX_RUN + 1, False)], virtual_size=size)
    assert totals.entries == 3
    assert MAX_RUN % 8 == 0
    assert MAX_RUN < 16383
    assert stack.flat([raw]) == disk


def test_pieces_of_a_run_are_joined() -> None:
    _, totals, _ = written([(0, 5, True), (0, 9, True), (0, 1, False)])
    assert totals == Totals(2, 512, 14 * 512, 4096 + 512 + 4096 + 4096)


def test_nothing_at_all() -> None:
    raw, totals, disk = written([])
    assert totals == Totals(0, 0, 0, 8192)
    assert stack.flat([raw]) == disk


def test_limit() -> None:
    steps = [(1, 1, True)] * 256
    assert written(steps, limit=256)[1].entries == 256
    with pytest.raises(LimitError, match="256 index entries"):
        written([*steps, (1, 1, True)], limit=256)


def test_names() -> None:
    raw, _, _ = written([], uuid="0123abcd-0000-4000-8000-00000000000a", message="ä")
    header = format.unpack_header(raw)
    assert header.uuid == b"0123ABCD-0000-4000-8000-00000000000A\0"
    assert header.parent_uuid == format.NO_UUID.encode() + b"\0"
    assert header.user_tag.rstrip(b"\0") == "ä".encode()


@pytest.mark.parametrize(
    "options",
    [
        {"uuid": "nonsense"},
        {"parent_uuid": "0123"},
        {"message": "x" * 256},
        {"message": "a\0b"},
        {"virtual_size": 100},
        {"virtual_size": -512},
        {"virtual_size": 2**59 + 512},
    ],
    ids=str,
)
def test_values_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LayerWriter(Kept(), **({"virtual_size": SIZE} | options))


def test_longest_message() -> None:
    raw, _, _ = written([], message="x" * 255)
    assert open_layer(MemorySource(raw, "layer")).message == "x" * 255


@pytest.mark.parametrize("start", [0, 4, SIZE // 512])
def test_runs_out_of_place(start: int) -> None:
    layer = LayerWriter(Kept(), virtual_size=SIZE)
    layer.data(0, bytes(5 * 512))
    with pytest.raises(UsageError):
        layer.zero(start, 1)


def test_half_a_sector() -> None:
    with pytest.raises(UsageError):
        LayerWriter(Kept(), virtual_size=SIZE).data(0, bytes(100))
