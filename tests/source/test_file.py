# SPDX-License-Identifier: Apache-2.0
"""test_file - files of this host: what is refused, and which error that is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from obdengine import source
from obdengine.errors import Closed, ShortSource, SourceError, SourceMissing, UsageError
from obdengine.source import FileSource


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere: no such file") as raised:
        FileSource(tmp_path / "nowhere")
    assert raised.value.errno == errno.ENOENT


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="neither a regular file"):
        FileSource(tmp_path / "pipe")


def test_name_with_a_nul() -> None:
    with pytest.raises(SourceError):
        FileSource("a\0b")


def test_file_that_is_cut_while_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    opened = FileSource(path)
    os.truncate(path, 600)
    with pytest.raises(ShortSource, match="ended at offset 600, 400 bytes too early"):
        opened.pread(0, 1000)
    opened.close()


def test_descriptor_is_gone_after_close(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    opened = FileSource(path)
    fd = opened.fileno()
    assert fd is not None
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(Closed):
        opened.fileno()


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "file://localhost{}"])
def test_open(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a b"
    path.write_bytes(b"x")
    where = form.format(path)
    opened = source.open(where.replace(" ", "%20") if "file:" in where else where)
    assert opened.pread(0, 1) == b"x"
    opened.close()


def test_open_takes_a_colon_in_a_path(tmp_path: Path) -> None:
    path = tmp_path / "odd:name"
    path.write_bytes(b"x")
    opened = source.open(path)
    assert opened.size == 1
    opened.close()


@pytest.mark.parametrize("where", ["https://host/blob", "file://elsewhere/x"])
def test_open_refuses(where: str) -> None:
    with pytest.raises(UsageError):
        source.open(where)
