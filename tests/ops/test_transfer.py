# SPDX-License-Identifier: Apache-2.0
"""test_transfer - images pushed, pulled and copied; skopeo and containerd judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdengine import oci
from obdengine.device.trace import Read
from obdengine.errors import DigestMismatch, SourceError, Unsupported, UsageError
from obdengine.oci import words
from obdengine.ops.pull import pull_image
from obdengine.ops.traces import pack_acceleration
from obdengine.ops.transfer import copy_image
from tests import oci_images, stacks
from tests.containerd import Containerd
from tests.misbehaving import Misbehaving
from tests.registries import Registry
from tests.running import Ran
from tests.tools import environment, requires, tool

pytestmark = requires("docker-registry")

Obd = Callable[..., Ran]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    return stacks.make(tmp_path_factory.mktemp("image"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("OBD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def name_in(registry: Registry, tmp_path: Path, tag: str = "v1") -> str:
    """Return where an image goes that no other test has."""
    return f"docker://{registry.host}/test/{tmp_path.name.replace('_', '-')}:{tag}"


def pushed(obd: Obd, image: stacks.Image, target: str) -> Any:
    return obd("push", "--output", "json", image.config, target).json()


def skopeo(*words: str) -> bytes:
    command = [tool("skopeo"), "--insecure-policy", *words]
    return subprocess.run(
        command, check=True, capture_output=True, env=environment()
    ).stdout


# -- There and back


def test_pushed_image_is_the_same_disk(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target = name_in(registry, tmp_path)
    facts = pushed(obd, image, target)
    assert (facts["blobs-sent"], facts["blobs-there"]) == (4, 0)
    obd("check", target)
    obd("convert", "-O", "raw", target, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == image.disk


def test_what_is_there_is_not_sent(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target = name_in(registry, tmp_path)
    first = pushed(obd, image, target)
    again = pushed(obd, image, target)
    assert again["digest"] == first["digest"]
    assert (again["blobs-sent"], again["bytes-sent"]) == (0, 0)
    other = target.replace("/test/", "/other/")
    copied = obd("copy", "--output", "json", target, other).json()
    assert copied["digest"] == first["digest"]
    assert (copied["blobs-sent"], copied["blobs-mounted"]) == (0, 4)


def test_pulled_image_is_the_same(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target, folder = name_in(registry, tmp_path), tmp_path / "pulled"
    first = pushed(obd, image, target)
    facts = obd("pull", "--output", "json", target, folder).json()
    assert facts["digest"] == first["digest"]
    assert facts["blobs-fetched"] == 3
    obd("convert", "-O", "raw", folder / "config.v1.json", tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == image.disk
    again = obd("pull", "--output", "json", target, folder).json()
    assert (again["blobs-fetched"], again["blobs-there"]) == (0, 3)
    # What was pulled is what is pushed, and nobody has to send it.
    back = pushed(obd, image._replace(config=folder / "config.v1.json"), f"{target}-2")
    assert back["digest"] == first["digest"]
    other = target.replace("/test/", "/third/")
    back = pushed(obd, image._replace(config=folder / "config.v1.json"), other)
    assert back["blobs-mounted"] == 4


def test_pull_over_another_image_is_refused(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target, folder = name_in(registry, tmp_path), tmp_path / "pulled"
    pushed(obd, image, target)
    obd("pull", target, folder)
    obd("push", image.layers[0], f"{target}-2")
    said = obd("pull", f"{target}-2", folder, code=2).err
    assert "another image" in said
    (tmp_path / "file").touch()
    assert "not a folder" in obd("pull", target, tmp_path / "file", code=2).err


def test_pull_that_was_cut_short_goes_on(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target, folder = name_in(registry, tmp_path), tmp_path / "pulled"
    pushed(obd, image, target)
    obd("pull", target, folder)
    (folder / "config.v1.json").unlink()
    (folder / "layer-2.obd").unlink()
    with (folder / "layer-1.obd").open("r+b") as file:
        file.write(b"junk")
    facts = obd("pull", "--output", "json", target, folder).json()
    assert (facts["blobs-fetched"], facts["blobs-there"]) == (2, 1)
    obd("check", folder / "config.v1.json")


def test_layouts_and_registries(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target, layout = name_in(registry, tmp_path), f"oci:{tmp_path}/layout:v1"
    first = obd("copy", "--output", "json", image.config, layout).json()
    assert obd("info", "--output", "json", layout).json()["virtual-size"] == stacks.SIZE
    copied = obd("copy", "--output", "json", layout, target).json()
    assert copied["digest"] == first["digest"]
    back = f"oci:{tmp_path}/back"
    assert (
        obd("copy", "--output", "json", target, back).json()["digest"]
        == (first["digest"])
    )
    obd("copy", back, tmp_path / "folder")
    obd("check", tmp_path / "folder" / "config.v1.json")


def test_layers_get_the_wrapper_that_registries_need(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target = name_in(registry, tmp_path)
    pushed(obd, image, target)
    obd("pull", target, tmp_path / "pulled")
    for number, layer in enumerate(image.layers, 1):
        path = tmp_path / "pulled" / f"layer-{number}.obd"
        with tarfile.open(path) as archive:
            (member,) = archive.getmembers()
            opened = archive.extractfile(member)
            assert opened
            inside = opened.read()
        raw = layer.read_bytes()
        assert inside == (raw[stacks.WRAPPER :][: len(inside)] if number == 2 else raw)


def test_manifest_has_overlaybds_annotations(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target = name_in(registry, tmp_path)
    pushed(obd, image, target)
    reference = oci.parse(target)
    store = oci.open_store(reference)
    found = oci.resolve_image(store, "v1")
    assert list(found.diff_ids) == [layer.digest for layer in found.layers]
    for layer in found.layers:
        assert layer.media_type == words.OCI_LAYER
        assert layer.annotations[words.BLOB_DIGEST] == layer.digest
        assert layer.annotations[words.BLOB_SIZE] == str(layer.size)
        assert layer.annotations[words.VERSION] == "0.1.0"
    store.close()


def test_command_of_an_image_is_kept(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(image.config.parent, folder)
    kept = oci_images.configuration([b"1", b"2", b"3"])
    (folder / "image.json").write_text(json.dumps(kept))
    target = name_in(registry, tmp_path)
    obd("push", folder / "config.v1.json", target)
    store = oci.open_store(oci.parse(target))
    found = oci.resolve_image(store, "v1").config.found
    assert found["config"] == kept["config"]
    assert found["history"] == kept["history"]
    store.close()


def test_writable_image_is_not_pushed(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    obd("create", image.config, tmp_path / "machine")
    target = name_in(registry, tmp_path)
    assert "writable" in obd("push", tmp_path / "machine", target, code=2).err


# -- What goes wrong


def store_of(target: str, **http: Any) -> oci.Store:
    settings = oci.RegistrySettings(
        oci.HttpSettings(**{"attempts": 4, "silence": 1.0, **http})
    )
    return oci.open_store(oci.parse(target), settings=settings)


def test_push_and_pull_through_a_bad_line(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    pushed(obd, image, name_in(registry, tmp_path))
    with Misbehaving(registry.url) as server:
        target = name_in(registry, tmp_path).replace(registry.host, server.host)
        server.faults = ["503", "cut", "", "reset", "short", "cut"]
        store = store_of(target)
        pull_image(store, "v1", tmp_path / "pulled")
        store.close()
    obd("check", tmp_path / "pulled" / "config.v1.json")


def test_pull_of_wrong_bytes_leaves_no_image(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    pushed(obd, image, name_in(registry, tmp_path))
    with Misbehaving(registry.url) as server:
        target = name_in(registry, tmp_path).replace(registry.host, server.host)
        server.faults, server.always = ["", ""], "garbage"
        store = store_of(target)
        with pytest.raises(DigestMismatch):
            pull_image(store, "v1", tmp_path / "pulled")
        store.close()
    assert not (tmp_path / "pulled" / "config.v1.json").exists()


def test_one_blob_that_fails_stops_the_others(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    layout = f"oci:{tmp_path}/layout:v1"
    obd("copy", image.config, layout)
    source = oci.open_store(oci.parse(layout))
    with Misbehaving(registry.url) as server:
        server.everything, server.always = True, "403"
        target = name_in(registry, tmp_path).replace(registry.host, server.host)
        store = store_of(target)
        with pytest.raises(SourceError):
            copy_image(source, "v1", store, "v1", parallel=1)
        assert len(server.requests) == 1
        store.close()


def test_ordinary_image_is_no_disk(
    obd: Obd, registry: Registry, tmp_path: Path
) -> None:
    layout = oci_images.make_layout(tmp_path / "layout", [oci_images.small_tar(a="b")])
    target = name_in(registry, tmp_path)
    obd("copy", f"oci:{layout}", target)
    for words_ in (["info", target], ["pull", target, tmp_path / "pulled"]):
        assert "obd convert" in obd(*words_, code=3).err
    with pytest.raises(Unsupported):
        pull_image(store_of(target), "v1", tmp_path / "pulled")


SIGNATURE = "application/vnd.example.signature"


def artifact(layout: Path, about: dict[str, Any], text: bytes) -> dict[str, Any]:
    """Put something that refers to a manifest, and return its descriptor."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = oci_images.put(layout, b"{}", "application/vnd.oci.empty.v1+json")
    found = {
        "schemaVersion": 2,
        "mediaType": kind,
        "artifactType": SIGNATURE,
        "config": config,
        "layers": [oci_images.put(layout, text, "text/plain")],
        "subject": {key: about[key] for key in ("mediaType", "digest", "size")},
    }
    return oci_images.put(layout, json.dumps(found).encode(), kind)


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, list[str]]:
    """A layout: an image, what refers to it, and what refers to that; digests."""
    layout = oci_images.make_layout(
        tmp_path / "layout", [oci_images.small_tar(a="x")], tag="v1"
    )
    (image,) = json.loads((layout / "index.json").read_text())["manifests"]
    signature = artifact(layout, image, b"signed")
    of_that = artifact(layout, signature, b"signed again")
    for entry in (signature, of_that):
        oci_images.name(layout, entry, None)
    return layout, [entry["digest"] for entry in (image, signature, of_that)]


