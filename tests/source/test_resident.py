# SPDX-License-Identifier: Apache-2.0
"""test_resident - a descriptor with what was fetched, and holes elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from obdengine.errors import Closed
from obdengine.source import FileSource, MemorySource, Resident, Source


def test_descriptor_has_what_was_fetched(opened: Source, content: bytes) -> None:
    resident = Resident(opened)
    resident.fetch(4096, 5000)
    assert os.pread(resident.fd, 5000, 4096) == content[4096:9096]
    assert os.fstat(resident.fd).st_size == len(content)
    resident.close()


def test_memory_starts_as_a_hole(content: bytes) -> None:
    resident = Resident(MemorySource(content, "content"))
    assert not resident.complete
    assert os.pread(resident.fd, 100, 0) == bytes(100)
    assert os.fstat(resident.fd).st_blocks == 0
    resident.close()


def test_file_is_its_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "content"
    path.write_bytes(content)
    opened = FileSource(path)
    resident = Resident(opened)
    assert resident.complete
    assert resident.fd == opened.fileno()
    resident.close()


def test_close(opened: Source) -> None:
    resident = Resident(opened)
    fd = resident.fd
    resident.close()
    resident.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(Closed):
        resident.fetch(0, 1)
