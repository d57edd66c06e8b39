# SPDX-License-Identifier: Apache-2.0
"""test_special_files - things that are no files, given as layers: nothing waits."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import obdengine
from obdengine.errors import ObdError, SourceError
from tests.hostile import victims

pytestmark = pytest.mark.timeout(20)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


MAKERS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": _socket,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "tty": lambda path: path.symlink_to("/dev/tty"),
    "loop": _loop,
    "dangling": _dangling,
    "proc": lambda path: path.symlink_to("/proc/self/mem"),
    "sys": lambda path: path.symlink_to("/sys/kernel/notes"),
    "empty": Path.touch,
}


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


every_kind = pytest.mark.parametrize("kind", MAKERS)


@every_kind
def test_as_layer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / victims.NAME
    MAKERS[kind](path)
    with pytest.raises(ObdError) as raised:
        obdengine.open(path)
    victims.judge(raised.value)


@every_kind
def test_as_upper_of_two_layers(tmp_path: Path, kind: str) -> None:
    good, bad = tmp_path / "good.obd", tmp_path / victims.NAME
    good.write_bytes(victims.VICTIMS[0].raw)
    MAKERS[kind](bad)
    before = descriptors()
    with pytest.raises(ObdError):
        obdengine.open([good, bad])
    assert descriptors() == before


@every_kind
@pytest.mark.parametrize("key", ["file", "dir"])
def test_as_lower(tmp_path: Path, kind: str, key: str) -> None:
    bad = tmp_path / ("overlaybd.commit" if key == "dir" else victims.NAME)
    MAKERS[kind](bad)
    config = tmp_path / "config.v1.json"
    name = "." if key == "dir" else victims.NAME
    config.write_text(json.dumps({"lowers": [{key: name}]}))
    with pytest.raises(ObdError):
        obdengine.open(config)


@every_kind
def test_as_config(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.v1.json"
    MAKERS[kind](path)
    with pytest.raises(ObdError) as raised:
        obdengine.open(path)
    assert str(path) in str(raised.value)


def test_file_cut_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / victims.NAME
    path.write_bytes(victims.VICTIMS[0].raw)
    with obdengine.open(path) as device:
        os.truncate(path, 5000)
        with pytest.raises(SourceError) as raised:
            device.pread(0, device.size)
    victims.judge(raised.value)
