# SPDX-License-Identifier: Apache-2.0
"""test_build - container images become layers: all of them, the same each time."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import obdengine
from obdengine import ext4
from obdengine.config import resolve
from obdengine.errors import (
    DigestMismatch,
    FormatError,
    LimitError,
    ObdError,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.oci import open_store, parse, resolve_image
from obdengine.oci.layout import open_layout
from obdengine.ops.build import BuildOptions, Built, build
from obdengine.ops.chain import chain_ids, uuid_of
from obdengine.ops.check import check_image
from obdengine.ops.convert import to_raw
from obdengine.ops.known import KnownLayers
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.targets import FolderTarget, StoreTarget
from obdengine.units import GIB, MIB
from tests.nbd import programs, tree
from tests.oci_images import digest_of, make_layout, small_tar
from tests.tools import environment, requires

OPTIONS = BuildOptions(size=GIB)


def converted(
    layout: Path, target: Path | str, options: BuildOptions = OPTIONS, **more: Any
) -> Built:
    """Convert the image of a layout into a folder, or a tag of the same layout."""
    reference = parse(f"oci:{layout}:latest")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        place: Any
        if isinstance(target, Path):
            place = FolderTarget(target)
        else:
            place = StoreTarget(store, target, layout)
        return build(store, image, place, options=options, **more)


def digests(built: Built) -> list[str]:
    return [layer.digest for layer in built.layers]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def tars(golden: Path) -> list[bytes]:
    """The three tars that overlaybd made the golden layers from."""
    return [(golden / "ext4-c" / f"layer{n}.tar").read_bytes() for n in range(3)]


@pytest.fixture(scope="module")
def layout(tars: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden-layout")
    return make_layout(folder, tars, packed=["gzip", "zstd", "none"])


# -- What comes out


@requires("e2fsck", "root", "mount", "loop", "unshare")
def test_golden_tree(layout: Path, golden: Path, tmp_path: Path) -> None:
    converted(layout, tmp_path / "image")
    layers = [tmp_path / "image" / f"layer-{n}.obd" for n in (1, 2, 3)]
    for height in (1, 2, 3):
        with obdengine.open(layers[:height]) as device:
            to_raw(device, tmp_path / "disk")
        programs.output("e2fsck", "-f", "-n", tmp_path / "disk")
    expected = json.loads((golden / "ext4-c" / "expected.json").read_text())["tree"]
    assert mounted(tmp_path / "disk", tmp_path) == expected


def mounted(disk: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the facts about the tree on a disk, as the kernel sees it."""
    (folder / "mounted").mkdir()
    # In a mount namespace of its own, so that nothing stays mounted.
    script = 'mount -o loop,ro,noload "$1" "$2"; exec "$3" "$4" "$2"'
    words = ["unshare", "--mount", "sh", "-ec", script, "sh", str(disk)]
    words += [str(folder / "mounted"), sys.executable, tree.__file__]
    done = subprocess.run(words, capture_output=True, env=environment(), check=True)
    return list(json.loads(done.stdout))


def test_layers_name_each_other(
    layout: Path, tars: list[bytes], tmp_path: Path
) -> None:
    built = converted(layout, tmp_path / "image")
    chain = chain_ids([digest_of(tar) for tar in tars])
    assert built.chain_ids == chain
    parent = None
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        for layer, chain_id in zip(device.layers, chain, strict=True):
            assert layer.uuid == uuid_of(chain_id)
            assert layer.parent_uuid == parent
            assert layer.kind == "committed"
            parent = layer.uuid
    for number, made in zip((1, 2, 3), built.layers, strict=True):
        path = tmp_path / "image" / f"layer-{number}.obd"
        assert digest_of(path.read_bytes()) == made.digest
        assert path.stat().st_size == made.size
    config = tmp_path / "image" / "config.v1.json"
    assert not check_image(resolve([config]).layers).damage
    raw = (tmp_path / "image" / "image.json").read_bytes()
    assert json.loads(raw)["config"]["Cmd"] == ["/bin/sh"]


def test_same_image_same_bytes(layout: Path, tars: list[bytes], tmp_path: Path) -> None:
    first = digests(converted(layout, tmp_path / "1"))
    other = make_layout(tmp_path / "other", tars, packed="none", config={"os": "x"})
    one_thread = replace(OPTIONS, layer=LayerOptions(threads=1))
    assert digests(converted(other, tmp_path / "2", one_thread)) == first
    larger = replace(OPTIONS, size=2 * GIB)
    assert digests(converted(layout, tmp_path / "3", larger)) != first


