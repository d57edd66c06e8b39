# SPDX-License-Identifier: Apache-2.0
"""test_stamps - the judge of crashes lets nothing pass that it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nbd import stamps
from tests.nbd.stamps import SECTOR, Request, payload

BEFORE = bytes([7]) * 4 * SECTOR

# Sectors 1 and 2, written at 1 and acknowledged at 2; flushed from 3 to 4; then
# written again at 5. FUA and zeros to sector 3, at 7.
FIRST = Request("write", 1, 2, 1, 2, False)
FLUSH = Request("flush", 0, 0, 3, 4, False)
SECOND = Request("write", 1, 2, 5, 6, False)
ZERO = Request("zero", 3, 1, 7, 8, True)
ROWS = [ZERO, FLUSH, SECOND, FIRST]


def disk(*sectors: bytes) -> bytes:
    return b"".join(sectors)


OLD, ZEROS = BEFORE[:SECTOR], bytes(SECTOR)
ONE = {at: payload(at, 1, 1) for at in (1, 2)}
FIVE = {at: payload(at, 1, 5) for at in (1, 2)}
MIXED = FIVE[1][:256] + ONE[1][256:]


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (disk(OLD, FIVE[1], FIVE[2], ZEROS), 0),
        (disk(OLD, ONE[1], FIVE[2], ZEROS), 1),
        (disk(OLD, ONE[1], ONE[2], ZEROS), 2),
    ],
)
def test_what_may_be(after: bytes, lost: int) -> None:
    assert stamps.judge(BEFORE, ROWS, after) == ([], 3, lost)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (disk(OLD, OLD, FIVE[2], ZEROS), "sector 1: as it was at first"),
        (disk(OLD, FIVE[1], ZEROS, ZEROS), "sector 2: zeros"),
        (disk(OLD, MIXED, FIVE[2], ZEROS), "sector 1: a mixture"),
        (disk(OLD, FIVE[2], FIVE[1], ZEROS), "sector 1: stamp (2, 5)"),
        (disk(ONE[1], FIVE[1], FIVE[2], ZEROS), "sector 0: stamp (1, 1)"),
        (disk(OLD, FIVE[1], FIVE[2], OLD), "sector 3: as it was"),
    ],
)
def test_what_must_not_be(after: bytes, said: str) -> None:
    assert stamps.judge(BEFORE, ROWS, after).wrong[0].startswith(said)


@pytest.mark.parametrize(
    "rows",
    [
        [FIRST, FLUSH._replace(done=None), ZERO],
        [FIRST._replace(done=None), FLUSH, ZERO],
        [FIRST._replace(done=4), FLUSH._replace(sent=2), ZERO],
    ],
)
def test_write_that_no_flush_covers_may_be_lost(rows: list[Request]) -> None:
    after = disk(OLD, OLD, OLD, ZEROS)
    assert stamps.judge(BEFORE, rows, after) == ([], 3, 2)


def test_journal_is_kept(tmp_path: Path) -> None:
    stamps.save(tmp_path / "journal", ROWS)
    assert stamps.load(tmp_path / "journal") == ROWS