def test_what_refers_to_an_image_goes_along(
    obd: Obd, registry: Registry, tmp_path: Path, signed: tuple[Path, list[str]]
) -> None:
    """Over a registry without an API for it, a layout, and back; in any depth."""
    layout, (image, signature, of_that) = signed
    first, source = name_in(registry, tmp_path), f"oci:{layout}:v1"
    assert obd("push", "--output", "json", source, first).json()["referrers"] == 0
    words = ("copy", "--output", "json", "--referrers")
    assert obd(*words, source, first).json()["referrers"] == 2
    other = first.replace("/test/", "/elsewhere/")
    assert obd(*words, first, other).json()["referrers"] == 2
    back = tmp_path / "back"
    obd(*words, other, f"oci:{back}:v1")
    blobs = {path.name for path in (back / "blobs/sha256").iterdir()}
    assert blobs == {path.name for path in (layout / "blobs/sha256").iterdir()}
    assert obd(*words, f"oci:{back}", f"{other}-2").json()["referrers"] == 2
    store = oci.open_store(oci.parse(other))
    assert isinstance(store, oci.RegistryStore)
    (entry,) = store.referrers(image).manifests
    assert (entry.digest, entry.artifact_type) == (signature, SIGNATURE)
    assert [e.digest for e in store.referrers(signature).manifests] == [of_that]
    store.close()
    err = obd("copy", "--referrers", first, tmp_path / "folder", code=2).err
    assert "--referrers does not go with a folder" in err


