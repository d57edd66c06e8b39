# SPDX-License-Identifier: Apache-2.0
"""
kernels - the C core and its twins with one face, for tests that run over both.

Lists in, lists out; what is only plumbing in the door to C is hidden here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from obdengine.errors import CoreError
from obdengine.segment import Segment
from tests.twins import crc32c, jump, record, table, zblock


class Python:
    """The twins."""

    crc32c = staticmethod(crc32c.crc32c)
    encode_blocks = staticmethod(zblock.encode_blocks)
    decode_block = staticmethod(zblock.decode_block)
    unpack = staticmethod(record.unpack)
    pack = staticmethod(record.pack)
    merge = staticmethod(table.merge)
    find = staticmethod(table.find)
    offsets = staticmethod(jump.offsets)


class Core:
    """The C core."""

    def __init__(self) -> None:
        from obdengine import _core

        self._core = _core
        self.crc32c = _core.crc32c
        self.decode_block = _core.decode_block

    def encode_blocks(self, data: bytes, **how: int) -> tuple[bytes, list[int]]:
        stored, lengths = self._core.encode_blocks(data, **how)
        return bytes(stored), list(lengths)

    def unpack(self, raw: bytes, **bounds: object) -> list[Segment]:
        return list(self._core.Segments.unpack(raw, **bounds))

    def pack(self, segments: Sequence[Segment]) -> bytes:
        return self._core.Segments.from_list(segments).pack()

    def merge(self, layers: Sequence[Sequence[Segment]]) -> list[Segment]:
        made = [self._core.Segments.from_list(layer) for layer in layers]
        return list(self._core.merge(made))

    def find(self, segments: Sequence[Segment], sector: int) -> int:
        made = self._core.Segments.from_list(segments)
        return self._core.SegMap(made).find(sector)

    def offsets(self, raw: bytes, *, step: int = 1 << 20, **how: object) -> list[int]:
        how = {"name": "", "table_offset": 0} | how
        how["original_size"] = size = how.pop("size")
        blocks = -(-size // how["block_size"])
        made = self._core.JumpTable(blocks, **how)
        for at in range(0, len(raw), step):
            made.feed(raw[at : at + step])
        made.finish()
        return [made.offset(block) for block in range(len(made) + 1)]


def kernel(name: str) -> object:
    """Return the kernels called "c" or "python".

    Where the core is not built "c" skips; OBD_NO_SKIP=1 makes that a failure.
    """
    if name == "python":
        return Python()
    try:
        return Core()
    except CoreError as error:
        pytest.skip(f"the C core is not built: {error}")
