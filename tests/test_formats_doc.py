# SPDX-License-Identifier: Apache-2.0
"""test_formats_doc - the tables of docs/formats say what the code says."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from obdengine.blob import format as zfile
from obdengine.blob import target_format as turbo
from obdengine.device import trace
from obdengine.layer import create_upper
from obdengine.layer import format as lsmt
from obdengine.oci import words
from obdengine.source import state
from tests.tools import ROOT

FIELD_ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\w+) \|", re.MULTILINE)
FLAG_ROW = re.compile(r"^\| (\d+) \| ([A-Z_]+) \|", re.MULTILINE)

PAGES = [("lsmt.md", lsmt), ("zfile.md", zfile)]


def text_of(page: str) -> str:
    return (ROOT / "docs/formats" / page).read_text()


def layout(fields: Sequence[tuple[str, str]]) -> list[tuple[int, int, str]]:
    """Return (offset, size, name) of each field of a packed struct."""
    rows, offset = [], 0
    for name, code in fields:
        size = struct.calcsize("<" + code)
        rows.append((offset, size, name))
        offset += size
    return rows


@pytest.mark.parametrize(("page", "words"), PAGES)
def test_fields(page: str, words: ModuleType) -> None:
    documented = [
        (int(offset), int(size), name)
        for offset, size, name in FIELD_ROW.findall(text_of(page))
    ]
    assert documented == layout(words.HEADER_FIELDS)


def test_fields_of_turbo() -> None:
    tables = turbo.HEADER_FIELDS, turbo.ENTRY_FIELDS, turbo.EXTENSION_FIELDS
    wanted = [row for table in tables for row in layout(table)]
    text = text_of("turbo.md")
    found = [(int(a), int(b), name) for a, b, name in FIELD_ROW.findall(text)]
    assert found == wanted
    for magic in (turbo.MAGIC, turbo.MARK):
        shown = [w.encode().decode("unicode_escape").encode() for w in _quoted(text)]
        assert magic in shown
    for number in (turbo.HEADER_SIZE, turbo.CRC_SIZE, turbo.SPAN, turbo.WINDOW):
        assert str(number) in text


def _quoted(text: str) -> list[str]:
    return re.findall(r"\| `([^`]+)` \|", text)


def test_fields_of_a_trace_and_a_cache() -> None:
    found = FIELD_ROW.findall(text_of("trace.md"))
    wanted = [*layout(trace.HEADER_FIELDS), *layout(trace.RECORD_FIELDS)]
    assert [(int(a), int(b), name) for a, b, name in found] == wanted
    assert str(trace.MAGIC) in text_of("trace.md")
    found = FIELD_ROW.findall(text_of("cache.md"))
    wanted = layout(state.HEADER_FIELDS)
    assert [(int(a), int(b), name) for a, b, name in found] == wanted
    for word in (state.MAGIC.decode(), state.UNIT, state.CHUNK, state.HEADER_SIZE):
        assert str(word) in text_of("cache.md")


@pytest.mark.parametrize(("page", "words"), PAGES)
def test_flags(page: str, words: ModuleType) -> None:
    documented = {name: 1 << int(bit) for bit, name in FLAG_ROW.findall(text_of(page))}
    assert documented == {name: getattr(words, name) for name in documented}
    assert sum(documented.values()) == words.KNOWN_FLAGS


@pytest.mark.parametrize(("page", "words"), PAGES)
def test_magic(page: str, words: ModuleType) -> None:
    assert words.MAGIC1.hex() in text_of(page)
    shown = re.search(r"magic0 \| `([^`]+)`", text_of(page))
    assert shown is not None
    assert shown[1].encode().decode("unicode_escape").encode() == words.MAGIC0


@pytest.mark.parametrize("form", ["append", "sparse"])
def test_files_of_a_writable_layer(form: str, tmp_path: Path) -> None:
    create_upper(tmp_path / "data", tmp_path / "index", virtual_size=512, form=form)
    found = re.findall(
        rf"^\| {form} \w+ \| (\d+) \|", text_of("upper.md"), re.MULTILINE
    )
    made = [(tmp_path / name).read_bytes() for name in ("data", "index")]
    assert [lsmt.unpack_header(raw).flags for raw in made] == [int(f) for f in found]


def test_words_of_container_images() -> None:
    page = text_of("oci.md")
    known = {
        value
        for key in words.__all__
        if isinstance(value := getattr(words, key), str)
        and value.startswith("containerd.io/")
    }
    assert set(re.findall(r"^\| `(containerd[^`]+)`", page, re.MULTILINE)) == known
    for kind in (words.INDEXES, words.MANIFESTS, words.CONFIGS):
        assert all(f"`{media_type}`" in page for media_type in kind)
