# SPDX-License-Identifier: Apache-2.0
"""test_compare - the first byte that differs, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from obdengine.errors import FormatError
from obdengine.ops.compare import first_difference, verify

MIB = 1 << 20


class MadeUp:
    """A disk in memory that says of some ranges that they may not be zero."""

    def __init__(self, content: bytes, *ranges: tuple[int, int]) -> None:
        self.name = "made up"
        self.size = len(content)
        self._content = content
        self._ranges = ranges or ((0, len(content)),)

    def pread_into(self, offset: int, buf: memoryview) -> None:
        buf[:] = self._content[offset : offset + len(buf)].ljust(len(buf), b"\0")

    def ranges(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)


NOISE = Random(1).randbytes(5 * MIB + 512)


def changed(at: int) -> bytes:
    copy = bytearray(NOISE)
    copy[at] ^= 4
    return bytes(copy)


@pytest.mark.parametrize("at", [0, 1, MIB - 1, MIB, 3 * MIB + 77, len(NOISE) - 1])
def test_first_difference(at: int) -> None:
    other = bytearray(changed(at))
    other[-1] ^= 1
    assert first_difference(MadeUp(NOISE), MadeUp(bytes(other))) == at


def test_equal() -> None:
    shown: list[tuple[int, int]] = []
    pieces = [(n * MIB // 2, (n + 1) * MIB // 2) for n in range(10)]
    other = MadeUp(NOISE, *pieces, (5 * MIB, len(NOISE)))
    assert first_difference(MadeUp(NOISE), other, lambda *x: shown.append(x)) is None
    assert shown[-1] == (len(NOISE), len(NOISE))
    assert shown == sorted(shown)


@pytest.mark.parametrize("swapped", [True, False])
def test_only_one_has_anything(swapped: bool) -> None:
    empty = MadeUp(bytes(len(NOISE)), (0, 0))
    full = MadeUp(bytes(4 * MIB) + NOISE[: MIB + 512], (3 * MIB, len(NOISE)))
    disks = (full, empty) if swapped else (empty, full)
    expected = 4 * MIB + next(n for n, byte in enumerate(NOISE) if byte)
    assert first_difference(*disks) == expected


@pytest.mark.parametrize("swapped", [True, False])
def test_one_that_ends_earlier(swapped: bool) -> None:
    disks = [MadeUp(NOISE), MadeUp(NOISE[: 2 * MIB])]
    if swapped:
        disks.reverse()
    assert first_difference(*disks) == 2 * MIB
    with pytest.raises(FormatError, match="does not read as") as caught:
        verify(*disks)
    assert caught.value.offset == 2 * MIB
