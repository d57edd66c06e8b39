# SPDX-License-Identifier: Apache-2.0
"""test_config - configurations that are wrong, huge, recursive or not JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import obdengine
from obdengine.errors import ConfigError, ObdError, SourceError, UsageError
from tests.hostile import victims

NAME = "config.v1.json"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A good layer, to stand beside the configurations."""
    path = tmp_path / victims.NAME
    path.write_bytes(victims.VICTIMS[0].raw)
    return path


def opened(folder: Path, config: object) -> ObdError:
    """Return the error that opening config must end in."""
    path = folder / NAME
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    path.write_bytes(text)
    with pytest.raises(ObdError) as raised:
        obdengine.open(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 2000
    return raised.value


def test_good_one(layer: Path) -> None:
    path = layer.with_name(NAME)
    path.write_text(json.dumps({"lowers": [{"file": layer.name, "unknown": []}]}))
    with obdengine.open(path) as device:
        assert device.pread(0, device.size) == victims.flat()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"lowers"',
        b"\xff\xfe{}",
        b"\0" * 100,
        b'{"lowers": NaN}',
        b'{"lowers": 1' + b"0" * 5000 + b"}",
        b'{"lowers": [{"size": 1' + b"0" * 5000 + b"}]}",
        *(b"[" * n for n in (900, 980, 990, 1000, 100_000)),
        *(
            b'{"lowers":' + b"[" * n + b"]" * n + b"}"
            for n in (2, 940, 985, 995, 99999)
        ),
        *(b'{"lowers":' + b'[{"file":' * n for n in (500, 99999)),
    ],
    ids=lambda text: f"{text[:12]!r}...{len(text)}",
)
def test_text(tmp_path: Path, text: bytes) -> None:
    opened(tmp_path, text)


WRONG = [
    None,
    True,
    7,
    -1,
    1.5,
    "x",
    [],
    {},
    [[]],
    [None],
    [7],
    ["x"],
    [{}],
    [{"x": 1}],
]


@pytest.mark.parametrize("lowers", WRONG, ids=repr)
def test_lowers_of_a_wrong_type(tmp_path: Path, lowers: object) -> None:
    opened(tmp_path, {"lowers": lowers})


@pytest.mark.parametrize(
    "key", ["file", "dir", "digest", "size", "targetFile", "targetDigest", "gzipIndex"]
)
@pytest.mark.parametrize("value", [True, 1.5, [], {}, [1], {"a": 1}], ids=repr)
def test_lower_key_of_a_wrong_type(layer: Path, key: str, value: object) -> None:
    lower = {"file": layer.name, key: value}
    error = opened(layer.parent, {"lowers": [{"file": layer.name}, lower]})
    assert isinstance(error, ConfigError)
    assert f"lowers[1].{key}" in str(error)


NAMES = [
    "",
    "missing.obd",
    "missing/deep.obd",
    ".",
    "..",
    "/",
    "x" * 300,
    "x/" * 3000,
    "a\0b",
    "\ud800",
    "\n\n",
    "victim.obd/x",
    NAME,
    f"../{NAME}",
    f"./././{NAME}",
]


@pytest.mark.parametrize("key", ["file", "dir"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_names(layer: Path, key: str, name: str) -> None:
    config = {"lowers": [{key: name}]}
    path = layer.with_name(NAME)
    path.write_text(json.dumps(config))
    with pytest.raises((ConfigError, SourceError)):
        obdengine.open(path)


def test_itself(tmp_path: Path) -> None:
    assert "itself" in str(opened(tmp_path, {"lowers": [{"file": NAME}]}))
    (tmp_path / "link").symlink_to(NAME)
    assert "itself" in str(opened(tmp_path, {"lowers": [{"file": "link"}]}))
    (tmp_path / "overlaybd.commit").symlink_to(NAME)
    opened(tmp_path, {"lowers": [{"dir": "."}]})


def test_each_other(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"lowers": [{"file": NAME}]}))
    path = tmp_path / NAME
    path.write_text(json.dumps({"lowers": [{"file": "other.json"}]}))
    with pytest.raises(ObdError, match=r"other\.json"):
        obdengine.open(path)


@pytest.mark.parametrize("count", [256, 1000, 100_000])
def test_too_many_layers(layer: Path, count: int) -> None:
    config = {"lowers": [{"file": layer.name}] * count}
    assert "255" in str(opened(layer.parent, config))


def test_too_many_files_named(layer: Path) -> None:
    with pytest.raises(UsageError, match="255"):
        obdengine.open([layer] * 256)


def test_as_many_as_there_may_be(layer: Path) -> None:
    path = layer.with_name(NAME)
    path.write_text(json.dumps({"lowers": [{"file": layer.name}] * 255}))
    with obdengine.open(path) as device:
        assert device.pread(0, device.size) == victims.flat()


def test_larger_than_any(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with path.open("wb") as out:
        out.truncate(1 << 40)
    with pytest.raises(ConfigError):
        obdengine.open(path)


@pytest.mark.parametrize(
    "more",
    [
        {"upper": {"index": "i"}},
        {"upper": []},
        {"upper": "x"},
        {"download": 5},
        {"resultFile": {}},
        {"repoBlobUrl": 1},
        {"recordTracePath": []},
        {"accelerationLayer": "x"},
    ],
    ids=repr,
)
def test_other_keys(layer: Path, more: dict[str, object]) -> None:
    error = opened(layer.parent, {"lowers": [{"file": layer.name}]} | more)
    assert next(iter(more)) in str(error)


@pytest.mark.parametrize(
    "image", [[], "", "\0", "\ud800", "x" * 5000, "a/b/c", ["", ""]]
)
def test_images_that_are_no_name(image: object) -> None:
    with pytest.raises(ObdError):
        obdengine.open(image)
