# SPDX-License-Identifier: Apache-2.0
"""test_commit - an upper as a layer: the same disk, and the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.config import Image, resolve
from obdengine.device import Device
from obdengine.errors import Busy, FormatError, LimitError, ReadOnly, UsageError
from obdengine.layer import LayerWriter, create_upper, open_layer, open_upper
from obdengine.ops.commit import commit, seal
from obdengine.ops.compact import compact
from obdengine.ops.folder import make_or_reopen
from obdengine.ops.layer_file import LayerOptions
from tests.ops import writing
from tests.ops.writing import FORMS
from tests.twins import stack

UUID = "12345678-1234-4321-8765-123456789abc"
PLAIN = LayerOptions(codec=None, uuid=UUID)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(12))
def test_reads_as_before(tmp_path: Path, form: str, seed: int) -> None:
    chance = Random(seed)
    image = writing.make(chance, tmp_path, form, 3000, seed % 4)
    image.write(chance, 60)
    image.check()
    options = LayerOptions(
        codec=chance.choice([None, "lz4", "zstd"]),
        block_size=chance.choice([4096, 65536]),
        tar=chance.random() < 0.5,
    )
    written = commit(image.config, tmp_path / "new.obd", options=options)
    files = [*image.lowers, tmp_path / "new.obd"]
    assert writing.read(*files) == image.disk
    raws = [file.read_bytes() for file in files]
    assert stack.flat(raws) == image.disk
    assert written.size == len(raws[-1])
    assert written.digest == f"sha256:{hashlib.sha256(raws[-1]).hexdigest()}"
    image.check()


@pytest.mark.parametrize("seed", range(6))
def test_same_bytes_whatever_the_cuts(tmp_path: Path, seed: int) -> None:
    """Append, sparse, compacted, cut into sectors: the same writes are the same."""
    found = set()
    for number, form in enumerate([*FORMS, *FORMS]):
        chance = Random(seed)
        folder = tmp_path / str(number)
        image = writing.make(chance, folder, form, 2500, seed % 3)
        image.write(chance, 40)
        if number >= 2:
            rewrite_in_pieces(Random(number), image.config)
            compact(image.config)
        image.check()
        commit(image.config, folder / "x", options=PLAIN)
        found.add((folder / "x").read_bytes())
    assert len(found) == 1


def rewrite_in_pieces(chance: Random, config: Path) -> None:
    """Write what the upper has once more, in another order and other sizes."""
    files = resolve([config]).upper
    assert files
    upper = open_upper(files.data, files.index)
    segments = list(upper.core.segments())
    with Device([], "upper", upper) as device:
        chance.shuffle(segments)
        for segment in segments:
            at = segment.start
            while at < segment.end:
                end = min(segment.end, at + chance.randint(1, 40))
                offset, size = at * 512, (end - at) * 512
                if segment.zeroed:
                    device.write_zeroes(offset, size)
                else:
                    device.pwrite(offset, device.pread(offset, size))
                at = end


def test_dense_and_in_order(tmp_path: Path) -> None:
    config = make_or_reopen(tmp_path / "own", Image([]), virtual_size=1 << 20)
    with obdengine.open(config, readonly=False) as device:
        for start in (500, 20, 1000, 21):
            device.pwrite(start * 512, bytes([start % 256]) * 512)
    commit(config, tmp_path / "x", options=PLAIN)
    entries = stack.open_stream((tmp_path / "x").read_bytes()).segments
    assert [tuple(s)[:3] for s in entries] == [(20, 2, 8), (500, 1, 10), (1000, 1, 11)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [0, 1])
def test_zeros_are_found(tmp_path: Path, form: str, layers: int) -> None:
    image = writing.make(Random(1), tmp_path, form, 4096, layers)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(0, b"x" * 4096 + bytes(8192) + b"y" * 4096)
        device.write_zeroes(1 << 20, 4096)
    written = commit(image.config, tmp_path / "x", options=PLAIN)
    assert written.data_size == 8192
    assert written.zero_size == (8192 + 4096 if layers else 0)


@pytest.mark.parametrize("form", FORMS)
def test_part_of_a_granule_stays_one(tmp_path: Path, form: str) -> None:
    """Sectors that nobody wrote keep showing what is below them."""
    image = writing.make(Random(2), tmp_path, form, 64, 1)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(9 * 512, bytes(512))
        device.pwrite(20 * 512, b"z" * 512)
        image.disk[9 * 512 : 10 * 512] = bytes(512)
        image.disk[20 * 512 : 21 * 512] = b"z" * 512
    written = commit(image.config, tmp_path / "x", options=PLAIN)
    assert (written.data_size, written.zero_size) == (512, 512)
    assert writing.read(*image.lowers, tmp_path / "x") == image.disk


def test_names(tmp_path: Path) -> None:
    image = writing.make(Random(3), tmp_path, "append")
    first = commit(image.config, tmp_path / "a")
    second = commit(image.config, tmp_path / "b")
    top = open_layer(image.lowers[-1])
    assert first.uuid != second.uuid
    assert first.parent_uuid == second.parent_uuid == top.uuid
    options = LayerOptions(uuid=UUID, parent_uuid=first.uuid, message="as wanted")
    commit(image.config, tmp_path / "c", options=options)
    layer = open_layer(tmp_path / "c")
    assert (layer.uuid, layer.parent_uuid) == (UUID, first.uuid)
    assert layer.message == "as wanted"
    for opened in (top, layer):
        opened.close()


@pytest.mark.parametrize("place", ["own", "elsewhere"])
def test_new_configuration(tmp_path: Path, place: str) -> None:
    chance = Random(4)
    image = writing.make(chance, tmp_path, "append")
    image.write(chance, 20)
    said = json.loads(image.config.read_text())
    image.config.write_text(json.dumps({**said, "repoBlobUrl": "https://r/v2/blobs"}))
    config = tmp_path / place / "new.json"
    config.parent.mkdir(exist_ok=True)
    written = commit(image.config, config.parent / "new.obd", config=config)
    assert writing.read(config) == image.disk
    found = json.loads(config.read_text())
    assert found["lowers"][-1] == {
        "file": "new.obd",
        "digest": written.digest,
        "size": written.size,
    }
    assert found["repoBlobUrl"] == "https://r/v2/blobs"
    assert not found["upper"]
    image.check()


def test_configuration_in_place(tmp_path: Path) -> None:
    chance = Random(5)
    image = writing.make(chance, tmp_path, "sparse")
    image.write(chance, 20)
    commit(image.config, tmp_path / "new.obd", config=image.config)
    image.check()
    with pytest.raises(ReadOnly):
        obdengine.open(image.config, readonly=False)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("with_below", [False, True])
def test_golden(golden: Path, tmp_path: Path, number: int, with_below: bool) -> None:
    folder = golden / "blocks-a"
    known = json.loads((folder / "expected.json").read_text())
    rows = [{"file": str(folder / "layer0.lsmt")}] if with_below and number else []
    for end in ("data", "index"):
        name = f"layer{number}.{end}"
        shutil.copyfile(folder / name, tmp_path / name)
    upper = {"data": f"layer{number}.data", "index": f"layer{number}.index"}
    config = tmp_path / "config.v1.json"
    config.write_text(json.dumps({"lowers": rows, "upper": upper}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    commit(config, tmp_path / "new.obd")
    files = [*(Path(row["file"]) for row in rows), tmp_path / "new.obd"]
    wanted = known["layers"][number]["alone_sha256"]
    if rows:
        wanted = known["stacks"]["2"]["sha256"]
    assert hashlib.sha256(writing.read(*files)).hexdigest() == wanted
    assert hashlib.sha256(writing.read(config)).hexdigest() == wanted
    # Looking at it, and committing it, has changed nothing.
    for name, raw in before.items():
        assert (tmp_path / name).read_bytes() == raw


@pytest.mark.parametrize("limit", [400, 70, 20])
@pytest.mark.parametrize("form", FORMS)
def test_too_many_entries(
    tmp_path: Path, form: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the index near its limit, gaps are filled from the layers below."""
    chance = Random(limit)
    image = writing.make(chance, tmp_path, form, 60_000, 2)
    with obdengine.open(image.config, readonly=False) as device:
        for number in range(900):
            offset = number * 16 * 2048
            size = chance.choice([512, 1024, 5120])
            if chance.random() < 0.3:
                device.write_zeroes(offset, size)
                image.disk[offset : offset + size] = bytes(size)
            else:
                device.pwrite(offset, data := chance.randbytes(size))
                image.disk[offset : offset + size] = data
    image.check()
    monkeypatch.setitem(LayerWriter.__init__.__kwdefaults__, "limit", limit)
    written = commit(image.config, tmp_path / "x")
    assert written.entries <= limit
    assert writing.read(*image.lowers, tmp_path / "x") == image.disk