def test_layer_without_members_is_a_layer(tmp_path: Path) -> None:
    tars = [small_tar(), small_tar(a="1"), bytes(1024), small_tar(b="2"), b""]
    layout = make_layout(tmp_path / "layout", tars)
    built = converted(layout, tmp_path / "image")
    assert len(built.layers) == 5
    with (
        obdengine.open(tmp_path / "image" / "config.v1.json") as device,
        ext4.open_file_system(device) as system,
    ):
        names = {entry.path for entry in system.walk("/")}
        assert {b"a", b"b"} <= names
        assert system.read_file("/b") == b"2"


def test_options_reach_the_layers(layout: Path, tmp_path: Path) -> None:
    options = BuildOptions(
        size=256 * MIB,
        make=ext4.MakeOptions(label="named", journal=True),
        layer=LayerOptions(codec="zstd", block_size=16384, tar=True, message="hello"),
    )
    converted(layout, tmp_path / "image", options)
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.size == 256 * MIB
        assert {layer.message for layer in device.layers} == {"hello"}
        assert device.pread(1024 + 120, 5) == b"named"
        features = int.from_bytes(device.pread(1024 + 92, 4), "little")
        assert features & 4  # has_journal
    head = (tmp_path / "image" / "layer-1.obd").read_bytes()[:2000]
    assert b"overlaybd.commit" in head


# -- Into a layout


@requires("skopeo")
def test_image_in_a_layout(layout: Path, tars: list[bytes], tmp_path: Path) -> None:
    target = make_layout(tmp_path / "layout", tars)
    built = converted(target, "converted")
    store = open_layout(target)
    before, after = resolve_image(store, "latest"), resolve_image(store, "converted")
    assert store.tags() == ["converted", "latest"]
    assert after.config.history == before.config.history
    assert after.config.found["config"] == before.config.found["config"]
    assert after.manifest.annotations == before.manifest.annotations
    assert list(after.diff_ids) == [layer.digest for layer in after.layers]
    assert [layer.digest for layer in after.layers] == digests(built)
    for layer in after.layers:
        assert layer.media_type == "application/vnd.oci.image.layer.v1.tar"
        prefix = "containerd.io/snapshot/overlaybd/"
        assert layer.annotations == {
            f"{prefix}blob-digest": layer.digest,
            f"{prefix}blob-size": str(layer.size),
            f"{prefix}blob-fs-type": "ext4",
            f"{prefix}version": "0.1.0",
        }
    paths = [target / "blobs" / d.replace(":", "/") for d in digests(built)]
    assert all(b"overlaybd.commit" in path.read_bytes()[:2000] for path in paths)
    with obdengine.open(paths) as device, ext4.open_file_system(device) as system:
        assert b"app/m0.py" in {entry.path for entry in system.walk("/")}
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests"]
    images = [f"oci:{target}:converted", f"oci:{tmp_path}/copy:x"]
    subprocess.run([*copy, *images], check=True)
    raw = [resolve_image(open_layout(tmp_path / "copy"), "x").raw, after.raw]
    assert raw[0] == raw[1]
    assert not [name for name in files_in(target) if "/." in f"/{name}"]


def test_converting_what_was_converted(tars: list[bytes], tmp_path: Path) -> None:
    target = make_layout(tmp_path / "layout", tars)
    converted(target, "converted")
    store = open_layout(target)
    image = resolve_image(store, "converted")
    with pytest.raises(UsageError, match="overlaybd's already"):
        build(store, image, FolderTarget(tmp_path / "image"), options=OPTIONS)
    assert not (tmp_path / "image").exists()


# -- What was converted before


def test_known_layers_are_not_converted_again(
    layout: Path, tars: list[bytes], tmp_path: Path, applied: list[str]
) -> None:
    options = replace(OPTIONS, known=KnownLayers(tmp_path / "cache"))
    first = converted(layout, tmp_path / "1", options)
    assert not any(layer.reused for layer in first.layers)
    applied.clear()
    second = converted(layout, tmp_path / "2", options)
    assert (digests(second), applied) == (digests(first), [])
    assert all(layer.reused for layer in second.layers)

    # Another image on the same two layers: only its own is made.
    other = make_layout(tmp_path / "other", [*tars[:2], small_tar(new="x")])
    third = converted(other, tmp_path / "3", options)
    assert [layer.reused for layer in third.layers] == [True, True, False]
    assert len(applied) == 1
    plain = converted(other, tmp_path / "4")
    assert digests(plain) == digests(third)

    # Other options, another layer.
    zstd = replace(options, layer=LayerOptions(codec="zstd"))
    assert not any(x.reused for x in converted(layout, tmp_path / "5", zstd).layers)


def test_usual_level_of_zstd(layout: Path, tmp_path: Path) -> None:
    """Higher than that of a disk: an image is built once."""
    found = [
        digests(converted(layout, tmp_path / name, replace(OPTIONS, layer=layer)))
        for name, layer in {
            "usual": LayerOptions(codec="zstd", block_size=65536),
            "6": LayerOptions(codec="zstd", block_size=65536, level=6),
            "3": LayerOptions(codec="zstd", block_size=65536, level=3),
        }.items()
    ]
    assert found[0] == found[1] != found[2]


