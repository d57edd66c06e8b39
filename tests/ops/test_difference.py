# SPDX-License-Identifier: Apache-2.0
"""test_difference - what goes into a layer, and what decides it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.layer import LayerWriter, Totals, format
from obdengine.layer.writer import MAX_RUN
from obdengine.ops.difference import Budget, write_difference
from tests.layer.kept import Kept
from tests.ops import images
from tests.ops.images import GRANULE
from tests.twins import stack

MIB = 1 << 20


class MemoryDisk:
    """Bytes as a disk; holes say which zeros ranges() leaves out."""

    name = "disk"

    def __init__(self, content: bytes, holes: bool = False) -> None:
        self.content = content
        self.size = len(content)
        self.holes = holes
        self.read = 0

    def pread_into(self, offset: int, buf: memoryview) -> None:
        self.read += len(buf)
        buf[:] = self.content[offset : offset + len(buf)].ljust(len(buf), b"\0")

    def is_hidden(self, offset: int, size: int) -> bool:
        return False

    def ranges(self) -> Iterator[tuple[int, int]]:
        if not self.holes:
            yield 0, self.size
            return
        for at in range(0, self.size, GRANULE):
            piece = self.content[at : at + GRANULE]
            if any(piece):
                yield at, at + len(piece)


def layer_of(
    disk: bytes,
    base: bytes | None = None,
    *,
    holes: tuple[bool, bool] = (False, False),
    limit: int = format.WRITER_MAX_ENTRIES,
) -> tuple[bytes, Totals]:
    out = Kept()
    layer = LayerWriter(out, virtual_size=len(disk), limit=limit)
    below = MemoryDisk(base, holes[1]) if base is not None else None
    write_difference(MemoryDisk(disk, holes[0]), below, layer)
    totals = layer.finish()
    return bytes(out.stream), totals


def kinds_of(raw: bytes, size: int) -> list[str]:
    """Return what the layer says of each granule."""
    kinds = ["absent"] * -(-size // GRANULE)
    for segment in stack.open_stream(raw).segments:
        for sector in range(segment.start, segment.end):
            kinds[sector // 8] = "zeroed" if segment.zeroed else "data"
    return kinds


@given(images.disks())
def test_alone_it_is_the_disk(disk: bytes) -> None:
    raw, totals = layer_of(disk)
    assert stack.flat([raw]) == disk
    for at, kind in enumerate(kinds_of(raw, len(disk))):
        piece = disk[at * GRANULE :][:GRANULE]
        assert kind == ("data" if any(piece) else "absent")
    assert totals.zero_size == 0


@given(images.disks(), images.disks())
def test_on_a_base_it_is_the_difference(disk: bytes, base: bytes) -> None:
    raw, _ = layer_of(disk, base)
    below, _ = layer_of(base)
    assert stack.flat([below, raw])[: len(disk)] == disk
    for at, kind in enumerate(kinds_of(raw, len(disk))):
        piece = disk[at * GRANULE :][:GRANULE]
        under = base[at * GRANULE :][: len(piece)].ljust(len(piece), b"\0")
        if piece == under:
            assert kind == "absent"
        else:
            assert kind == ("data" if any(piece) else "zeroed")


@given(images.disks(), st.none() | images.disks(), st.sampled_from([256, 512, 1 << 20]))
def test_holes_do_not_matter(disk: bytes, base: bytes | None, limit: int) -> None:
    known = layer_of(disk, base, limit=limit)
    for holes in [(True, False), (False, True), (True, True)]:
        assert layer_of(disk, base, limit=limit, holes=holes) == known


@pytest.mark.parametrize("seed", range(8))
def test_holes_do_not_matter_for_long_disks(seed: int) -> None:
    chance = Random(seed)
    # Stretches of nothing between crowded ones, with few entries to spend.
    parts = [
        images.random_disk(chance, 300) if chance.random() < 0.5 else bytes(3 * MIB)
        for _ in range(9)
    ]
    disk = b"".join(parts)[: 512 * 17_003]
    base = images.changed(chance, disk, 50) if seed % 2 else None
    for limit in (24, 60, 200):
        known = layer_of(disk, base, limit=limit)
        assert layer_of(disk, base, limit=limit, holes=(True, True)) == known
        assert known[1].entries <= limit


def test_holes_are_not_read() -> None:
    disk = MemoryDisk(bytes(64 * MIB) + b"x" * MIB + bytes(64 * MIB), holes=True)
    layer = LayerWriter(Kept(), virtual_size=disk.size)
    write_difference(disk, None, layer)
    assert disk.read == MIB


def test_progress() -> None:
    disk = MemoryDisk(bytes(3 * MIB + 512))
    layer = LayerWriter(Kept(), virtual_size=disk.size)
    seen: list[tuple[int, int]] = []
    write_difference(disk, None, layer, lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (disk.size, disk.size)


# ---- the budget ----


@pytest.mark.parametrize("limit", [16, 32, 256])
def test_worst_disk_stays_in_the_budget(limit: int) -> None:
    """Every other granule is data: each asks for an entry of its own."""
    disk = (images.KINDS[3] + bytes(GRANULE)) * 4096
    raw, totals = layer_of(disk, limit=limit)
    assert totals.entries <= limit
    assert stack.flat([raw]) == disk


def test_worst_difference_stays_in_the_budget() -> None:
    """Data and zeroed entries in turn leave no gap at all between entries."""
    disk = (images.KINDS[3] + bytes(GRANULE)) * 2048
    base = images.KINDS[4] * 4096
    raw, totals = layer_of(disk, base, limit=64)
    assert totals.entries <= 64
    assert stack.flat([raw]) == disk


def test_solid_disk_needs_no_more_than_was_kept_back() -> None:
    disk = b"x" * (20 * MAX_RUN * 512)
    _, totals = layer_of(disk, limit=20)
    assert totals.entries == 20


def test_granule_grows_with_the_entries_used() -> None:
    class Used:
        limit = 1 << 20
        entries = 0

    layer = Used()
    budget = Budget(layer, 512)  # type: ignore[arg-type]
    sizes = []
    for entries in range(0, layer.limit, 4096):
        layer.entries = entries
        granule = budget.granule()
        if not sizes or sizes[-1] != granule:
            sizes.append(granule)
    assert sizes == [GRANULE << 2 * step for step in range(7)] + [None]
