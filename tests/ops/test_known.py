# SPDX-License-Identifier: Apache-2.0
"""test_known - the database remembers, and is never believed without a look."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from obdengine.ops.chain import chain_ids, uuid_of
from obdengine.ops.known import KnownLayers, default_folder, key_of
from tests.oci_images import digest_of

DATA = b"a layer" * 1000
DIGEST = digest_of(DATA)
FACTS = {"digest": DIGEST, "size": len(DATA), "more": [1]}


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer.obd"
    path.write_bytes(DATA)
    return path


def test_what_was_noted_is_found(tmp_path: Path, layer: Path) -> None:
    known = KnownLayers(tmp_path / "cache" / "deep")
    assert known.facts("key") is None
    assert known.file(FACTS["digest"], len(DATA)) is None
    assert not known.path.exists()
    known.note("key", FACTS, {DIGEST: layer})
    again = KnownLayers(tmp_path / "cache" / "deep")
    assert again.facts("key") == FACTS
    assert again.facts("other") is None
    assert again.file(FACTS["digest"], len(DATA)) == layer


def test_relative_paths_are_kept_as_absolute_ones(
    tmp_path: Path, layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    KnownLayers(tmp_path).note("key", FACTS, {DIGEST: Path("layer.obd")})
    monkeypatch.chdir("/")
    assert KnownLayers(tmp_path).file(FACTS["digest"], len(DATA)) == layer


@pytest.mark.parametrize("change", ["removed", "changed", "longer", "folder"])
def test_file_that_is_not_it_any_more(tmp_path: Path, layer: Path, change: str) -> None:
    known = KnownLayers(tmp_path)
    other = tmp_path / "other.obd"
    other.write_bytes(DATA)
    known.note("key", FACTS, {DIGEST: layer})
    known.note("key", FACTS, {DIGEST: other})
    layer.unlink()
    if change == "changed":
        layer.write_bytes(DATA[:-1] + b"x")
    elif change == "longer":
        layer.write_bytes(DATA + b"x")
    elif change == "folder":
        layer.mkdir()
    assert known.file(FACTS["digest"], len(DATA)) == other
    other.unlink()
    assert known.file(FACTS["digest"], len(DATA)) is None


def test_damaged_database_is_begun_anew(tmp_path: Path, layer: Path) -> None:
    known = KnownLayers(tmp_path)
    known.note("key", FACTS, {DIGEST: layer})
    known.path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert known.facts("key") is None
    known.note("key", FACTS, {DIGEST: layer})
    assert known.facts("key") == FACTS


def test_database_that_cannot_be(tmp_path: Path, layer: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/nowhere")):
        known = KnownLayers(folder)
        known.note("key", FACTS, {DIGEST: layer})
        assert known.facts("key") is None


def _note_many(folder: Path, layer: Path, start: int) -> None:
    for number in range(start, start + 20):
        KnownLayers(folder).note(f"key {number}", FACTS, {DIGEST: layer})


def test_many_processes(tmp_path: Path, layer: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "cache"
    jobs = [
        context.Process(target=_note_many, args=(folder, layer, 20 * n))
        for n in range(4)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    known = KnownLayers(folder)
    assert all(known.facts(f"key {number}") == FACTS for number in range(80))


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert default_folder() == Path("/some/where/obdengine")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == Path(os.environ["HOME"]) / ".cache/obdengine"


def test_key_depends_on_every_word() -> None:
    keys = {
        key_of(words)
        for words in ({}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": None})
    }
    assert len(keys) == 5
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_chain_ids() -> None:
    one, two = digest_of(b"1"), digest_of(b"2")
    chained = digest_of(f"{one} {two}".encode())
    assert chain_ids([]) == []
    assert chain_ids([one, two]) == [one, chained]
    assert chain_ids([two], one) == [chained]
    digits = one.removeprefix("sha256:")
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])
    assert uuid_of(one) == "-".join(parts)
