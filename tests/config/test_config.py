# SPDX-License-Identifier: Apache-2.0
"""test_config - which files a configuration means, and how it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from obdengine.config import ImageConfig, Room, UpperFiles, resolve
from obdengine.errors import ConfigError, SourceError, SourceMissing, UsageError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(value: Any, name: str = "config.v1.json") -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"layer")
    return path


def test_file_before_dir(tmp_path: Path, write: Any) -> None:
    named = make(tmp_path / "a.obd")
    make(tmp_path / "d" / "overlaybd.commit")
    config = write({"lowers": [{"file": str(named), "dir": "d"}]})
    assert resolve([config]).files == [named]


@pytest.mark.parametrize(
    "names",
    [
        ["overlaybd.sealed"],
        [".commit", "overlaybd.sealed"],
        ["overlaybd.commit", ".commit", "overlaybd.sealed"],
    ],
)
def test_dir_in_order_of_preference(
    tmp_path: Path, write: Any, names: list[str]
) -> None:
    for name in names:
        make(tmp_path / "d" / name)
    config = write({"lowers": [{"dir": str(tmp_path / "d"), "digest": "sha256:1"}]})
    assert resolve([config]).files == [tmp_path / "d" / names[0]]


def test_relative_paths_count_from_the_configuration(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "layers" / "a.obd")
    write({"lowers": [{"file": "layers/a.obd"}]})
    monkeypatch.chdir("/")
    assert resolve([tmp_path / "config.v1.json"]).files == [
        tmp_path / "layers" / "a.obd"
    ]


def test_layer_files_stay_as_they_are(tmp_path: Path) -> None:
    paths = [make(tmp_path / name) for name in ("b", "a")]
    assert resolve(paths).files == paths


def test_a_configuration_by_another_name(tmp_path: Path, write: Any) -> None:
    layer = make(tmp_path / "a")
    config = write({"lowers": [{"file": str(layer)}]}, "image")
    assert resolve([config]).files == [layer]


def test_a_disk_that_starts_with_a_brace(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b'{\xbf\x00"')
    assert resolve([disk]).files == [disk]


def test_unknown_keys_are_left_alone(tmp_path: Path, write: Any) -> None:
    layer = make(tmp_path / "a")
    lowers = [{"file": str(layer), "new": 1, "size": None}]
    config = write({"lowers": lowers, "other": {"x": []}, "upper": None})
    assert ImageConfig.load(config).lowers[0].file == str(layer)
    assert resolve([config]).files == [layer]


def test_upper(tmp_path: Path, write: Any) -> None:
    upper = {"data": "u.data", "index": "/i", "target": ""}
    found = resolve([write({"upper": upper, "obdengine": {"maxSize": 4096}})])
    assert found.layers == []
    assert found.upper == UpperFiles(tmp_path / "u.data", Path("/i"))
    assert found.room == Room(max_size=4096)


def test_layer_of_a_registry(tmp_path: Path, write: Any) -> None:
    lowers = [{"digest": "sha256:1", "size": 7}, {"digest": "sha256:2", "dir": "d"}]
    for url in ("http://host/v2/x/blobs", "http://host/v2/x/blobs/", None):
        found = resolve([write({"lowers": lowers, "repoBlobUrl": url})])
        one, other = found.layers
        wanted = "http://host/v2/x/blobs/sha256:" if url else ""
        assert (one.path, one.digest, one.size) == (None, "sha256:1", 7)
        assert one.url == (f"{wanted}1" if url else "")
        assert other.url == (f"{wanted}2" if url else "")
        assert found.files == []
        assert one.where == f"{tmp_path / 'config.v1.json'}: lowers[0]"


def test_turbo_layer(tmp_path: Path, write: Any) -> None:
    files = [make(tmp_path / name) for name in ("m", "t", "g")]
    row = {"file": "m", "targetFile": "t", "gzipIndex": "g", "targetDigest": "sha256:3"}
    found = resolve([write({"lowers": [row], "repoBlobUrl": "http://h/b"})])
    assert found.files == files
    (layer,) = found.layers
    assert layer.is_turbo
    assert (layer.target_digest, layer.target_url) == (
        "sha256:3",
        "http://h/b/sha256:3",
    )
    assert not resolve([tmp_path / "m"]).layers[0].is_turbo


REFUSED = {
    "not JSON": ("{", "line 1, column 2"),
    "no object": ([], "not a JSON object"),
    "deep": ("[" * 100_000, "not JSON"),
    "bytes": ('"\udcff"', None),
    "no layers": ({}, "lowers: the image has no layers"),
    "lowers null": ({"lowers": None}, "lowers: the image has no layers"),
    "long dir": ({"lowers": [{"dir": "d" * 5000}]}, "lowers[0].dir: "),
    "lowers no list": ({"lowers": {}}, "lowers: must be a list, not {}"),
    "lower no object": ({"lowers": [7]}, "lowers[0]: must be an object, not 7"),
    "file no text": ({"lowers": [{"file": 7}]}, "lowers[0].file: must be a text"),
    "size true": ({"lowers": [{"size": True}]}, "lowers[0].size: must be a number"),
    "nothing": ({"lowers": [{}]}, "lowers[0]: neither file, dir nor digest"),
    "missing file": ({"lowers": [{"file": "no"}]}, "lowers[0].file: "),
    "empty dir": ({"lowers": [{"dir": "."}]}, "lowers[0].dir: "),
    "upper without data": ({"upper": {"index": "i"}}, "upper.data: not given"),
    "upper of a number": ({"upper": {"data": 1}}, "upper.data: must be a text"),
    "no room": ({"obdengine": {"maxSize": -1}}, "obdengine.maxSize: "),
    "index of nothing": (
        {"lowers": [{"digest": "sha256:1", "gzipIndex": "i"}]},
        "lowers[0].gzipIndex: without targetFile",
    ),
    "no target": (
        {"lowers": [{"digest": "sha256:1", "targetFile": "t"}]},
        "lowers[0].targetFile: ",
    ),
    "itself": ({"lowers": [{"file": "config.v1.json"}]}, "names itself"),
    "thousand": ({"lowers": [{"file": "f"}] * 1000}, "1000 layers"),
    "NUL": ({"lowers": [{"file": "a\0b"}]}, "lowers[0].file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, write: Any) -> None:
    value, words = REFUSED[case]
    if case == "bytes":
        path = write("")
        path.write_bytes(b'{"lowers": "\xff"}')
    else:
        path = write(value)
    with pytest.raises(ConfigError) as caught:
        resolve([path])
    assert str(path) in str(caught.value)
    assert words is None or words in str(caught.value)


def test_two_configurations(write: Any) -> None:
    with pytest.raises(UsageError, match="an image of its own"):
        resolve([write({}), write({}, "b.json")])


def test_nothing_at_all() -> None:
    with pytest.raises(UsageError, match="at least one layer"):
        resolve([])


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        resolve([tmp_path / "config.v1.json"])


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.v1.json")
    with pytest.raises(SourceError, match="not a regular file"):
        resolve([tmp_path / "config.v1.json"])


def test_huge(tmp_path: Path) -> None:
    path = tmp_path / "config.v1.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger than"):
        resolve([path])
