# SPDX-License-Identifier: Apache-2.0
"""test_stores - layouts and archives give what they hold, verified, or say why not."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obdengine.errors import (
    BadManifest,
    DigestMismatch,
    FormatError,
    ObdError,
    ReadOnly,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.oci import (
    Descriptor,
    ImageManifest,
    Platform,
    Store,
    open_store,
    parse,
    read_blob,
    resolve_image,
    words,
)
from obdengine.oci.layout import open_layout
from obdengine.oci.manifest import describe
from tests.oci_images import (
    IMAGE,
    add_image,
    digest_of,
    make_layout,
    name,
    put,
    small_tar,
)
from tests.tools import requires

TARS = [small_tar(a="one"), small_tar(b="two" * 5000)]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return make_layout(tmp_path / "layout", TARS, packed=["gzip", "none"])


def opened(text: str, request: pytest.FixtureRequest) -> tuple[Store, str | None]:
    reference = parse(text)
    store = open_store(reference)
    request.addfinalizer(store.close)
    return store, reference.which


def contents(store: Store, image: ImageManifest) -> list[bytes]:
    """Return the tars of an image, as whole files and by pieces."""
    found = []
    for layer in image.layers:
        with store.blob(layer) as reader:
            whole = reader.read()
        source = store.source(layer)
        assert source.size == len(whole) == layer.size
        assert source.pread(5, 20) == whole[5:25]
        source.close()
        found.append(gzip.decompress(whole) if whole[:2] == b"\x1f\x8b" else whole)
    return found


def archive_of(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return path


# -- Reading


def test_layout(layout: Path, request: pytest.FixtureRequest) -> None:
    store, which = opened(f"oci:{layout}:latest", request)
    image = resolve_image(store, which)
    assert contents(store, image) == TARS
    assert image.diff_ids == tuple(map(digest_of, TARS))
    assert store.tags() == ["latest"]
    assert str(image.platform) == "linux/amd64"
    assert resolve_image(store, None).descriptor == image.descriptor
    assert resolve_image(store, image.descriptor.digest).raw == image.raw


def test_oci_archive(layout: Path, request: pytest.FixtureRequest) -> None:
    path = archive_of(layout, layout.with_suffix(".tar"))
    store, which = opened(f"oci-archive:{path}:latest", request)
    assert contents(store, resolve_image(store, which)) == TARS
    with pytest.raises(ReadOnly):
        store.put_manifest(b"{}", words.OCI_MANIFEST, "x")


@requires("skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_skopeo(
    layout: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    path = layout.with_suffix(".tar")
    command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:latest"]
    subprocess.run([*command, f"{kind}:{path}:some/name:1"], check=True)
    for word in (f"{kind}:{path}:some/name:1", f"{kind}:{path}"):
        store, which = opened(word, request)
        assert contents(store, resolve_image(store, which)) == TARS


def docker_archive(path: Path, tars: list[bytes], **change: Any) -> Path:
    """Write what `docker save` writes, a layer that comes twice as a link."""
    root = {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}
    config = {"os": "linux", "architecture": "amd64", "rootfs": root}
    rows = [{"Config": "c.json", "Layers": [], "RepoTags": ["x/y:1"], **change}]
    with tarfile.open(path, "w") as tar:

        def add(member: str, data: bytes) -> None:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number, layer in enumerate(tars):
            member = f"{number}/layer.tar"
            if layer in tars[:number]:
                info = tarfile.TarInfo(member)
                info.type = tarfile.SYMTYPE
                info.linkname = f"../{tars.index(layer)}/layer.tar"
                tar.addfile(info)
            else:
                add(member, layer)
            if "Layers" not in change:
                rows[0]["Layers"].append(member)
        add("c.json", json.dumps(config).encode())
        add("manifest.json", json.dumps(rows).encode())
    return path


def test_docker_archive_with_links(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tars = [TARS[0], TARS[1], TARS[0], gzip.compress(TARS[1])]
    path = docker_archive(tmp_path / "a.tar", tars[:3])
    store, which = opened(f"docker-archive:{path}:x/y:1", request)
    assert contents(store, resolve_image(store, which)) == tars[:3]
    with pytest.raises(SourceMissing, match="x/y:1"):
        store.manifest("other")
    for verb in (
        lambda: store.put_blob(Descriptor("a", digest_of(b""), 0), io.BytesIO),
        lambda: store.put_manifest(b"{}", words.OCI_MANIFEST, None),
    ):
        with pytest.raises(ReadOnly):
            verb()


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
def test_archive_that_is_compressed(
    tmp_path: Path, program: str, request: pytest.FixtureRequest
) -> None:
    path = docker_archive(tmp_path / "a.tar", TARS)
    subprocess.run([program, path], check=True)
    (packed,) = tmp_path.glob("a.tar.*")
    store, which = opened(f"docker-archive:{packed}", request)
    assert contents(store, resolve_image(store, which)) == TARS
    packed.write_bytes(packed.read_bytes()[:-50])
    with pytest.raises(ObdError):
        open_store(parse(f"docker-archive:{packed}"))


@pytest.mark.parametrize(
    "change",
    [
        {"Config": "../../etc/passwd"},
        {"Config": None},
        {"Layers": []},
        {"Layers": "x"},
        {"Layers": ["0/layer.tar", "missing"]},
        {"RepoTags": [1]},
    ],
)
def test_bad_docker_archive(tmp_path: Path, change: dict[str, Any]) -> None:
    path = docker_archive(tmp_path / "a.tar", TARS, **change)
    with pytest.raises((FormatError, SourceMissing)):
        open_store(parse(f"docker-archive:{path}"))


def test_links_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for one, other in (("manifest.json", "b"), ("b", "manifest.json")):
            info = tarfile.TarInfo(one)
            info.type, info.linkname = tarfile.SYMTYPE, other
            tar.addfile(info)
    with pytest.raises(BadManifest, match="circle"):
        open_store(parse(f"docker-archive:{path}"))


@pytest.mark.parametrize("data", [b"", b"x" * 2000, bytes(2000)])
def test_no_archive(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    for kind in ("docker-archive", "oci-archive"):
        with pytest.raises((FormatError, SourceMissing)):
            open_store(parse(f"{kind}:{path}"))


# -- What is wrong in a layout


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"",
    ],
    ids=["short", "long", "changed", "empty"],
)
def test_damaged_blob(
    layout: Path, spoil: Callable[[bytes], bytes], request: pytest.FixtureRequest
) -> None:
    store, which = opened(f"oci:{layout}", request)
    image = resolve_image(store, which)
    path = blob_path(layout, image.layers[0].digest)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DigestMismatch), store.blob(image.layers[0]) as reader:
        reader.finish()
    path = blob_path(layout, image.descriptor.digest)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DigestMismatch):
        store.manifest(None)


def test_missing_blob(layout: Path, request: pytest.FixtureRequest) -> None:
    store, which = opened(f"oci:{layout}", request)
    layer = resolve_image(store, which).layers[0]
    blob_path(layout, layer.digest).unlink()
    assert not store.has_blob(layer)
    with pytest.raises(SourceMissing), store.blob(layer):
        pass
    with pytest.raises(SourceMissing):
        store.source(layer)


def test_which_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    layout = make_layout(tmp_path / "l", TARS, tag="one")
    add_image(layout, TARS[:1], "two")
    store, _ = opened(f"oci:{layout}", request)
    assert store.tags() == ["one", "two"]
    assert len(resolve_image(store, "two").layers) == 1
    with pytest.raises(UsageError, match="which image is meant"):
        store.manifest(None)
    with pytest.raises(SourceMissing, match="there are one, two"):
        store.manifest("three")
    add_image(layout, TARS[1:], "two")
    with pytest.raises(UsageError, match="which two is meant"):
        store.manifest("two")


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("oci-layout", "{}", Unsupported),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', Unsupported),
        ("oci-layout", "", BadManifest),
        ("index.json", "{}", BadManifest),
        ("index.json", "", BadManifest),
    ],
)
def test_bad_layout(layout: Path, file: str, text: str, error: type) -> None:
    (layout / file).write_text(text)
    with pytest.raises(error):
        open_store(parse(f"oci:{layout}")).manifest(None)


def test_not_a_layout(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="not an OCI layout"):
        open_store(parse(f"oci:{tmp_path}"))
    (tmp_path / "something").touch()
    with pytest.raises(UsageError, match="not an OCI layout"):
        open_store(parse(f"oci:{tmp_path}"), create=True)


def test_pipe_is_not_waited_for(layout: Path) -> None:
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(ObdError, match="neither a regular file"):
        open_store(parse(f"oci:{layout}")).manifest(None)


# -- Platforms


def multi(tmp_path: Path) -> Path:
    """Return a layout whose index names an index, as docker's buildx makes it."""
    layout = tmp_path / "multi"
    layout.mkdir()
    entries = [
        add_image(layout, [small_tar(a=arch)], None, platform=platform)
        for arch, platform in {
            "unknown": {"os": "unknown", "architecture": "unknown"},
            "s390x": {"os": "linux", "architecture": "s390x"},
            "amd64": {"os": "linux", "architecture": "amd64"},
            "arm64": {"os": "linux", "architecture": "arm64", "variant": "v8"},
            "v6": {"os": "linux", "architecture": "arm", "variant": "v6"},
            "v7": {"os": "linux", "architecture": "arm", "variant": "v7"},
        }.items()
    ]
    raw = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    index = put(layout, raw, f"{IMAGE}.index.v1+json")
    (layout / "index.json").unlink()
    name(layout, index, "all")
    return layout


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("linux/amd64", "amd64"),
        ("linux/arm64", "arm64"),
        ("linux/arm64/v8", "arm64"),
        ("linux/arm", "v7"),
        ("linux/arm/v6", "v6"),
        ("linux/s390x", "s390x"),
    ],
)
def test_platform(
    tmp_path: Path, asked: str, expected: str, request: pytest.FixtureRequest
) -> None:
    store, which = opened(f"oci:{multi(tmp_path)}:all", request)
    image = resolve_image(store, which, platform=Platform.parse(asked))
    assert contents(store, image) == [small_tar(a=expected)]


