# SPDX-License-Identifier: Apache-2.0
"""test_cli - hostile images through the command: one sentence, the right exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import victims
from tests.hostile.test_lies import (
    FIRST,
    GOOD,
    INDEX_LIES,
    STREAM,
    with_index,
    with_table,
)
from tests.running import Ran
from tests.twins import writer
from tests.twins.writer import ZFile

Obd = Callable[..., Ran]

GOOD_RAW = writer.zfile(STREAM)

DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(9000),
    "cut": GOOD_RAW[:-100],
    "block size 0": writer.zfile(STREAM, ZFile(changes={"block_size": 0})),
    "2^64 bytes": writer.zfile(STREAM, ZFile(changes={"original_size": (1 << 64) - 1})),
    "table past the end": with_table([*GOOD[:-1], 4000]),
    "overlap": with_index([FIRST, INDEX_LIES["overlaps"]]),
    "past the data": with_index([FIRST, INDEX_LIES["past the data"]]),
    "pax": writer.tar(GOOD_RAW, "pax", 1 << 40),
    "flip": GOOD_RAW[:700] + bytes([GOOD_RAW[700] ^ 1]) + GOOD_RAW[701:],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / victims.NAME


def one_sentence(ran: Ran) -> None:
    """Assert that standard error is one line, which names the file."""
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("obd: ")
    assert victims.NAME in lines[0]
    assert len(lines[0]) < 600


# A map needs no data, so a flip in a block of data does not concern it.
@pytest.mark.parametrize("kind", sorted(DAMAGED.keys() - {"flip"}))
def test_map(obd: Obd, path: Path, kind: str) -> None:
    path.write_bytes(DAMAGED[kind])
    one_sentence(obd("map", path, code=3))


@pytest.mark.parametrize("kind", DAMAGED)
def test_check_lists_the_damage(obd: Obd, path: Path, kind: str) -> None:
    path.write_bytes(DAMAGED[kind])
    ran = obd("check", "--output", "json", "--no-progress", path, code=3)
    assert victims.NAME in ran.text
    assert ran.json()


@pytest.mark.parametrize("kind", ["cut", "flip"])
def test_convert_leaves_nothing(obd: Obd, path: Path, kind: str) -> None:
    path.write_bytes(DAMAGED[kind])
    for words in (["-O", "raw"], []):
        target = path.with_name("out")
        one_sentence(obd("convert", "--no-progress", *words, path, target, code=3))
        assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("command", ["info", "map", "check"])
def test_things_that_are_no_files(obd: Obd, path: Path, command: str) -> None:
    os.mkfifo(path)
    one_sentence(obd(command, path, code=1))
    path.unlink()
    path.mkdir()
    one_sentence(obd(command, path, code=1))


@pytest.mark.parametrize(
    "name", ["\ud800", "\nobd: all is well", "x" * 300, "a\x1b[31mb"]
)
def test_names_from_a_configuration(obd: Obd, tmp_path: Path, name: str) -> None:
    """Whoever writes a configuration does not write to somebody's terminal."""
    path = tmp_path / "config.v1.json"
    path.write_text(json.dumps({"lowers": [{"file": name}]}))
    ran = obd("info", path, code=None)
    assert ran.code in (1, 2)
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "\x1b" not in ran.err


def test_message_of_any_bytes(obd: Obd, path: Path) -> None:
    message = b"\x1b]0;owned\x07\n\xff\xfe obd"
    path.write_bytes(victims.stream(writer.Lsmt(message=message)))
    for output in ("human", "json"):
        ran = obd("info", "--output", output, path)
        assert b"\x1b" not in ran.out
        assert b"\x07" not in ran.out