def test_every_image_of_an_index(obd: Obd, registry: Registry, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    entries = [
        oci_images.add_image(
            layout,
            [oci_images.small_tar(a=name)],
            None,
            platform={"os": "linux", "architecture": name},
        )
        for name in ("amd64", "s390x")
    ]
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    raw = json.dumps(index).encode()
    oci_images.name(layout, oci_images.put(layout, raw, kind), "all")
    target = name_in(registry, tmp_path)
    one = obd("copy", "--output", "json", f"oci:{layout}:all", target).json()
    assert one["digest"] in {entry["digest"] for entry in entries}
    more = ["--output", "json", "--platform", "linux/s390x"]
    assert (
        obd("copy", *more, f"oci:{layout}:all", target).json()["digest"]
        == (entries[1]["digest"])
    )
    every = obd("copy", "--output", "json", "--all", f"oci:{layout}:all", target).json()
    assert every["digest"] == oci_images.digest_of(raw)
    found = json.loads(
        skopeo("inspect", "--raw", "--tls-verify=false", target)  # byte for byte
    )
    assert found == index


# -- Known images need nobody


def test_known_image_is_opened_without_a_registry(
    obd: Obd, image: stacks.Image, tmp_path: Path
) -> None:
    with Registry(tmp_path / "registry") as registry:
        target = name_in(registry, tmp_path)
        digest = pushed(obd, image, target)["digest"]
        obd("convert", "-O", "raw", target, tmp_path / "before.raw")
    by_digest = f"{target.rpartition(':')[0]}@{digest}"
    for number, name in enumerate([target, by_digest]):
        path = tmp_path / f"after{number}.raw"
        obd("convert", "-O", "raw", name, path, env={"OBD_OFFLINE": str(number)})
        assert path.read_bytes() == image.disk
    assert "asked" in obd("info", f"{target}-2", code=1, env={"OBD_OFFLINE": "1"}).err


# -- Others


@requires("skopeo")
def test_skopeo_copies_what_was_pushed(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    target = name_in(registry, tmp_path)
    digest = pushed(obd, image, target)["digest"]
    said = skopeo("inspect", "--tls-verify=false", target)
    assert json.loads(said)["Digest"] == digest
    # Else it compresses the layers once more, and leaves out the annotations.
    layout = f"oci:{tmp_path}/by-skopeo:v1"
    more = ["-q", "--preserve-digests", "--src-tls-verify=false"]
    skopeo("copy", *more, target, layout)
    obd("check", layout)


@requires("skopeo")
def test_what_skopeo_pushed_opens(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    layout, target = f"oci:{tmp_path}/layout:v1", name_in(registry, tmp_path)
    obd("copy", image.config, layout)
    more = ["-q", "--preserve-digests", "--dest-tls-verify=false"]
    skopeo("copy", *more, layout, target)
    obd("convert", "-O", "raw", target, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == image.disk


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    # Its sockets need a short path.
    with (
        tempfile.TemporaryDirectory(prefix="obd-") as folder,
        Containerd(Path(folder)) as started,
    ):
        yield started


@requires("containerd", "ctr", "root", "mount")
def test_containerd_pulls_what_was_pushed(
    obd: Obd,
    registry: Registry,
    image: stacks.Image,
    containerd: Containerd,
    tmp_path: Path,
) -> None:
    target = name_in(registry, tmp_path)
    digest = pushed(obd, image, target)["digest"]
    name = target.removeprefix("docker://")
    more = ["--plain-http", "--snapshotter", "native"]
    containerd.ctr("images", "pull", *more, name)
    assert digest in containerd.ctr("images", "list")


def test_refused_words(obd: Obd, image: stacks.Image, tmp_path: Path) -> None:
    digest = f"docker://localhost:1/a@sha256:{'0' * 64}"
    assert "follows from it" in obd("push", image.config, digest, code=2).err
    assert "--all" in obd("copy", "--all", f"oci:{tmp_path}", "x", code=2).err
    with pytest.raises(UsageError):
        oci.open_store(oci.parse("oci-archive:x"), create=True)


# -- Layers that are an index over others


@pytest.fixture
def turbo(obd: Obd, registry: Registry, tmp_path: Path) -> str:
    """An image of TurboOCI layers in the registry, beside the one it points at."""
    tars = [oci_images.small_tar(a=b"x" * 9000), oci_images.small_tar(b="second")]
    layout = oci_images.make_layout(tmp_path / "ordinary", tars, tag="v1")
    ordinary = name_in(registry, tmp_path)
    obd("copy", f"oci:{layout}:v1", ordinary)
    target = name_in(registry, tmp_path, "turbo")
    obd("convert", "--turbo", "--referrer", "--size", "64M", ordinary, target)
    return target


def disk_of(obd: Obd, image: str | Path, path: Path) -> bytes:
    obd("convert", "-O", "raw", image, path)
    return path.read_bytes()


def test_turbo_layers_bring_what_they_point_at(
    obd: Obd, registry: Registry, turbo: str, tmp_path: Path
) -> None:
    disk = disk_of(obd, turbo, tmp_path / "1.raw")
    assert b"x" * 9000 in disk
    other = turbo.replace("/test/", "/elsewhere/")
    copied = obd("copy", "--output", "json", turbo, other).json()
    assert copied["blobs-mounted"] == 5
    assert copied["left-out"] == []
    layout = f"oci:{tmp_path}/layout:turbo"
    obd("copy", turbo, layout)
    assert disk_of(obd, other, tmp_path / "2.raw") == disk
    assert disk_of(obd, layout, tmp_path / "3.raw") == disk


def test_turbo_layers_are_pulled_with_what_they_point_at(
    obd: Obd, turbo: str, tmp_path: Path
) -> None:
    disk = disk_of(obd, turbo, tmp_path / "1.raw")
    obd("pull", turbo, tmp_path / "pulled")
    moved = (tmp_path / "pulled").rename(tmp_path / "moved")
    config = moved / "config.v1.json"
    assert disk_of(obd, config, tmp_path / "2.raw") == disk


def test_turbo_layers_are_pushed_from_files(
    obd: Obd, registry: Registry, turbo: str, tmp_path: Path
) -> None:
    """With the layers that they point at, as the image that they were."""
    disk = disk_of(obd, turbo, tmp_path / "1.raw")
    obd("pull", turbo, tmp_path / "pulled")
    config = tmp_path / "pulled" / "config.v1.json"
    layout = f"oci:{tmp_path}/layout:turbo"
    first = obd("copy", "--output", "json", config, layout).json()
    assert disk_of(obd, layout, tmp_path / "2.raw") == disk
    raw = skopeo("inspect", "--raw", "--tls-verify=false", turbo)
    before = json.loads(raw)
    assert first["digest"] == oci_images.digest_of(raw)
    for name in ("manifest.json", "image.json"):
        (tmp_path / "pulled" / name).unlink()
    other = turbo.replace("/test/", "/elsewhere/")
    assert obd("push", "--output", "json", config, other).json()["left-out"] == []
    assert disk_of(obd, other, tmp_path / "3.raw") == disk
    found = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", other))
    assert found["layers"] == before["layers"]
    (tmp_path / "pulled" / "layer-1" / "target").unlink()
    assert "targetFile" in obd("push", config, other, code=2).err


def test_turbo_image_refers_to_the_ordinary_one(turbo: str) -> None:
    reference = oci.parse(turbo)
    store = oci.open_store(reference)
    assert isinstance(store, oci.RegistryStore)
    subject, _ = store.manifest("v1")
    (entry,) = store.referrers(subject.digest).manifests
    assert entry.digest == store.manifest("turbo")[0].digest
    assert entry.artifact_type == words.TURBO_ARTIFACT
    store.close()


# -- A trace that goes with an image


def test_trace_goes_with_an_image(
    obd: Obd, registry: Registry, image: stacks.Image, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(image.config.parent, folder)
    reads = [Read(0, 4096, 0), Read(1, 8192, 4096)]
    (folder / "first.tar").write_bytes(pack_acceleration(reads))
    found = json.loads((folder / "config.v1.json").read_text())
    found["lowers"].append({"file": "first.tar"})
    found["accelerationLayer"] = True
    (folder / "config.v1.json").write_text(json.dumps(found))
    target = name_in(registry, tmp_path)
    sent = obd("push", "--output", "json", folder / "config.v1.json", target).json()
    assert sent["blobs-sent"] == 5
    assert disk_of(obd, target, tmp_path / "1.raw") == image.disk
    pulled = tmp_path / "pulled" / "config.v1.json"
    obd("pull", target, pulled.parent)
    assert disk_of(obd, pulled, tmp_path / "2.raw") == image.disk
    again = obd("push", "--output", "json", pulled, f"{target}-2").json()
    assert again["digest"] == sent["digest"]


# -- Layers on any server


def test_layers_by_their_addresses(
    obd: Obd, image: stacks.Image, tmp_path: Path
) -> None:
    files = {f"/{path.name}": path.read_bytes() for path in image.layers}
    with Misbehaving(files=files) as server:
        bottom, middle, top = (f"{server.url}/{path.name}" for path in image.layers)
        urls = [bottom, f"{middle}?X-Amz-Signature=secret", top]
        facts = obd("info", "--output", "json", *urls).json()
        assert facts["virtual-size"] == stacks.SIZE
        obd("check", *urls)
        mixed = [bottom, image.layers[1], top]
        obd("convert", "-O", "raw", *mixed, tmp_path / "disk.raw")
        assert (tmp_path / "disk.raw").read_bytes() == image.disk
        server.always = "403"
        missing = obd("info", f"{bottom}?X-Amz-Signature=secret", code=1).err
        assert "403" in missing
        assert "secret" not in missing


def test_layers_by_their_addresses_over_nbd(
    served: Any, image: stacks.Image, tmp_path: Path
) -> None:
    files = {f"/{path.name}": path.read_bytes() for path in image.layers}
    with Misbehaving(files=files) as server:
        keys = [f"config={server.url}/{path.name}" for path in image.layers]
        export = served(*keys, env={"OBD_CACHE": str(tmp_path / "cache")})
        command = [tool("nbdcopy"), export.uri, str(tmp_path / "disk.raw")]
        subprocess.run(command, check=True, env=environment())
        export.stop()
    assert (tmp_path / "disk.raw").read_bytes() == image.disk
