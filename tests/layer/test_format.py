# SPDX-License-Identifier: Apache-2.0
"""test_format - the words of LSMT, on bytes that overlaybd wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from obdengine.layer import format


def test_fields_and_tuple_have_the_same_names() -> None:
    assert format.Header._fields == tuple(name for name, _ in format.HEADER_FIELDS)


def test_sizes() -> None:
    assert format.HEADER_SIZE == 390
    assert format.OFFSETS["uuid"] == 56
    assert format.OFFSETS["user_tag"] == 134
    assert format.WRITER_MAX_ENTRIES == 999_936


@pytest.mark.parametrize("name", ["layer0.lsmt", "layer1.sealed"])
def test_golden_packs_to_the_same_bytes(golden: Path, name: str) -> None:
    raw = (golden / "blocks-a" / name).read_bytes()
    for slot in (raw[:4096], raw[-4096:]):
        assert format.pack_header(format.unpack_header(slot)) == slot