def test_no_such_platform(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store, which = opened(f"oci:{multi(tmp_path)}:all", request)
    with pytest.raises(UsageError, match=r"linux/amd64, linux/arm/v6"):
        resolve_image(store, which, platform=Platform("plan9", "amd64"))
    for text in ("linux", "linux/", "a/b/c/d", "Linux/amd64", ""):
        with pytest.raises(UsageError, match="not a platform"):
            Platform.parse(text)


def test_indexes_without_end(layout: Path, request: pytest.FixtureRequest) -> None:
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    for _ in range(8):
        raw = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        entry = put(layout, raw, f"{IMAGE}.index.v1+json")
    name(layout, entry, "deep")
    store, which = opened(f"oci:{layout}:deep", request)
    with pytest.raises(BadManifest, match="nested"):
        resolve_image(store, which)


def test_number_of_layers_must_agree(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = {"type": "layers", "diff_ids": [digest_of(TARS[0])]}
    layout = make_layout(tmp_path / "l", TARS, config={"rootfs": root})
    store, which = opened(f"oci:{layout}", request)
    with pytest.raises(BadManifest, match="number of layers"):
        resolve_image(store, which)


# -- Writing


def copy(source: Store, target: Store, tag: str | None) -> Descriptor:
    image = resolve_image(source, None)
    for blob in (*image.layers, image.manifest.config):
        data = read_blob(source, blob)
        target.put_blob(blob, lambda data=data: io.BytesIO(data))
    return target.put_manifest(image.raw, image.descriptor.media_type, tag)


def test_copy_into_a_new_layout(
    layout: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, _ = opened(f"oci:{layout}", request)
    target = open_layout(tmp_path / "new", create=True)
    copied = copy(source, target, "a")
    assert copied == copy(source, target, "b")
    assert target.tags() == ["a", "b"]
    assert contents(target, resolve_image(target, "b")) == TARS
    other = put(tmp_path / "new", b'{"schemaVersion":2}', "x")
    target.put_manifest(b'{"schemaVersion":2}', words.OCI_MANIFEST, "a")
    assert target.manifest("a")[0].digest == other["digest"]
    assert target.manifest("b")[0] == copied
    assert not list((tmp_path / "new").rglob(".*"))


@requires("skopeo", "umoci")
def test_others_read_what_is_written(
    layout: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, _ = opened(f"oci:{layout}", request)
    copy(source, open_layout(tmp_path / "new", create=True), "a")
    command = ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/new:a"]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert raw == resolve_image(source, None).raw
    command = ["umoci", "raw", "unpack", "--rootless", "--image", f"{tmp_path}/new:a"]
    subprocess.run([*command, str(tmp_path / "tree")], check=True)
    assert (tmp_path / "tree" / "a").read_text() == "one"


def test_wrong_blob_is_not_stored(tmp_path: Path) -> None:
    target = open_layout(tmp_path / "new", create=True)
    right = describe(b"right", "text/plain")
    for data in (b"wrong", b"rig", b"right and more", b""):
        with pytest.raises(DigestMismatch):
            target.put_blob(right, lambda data=data: io.BytesIO(data))
        assert not target.has_blob(right)
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()]
    target.put_blob(right, lambda: io.BytesIO(b"right"))
    target.put_blob(right, lambda: pytest.fail("it is there"))
    assert read_blob(target, right) == b"right"
    assert not target.mount_blob(right, "other")


def test_writers_take_turns(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    open_layout(folder, create=True)

    def work(number: int) -> None:
        raw = json.dumps({"schemaVersion": 2, "number": number}).encode()
        open_layout(folder).put_manifest(raw, words.OCI_MANIFEST, f"tag{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(open_layout(folder).tags()) == 8


def test_blob_that_is_read_in_part_says_nothing(
    layout: Path, request: pytest.FixtureRequest
) -> None:
    store, which = opened(f"oci:{layout}", request)
    layer = resolve_image(store, which).layers[1]
    with store.blob(layer) as reader:
        assert reader.read(10) == TARS[1][:10]
        assert reader.position == 10
        buffer = bytearray(100)
        assert reader.readinto(buffer) == 100
        assert bytes(buffer) == TARS[1][10:110]


def test_large_document_is_not_read(tmp_path: Path) -> None:
    store = open_layout(tmp_path / "new", create=True)
    huge = Descriptor("a/b", digest_of(b""), 1 << 40)
    with pytest.raises(BadManifest, match="at most"):
        read_blob(store, huge)
