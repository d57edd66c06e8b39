# SPDX-License-Identifier: Apache-2.0
"""test_check - all of the damage, layer by layer, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from obdengine.errors import BadChecksum, BadHeader, BadIndex, BadMagic, SourceMissing
from obdengine.ops.check import check_image
from tests.twins import writer
from tests.twins.writer import Run

SIZE = 1 << 20
LSMT = writer.lsmt([Run(0, Random(2).randbytes(30 * 512)), Run(99, zeroed=5)], SIZE)
ZFILE = writer.zfile(LSMT)


def files(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"{number}.obd" for number in range(len(contents))]
    for path, raw in zip(paths, contents, strict=True):
        path.write_bytes(raw)
    return paths


def flipped(raw: bytes, *at: int) -> bytes:
    damaged = bytearray(raw)
    for offset in at:
        damaged[offset] ^= 1
    return bytes(damaged)


def test_clean(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = files(tmp_path, LSMT, ZFILE)
    report = check_image(paths, lambda *done: seen.append(done))
    assert report.damage == []
    assert report.layers == 2
    assert report.checked == 2 * len(LSMT)
    assert report.blocks == -(-len(LSMT) // 4096)
    assert seen == sorted(seen)
    assert seen[-1] == (len(LSMT) + len(ZFILE),) * 2


def test_every_layer_is_looked_at(tmp_path: Path) -> None:
    damaged = flipped(ZFILE, 1500, 9000)
    paths = files(tmp_path, damaged, LSMT[:-1], ZFILE, b"nothing")
    report = check_image(paths)
    found = [(Path(error.name).name, type(error)) for error in report.damage]
    assert found == [
        ("0.obd", BadChecksum),
        ("0.obd", BadChecksum),
        ("1.obd", BadMagic),
        ("3.obd", BadMagic),
    ]
    assert report.layers == 4


def test_blocks_of_what_is_no_good_layer_are_checked(tmp_path: Path) -> None:
    """The first block has the layer's header: it cannot be opened."""
    (path,) = files(tmp_path, flipped(ZFILE, 520, 9000))
    offsets = [error.offset for error in check_image([path]).damage]
    assert len(offsets) == len(set(offsets)) == 2
    wrong = bytearray(LSMT)
    wrong[4096 + 30 * 512 + 7] ^= 0x80
    (path,) = files(tmp_path, flipped(writer.zfile(bytes(wrong)), 9000))
    kinds = [type(error) for error in check_image([path]).damage]
    assert kinds == [BadIndex, BadChecksum]


def test_header_is_compared_with_the_trailer(tmp_path: Path) -> None:
    other = writer.lsmt([], SIZE, writer.Lsmt(message=b"other"))
    paths = files(tmp_path, LSMT[:4096] + other[4096:])
    (error,) = check_image(paths).damage
    assert isinstance(error, BadHeader)
    assert error.what == "user_tag in the trailer"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        check_image([tmp_path / "nowhere"])
