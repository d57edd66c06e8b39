# SPDX-License-Identifier: Apache-2.0
"""test_format - the words of ZFile and tar, on bytes that overlaybd wrote."""

from __future__ import annotations

from pathlib import Path

from obdengine.blob import format


def test_fields_and_tuples_have_the_same_names() -> None:
    assert format.ZHeader._fields == tuple(name for name, _ in format.HEADER_FIELDS)
    assert format.TarHeader._fields == tuple(name for name, _ in format.TAR_FIELDS)


def test_sizes() -> None:
    assert format.HEADER_SIZE == 96
    assert format.TAR_SIZE == format.TAR_BLOCK
    assert format.OFFSETS["digest"] == 28
    assert format.OFFSETS["block_size"] == 72
    assert format.OFFSETS["verify"] == 88


def test_golden_header_packs_to_the_same_bytes(golden: Path) -> None:
    raw = (golden / "blocks-a" / "layer1.lsmt").read_bytes()
    for slot in (raw[:512], raw[-512:]):
        header = format.unpack_header(slot)
        assert header.magic0 + header.magic1 == format.MAGIC0 + format.MAGIC1
        assert format.pack_header(header) == slot
    assert header.flags == format.DATA | format.SEALED | format.DIGEST


def test_golden_tar_header_packs_to_the_same_bytes(golden: Path) -> None:
    raw = (golden / "blocks-a" / "layer2.lsmt").read_bytes()
    for slot in (raw[:512], raw[1024:1536]):
        assert format.pack_tar(format.unpack_tar(slot)) == slot