def test_far_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = writing.make(Random(0), tmp_path, "append", 60_000, 0)
    with obdengine.open(image.config, readonly=False) as device:
        device.pwrite(0, b"x" * device.size)
    monkeypatch.setitem(LayerWriter.__init__.__kwdefaults__, "limit", 2)
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(LimitError):
        commit(image.config, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"before"


@pytest.mark.parametrize("act", [commit, seal])
def test_while_somebody_writes(tmp_path: Path, act: object) -> None:
    image = writing.make(Random(6), tmp_path, "append")
    words = [tmp_path / "x"] if act is commit else []
    with obdengine.open(image.config, readonly=False), pytest.raises(Busy) as caught:
        act(image.config, *words)  # type: ignore[operator]
    assert "in use by process" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_nobody_writes_meanwhile(tmp_path: Path) -> None:
    image = writing.make(Random(7), tmp_path, "append")
    with obdengine.open(image.config):
        commit(image.config, tmp_path / "x")
        with pytest.raises(Busy):
            obdengine.open(image.config, readonly=False)


def test_nothing_to_commit(tmp_path: Path) -> None:
    image = writing.make(Random(8), tmp_path, "append")
    with pytest.raises(ReadOnly):
        commit(image.lowers[0], tmp_path / "x")
    with pytest.raises(UsageError):
        commit(image.config, "-", config=tmp_path / "new.json")


# -- Seal


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_seal(tmp_path: Path, form: str, seed: int) -> None:
    chance = Random(seed)
    image = writing.make(chance, tmp_path, form, 3000, seed % 3)
    image.write(chance, 60)
    sealed = seal(image.config)
    image.check()
    files = resolve([image.config]).files
    assert files == [*image.lowers, sealed.path]
    raws = [path.read_bytes() for path in files]
    assert stack.flat(raws) == image.disk
    names = sorted(path.name for path in image.config.parent.iterdir())
    assert names == ["config.v1.json", "upper-1.data"]


def test_sealed_layer_is_not_written_to(tmp_path: Path) -> None:
    """A configuration from before is refused, and cannot do harm."""
    chance = Random(1)
    image = writing.make(chance, tmp_path, "append")
    image.write(chance, 20)
    old = image.config.read_text()
    kept = (image.config.parent / "upper-1.index").read_bytes()
    seal(image.config)
    (image.config.parent / "upper-1.index").write_bytes(kept)
    stale = image.config.parent / "old.json"
    stale.write_text(old)
    with pytest.raises(FormatError):
        obdengine.open(stale, readonly=False)
    image.check()


@pytest.mark.parametrize("form", FORMS)
def test_seal_that_fails(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(2)
    image = writing.make(chance, tmp_path, form)
    image.write(chance, 30)

    def fail(*_args: object, **_more: object) -> None:
        raise OSError(28, "no room")

    with monkeypatch.context() as patch:
        patch.setattr("obdengine.ops.commit.change_config", fail)
        with pytest.raises(OSError, match="no room"):
            seal(image.config)
    image.check()
    image.write(chance, 30)
    image.check()


@pytest.mark.parametrize("form", FORMS)
def test_seal_that_was_cut_off(tmp_path: Path, form: str) -> None:
    """Sealed, but the configuration does not know: it is an upper as before."""
    chance = Random(3)
    image = writing.make(chance, tmp_path, form)
    image.write(chance, 40)
    files = resolve([image.config]).upper
    assert files
    upper = open_upper(files.data, files.index)
    upper.seal()
    upper.close()
    image.check()
    for _ in range(3):
        image.write(chance, 40)
        image.check()
    commit(image.config, tmp_path / "x")
    assert writing.read(*image.lowers, tmp_path / "x") == image.disk


def test_uppers_of_others_without_a_name(tmp_path: Path) -> None:
    """A sparse upper needs no index in the configuration, also when sealed."""
    chance = Random(4)
    create_upper(tmp_path / "disk", virtual_size=1 << 20, form="sparse")
    config = tmp_path / "my.json"
    config.write_text(json.dumps({"upper": {"data": "disk"}}))
    image = writing.Writable(config, [], bytearray(1 << 20))
    image.write(chance, 30)
    image.check()
    seal(config)
    image.check()