def test_known_layer_that_is_gone(layout: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, known=KnownLayers(tmp_path / "cache"))
    first = converted(layout, tmp_path / "1", options)
    (tmp_path / "1" / "layer-1.obd").unlink()
    damaged = tmp_path / "1" / "layer-3.obd"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    second = converted(layout, tmp_path / "2", options)
    assert [layer.reused for layer in second.layers] == [False, True, False]
    assert digests(second) == digests(first)
    assert all(
        layer.reused for layer in converted(layout, tmp_path / "3", options).layers
    )


def test_known_layers_in_a_layout(tars: list[bytes], tmp_path: Path) -> None:
    target = make_layout(tmp_path / "layout", tars)
    options = replace(OPTIONS, known=KnownLayers(tmp_path / "cache"))
    first = converted(target, "a", options)
    second = converted(target, "b", options)
    assert digests(first) == digests(second)
    assert all(layer.reused for layer in second.layers)
    wrapped = replace(options, layer=LayerOptions(tar=True))
    folder = converted(target, tmp_path / "image", wrapped)
    assert all(layer.reused for layer in folder.layers)


# -- What goes wrong


def spoiled(layout: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    """Change the blob of a layer, and the manifest so that only the tar is wrong."""
    store = open_layout(layout)
    image = resolve_image(store, "latest")
    layer = image.layers[number]
    data = change((layout / "blobs" / layer.digest.replace(":", "/")).read_bytes())
    path = layout / "blobs" / digest_of(data).replace(":", "/")
    path.write_bytes(data)
    text = image.raw.decode().replace(layer.digest, digest_of(data))
    raw = text.replace(f'"size": {layer.size}', f'"size": {len(data)}').encode()
    put_manifest(layout, raw)


def put_manifest(layout: Path, raw: bytes) -> None:
    """Put a manifest in place of the only one that there is."""
    (layout / "blobs" / digest_of(raw).replace(":", "/")).write_bytes(raw)
    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = index["manifests"]
    entry |= {"digest": digest_of(raw), "size": len(raw)}
    (layout / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda d: gzip.compress(small_tar(x="y")), DigestMismatch, "unpacked layer"),
        (lambda d: d[:-20], FormatError, "does not unpack as gzip"),
        (lambda d: gzip.compress(b"x" * 5000), FormatError, "layer 2"),
    ],
    ids=["another", "cut", "no tar"],
)
@pytest.mark.parametrize("target", ["folder", "layout"])
def test_damaged_layer(
    tars: list[bytes], tmp_path: Path, change: Any, error: type, what: str, target: str
) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    spoiled(layout, 1, change)
    before = files_in(layout)
    known = KnownLayers(tmp_path / "cache")
    place = tmp_path / "image" if target == "folder" else "new"
    with pytest.raises(error, match=what):
        converted(layout, place, replace(OPTIONS, known=known))
    assert not (tmp_path / "image").exists()
    assert open_layout(layout).tags() == ["latest"]
    assert not [name for name in files_in(layout) if ".obd-" in name]
    if target == "folder":
        assert files_in(layout) == before


def test_missing_blob(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    store = open_layout(layout)
    layer = resolve_image(store, None).layers[2]
    (layout / "blobs" / layer.digest.replace(":", "/")).unlink()
    with pytest.raises(SourceMissing):
        converted(layout, tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_disk_too_small(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="would do"):
        converted(layout, tmp_path / "image", replace(OPTIONS, size=4 * MIB))
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted(layout: Path, tmp_path: Path, error: type) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(error):
        converted(layout, tmp_path / "image", progress=stop)
    assert files_in(tmp_path) == []


def test_progress_goes_up_to_the_end(layout: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    converted(layout, tmp_path / "image", progress=lambda *pair: seen.append(pair))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_folder_that_is_taken(layout: Path, tmp_path: Path) -> None:
    converted(layout, tmp_path / "image")
    with pytest.raises(UsageError, match="an image already"):
        converted(layout, tmp_path / "image")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "layer-2.obd").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        converted(layout, tmp_path / "other")
    assert files_in(tmp_path / "other") == ["layer-2.obd"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        converted(layout, tmp_path / "file")


def test_layer_that_is_no_tar(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    image = resolve_image(open_layout(layout), None)
    raw = image.raw.replace(b"image.layer.v1.tar+gzip", b"image.layer.v1.squashfs")
    put_manifest(layout, raw)
    with pytest.raises(Unsupported, match="not a layer of files"):
        converted(layout, tmp_path / "image")


def test_too_many_layers(tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", [small_tar(a="1")] * 256)
    with pytest.raises(ObdError, match="at most 255"):
        converted(layout, tmp_path / "image")
