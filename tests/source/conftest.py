# SPDX-License-Identifier: Apache-2.0
"""conftest - one content, as every kind of source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from obdengine.source import FileSource, MemorySource, Source

CONTENT = Random(1).randbytes(3 * 4096 + 77)


@pytest.fixture
def content() -> bytes:
    return CONTENT


@pytest.fixture(params=["file", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A source that holds CONTENT."""
    if request.param == "file":
        path = tmp_path / "content"
        path.write_bytes(CONTENT)
        made: Source = FileSource(path)
    else:
        made = MemorySource(CONTENT, "content")
    yield made
    made.close()
