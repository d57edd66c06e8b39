# SPDX-License-Identifier: Apache-2.0
"""test_convert_image - `obd convert` of container images, tars and directories."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obdengine.oci.layout import open_layout
from tests.oci_images import add_image, make_layout, small_tar
from tests.registries import Registry
from tests.running import Ran
from tests.tools import environment, let_everybody_in, requires

Obd = Callable[..., Ran]

TARS = [small_tar(a="1" * 9000), small_tar(b="2")]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return make_layout(tmp_path / "layout", TARS)


@pytest.fixture
def convert(obd: Obd, tmp_path: Path) -> Callable[..., Ran]:
    """Return what runs `obd convert` with a database of its own."""

    def run(*words: Any, **more: Any) -> Ran:
        return obd("convert", *words, env={"XDG_CACHE_HOME": str(tmp_path)}, **more)

    return run


def facts(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_image_into_a_folder(
    convert: Obd, obd: Obd, layout: Path, tmp_path: Path
) -> None:
    target = tmp_path / "image"
    ran = convert("--size", "64M", "--output", "json", f"oci:{layout}:latest", target)
    found = facts(ran)
    assert found["virtual-size"] == 64 << 20
    assert found["config"] == str(target / "config.v1.json")
    assert [layer["reused"] for layer in found["layers"]] == [False, False]
    info = facts(obd("info", "--output", "json", target))
    assert len(info["layers"]) == 2
    assert obd("check", target).code == 0
    text = convert("--size", "64M", f"oci:{layout}", tmp_path / "again").out.decode()
    assert "2, 2 of them converted before" in text
    assert (tmp_path / "obdengine" / "layers.sqlite3").exists()
    more = ("--size", "64M", "--cache", tmp_path / "elsewhere", "--output", "json")
    found = facts(convert(*more, f"oci:{layout}", tmp_path / "third"))
    assert not any(layer["reused"] for layer in found["layers"])


def test_usual_size_is_large_and_takes_no_room(
    convert: Obd, layout: Path, tmp_path: Path
) -> None:
    found = facts(convert("--output", "json", f"oci:{layout}", tmp_path / "image"))
    assert found["virtual-size"] == 64 << 30
    assert found["file-size"] < 300_000


@requires("skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives(convert: Obd, layout: Path, tmp_path: Path, kind: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:latest"]
    subprocess.run([*command, f"{kind}:{tmp_path}/a.tar:x:1"], check=True)
    first = convert("--output", "json", f"oci:{layout}", tmp_path / "1")
    second = convert("--output", "json", f"{kind}:{tmp_path}/a.tar", tmp_path / "2")
    digests = [
        [layer["digest"] for layer in facts(ran)["layers"]] for ran in (first, second)
    ]
    assert digests[0] == digests[1]


def test_image_into_a_layout(convert: Obd, layout: Path, tmp_path: Path) -> None:
    convert("--compress", "zstd", f"oci:{layout}:latest", f"oci:{tmp_path}/new:app")
    index = json.loads((tmp_path / "new" / "index.json").read_bytes())
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "app"}
    ran = convert(f"oci:{tmp_path}/new:app", tmp_path / "image", code=2)
    assert "overlaybd's already" in ran.err


def test_platform(convert: Obd, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", TARS)
    platform = {"os": "linux", "architecture": "s390x"}
    add_image(layout, TARS[:1], "latest", platform=platform)
    (layout / "index.json").write_text(
        (layout / "index.json").read_text().replace('"platform"', '"x"')
    )
    assert "which latest" in convert(f"oci:{layout}:latest", tmp_path / "x", code=2).err
    ran = convert("--platform", "z", f"oci:{layout}", tmp_path / "x", code=2)
    assert "not a platform" in ran.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["oci:{l}:none", "{t}/x"], "no image is called none"),
        (["oci:{t}/none", "{t}/x"], "not an OCI layout"),
        (["oci:{l}", "{t}/x.obd"], "name a folder"),
        (["oci:{l}", "oci:{t}/x@sha256:" + "0" * 64], "follows from it"),
        (["oci:{l}", "oci:{l}", "{t}/x"], "one container image at a time"),
        (["--uuid", "1", "oci:{l}", "{t}/x"], "--uuid does not go with"),
        (["--base", "{t}", "oci:{l}", "{t}/x"], "--base does not go with"),
        (["--no-cache", "--cache", "{t}", "oci:{l}", "{t}/x"], "--cache does not"),
        (["--features", "nonsense", "oci:{l}", "{t}/x"], "mke2fs refuses"),
        (["--size", "1k", "oci:{l}", "{t}/x"], "mke2fs refuses"),
        (["--size", "1000", "oci:{l}", "{t}/x"], "a disk cannot have 1000 bytes"),
        (["-f", "tar", "{l}", "{t}/x"], "regular file"),
        (["-f", "dir", "--owner", "root", "{l}", "{t}/x.obd"], "is not an owner"),
        (["--owner", "0:0", "{t}/a.tar", "{t}/x.obd"], "a tar, which says"),
        (["--size", "1G", "--base", "{t}/b.obd", "{l}", "{t}/x.obd"], "--size does"),
        (["{l}", "{t}/x.obd"], "oci:{l}, or -f dir"),
        (["{t}/saved.tar", "{t}/x.obd"], "docker-archive:{t}/saved.tar or oci-ar"),
        (["{t}/saved.tgz", "{t}/x.obd"], "docker-archive:{t}/saved.tgz or oci-ar"),
        (["{t}", "{t}/x.obd"], "x.obd: is inside of what is converted"),
        (["-f", "dir", "{l}", "{l}/blobs/x.obd"], "is inside of what is converted"),
        (["--size", "1M", "{t}/large.tar", "{t}/x.obd"], "{t}/x.obd: no room"),
    ],
)
def test_what_makes_no_sense(
    convert: Obd, layout: Path, tmp_path: Path, words: list[str], what: str
) -> None:
    (tmp_path / "a.tar").write_bytes(TARS[0])
    saved = small_tar(**{"0" * 64 + ".tar": "", "manifest.json": "[]"})
    (tmp_path / "saved.tar").write_bytes(saved)
    (tmp_path / "large.tar").write_bytes(small_tar(a="1" * (2 << 20)))
    (tmp_path / "saved.tgz").write_bytes(gzip.compress(saved))
    convert("--size", "16M", tmp_path / "a.tar", tmp_path / "b.obd")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    ran = convert(*(word.format(l=layout, t=tmp_path) for word in words), code=None)
    assert ran.code in (1, 2)
    assert what.format(l=layout, t=tmp_path) in ran.err
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_tar_and_directory(
    convert: Obd, obd: Obd, layout: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(TARS[0])
    base, top, third = (tmp_path / f"{n}.obd" for n in (1, 2, 3))
    convert("--size", "64M", "--label", "x", tmp_path / "a.tar", base)
    convert("-f", "dir", "--base", base, "--owner", "0:0", layout, top)
    convert("-f", "tar", "--base", base, "--base", top, "-", third, stdin=TARS[1])
    info = facts(obd("info", "--output", "json", base, top, third))
    assert info["virtual-size"] == 64 << 20
    assert obd("check", base, top, third).code == 0


def test_from_a_registry_to_a_registry(
    convert: Obd, obd: Obd, registry: Registry, layout: Path, tmp_path: Path
) -> None:
    place = f"docker://{registry.host}/test/{tmp_path.name.replace('_', '-')}"
    env = {"OBD_CACHE": str(tmp_path / "blobs"), "XDG_CACHE_HOME": str(tmp_path)}
    obd("copy", f"oci:{layout}:latest", f"{place}:plain", env=env)
    words = ("--size", "64M", "--output", "json")
    to = (f"{place}:plain", f"{place}:obd")
    first = facts(convert("--referrer", *words, *to))
    alone = ("--tar", "--no-cache", *words)
    local = facts(convert(*alone, f"oci:{layout}", tmp_path / "x"))
    digests = [layer["digest"] for layer in first["layers"]]
    assert digests == [layer["digest"] for layer in local["layers"]]
    info = facts(obd("info", "--output", "json", f"{place}:obd", env=env))
    assert len(info["layers"]) == 2

    # The layers are known, and are nowhere but in the registry.
    second = facts(convert(*words, *to))
    assert all(layer["reused"] for layer in second["layers"])
    more = make_layout(tmp_path / "more", [*TARS, small_tar(c="3")])
    third = facts(convert(*words, f"oci:{more}", f"{place}:more"))
    assert [layer["reused"] for layer in third["layers"]] == [True, True, False]
    plain = convert(*alone, f"oci:{more}", tmp_path / "y")
    assert facts(plain)["layers"][2]["digest"] == third["layers"][2]["digest"]
    assert obd("check", f"{place}:more", env=env).code == 0


def test_referrer_says_what_it_was_made_from(
    convert: Obd, layout: Path, tmp_path: Path
) -> None:
    convert("--size", "64M", "--referrer", f"oci:{layout}", f"oci:{layout}:obd")
    store = open_layout(layout)
    (before, _), (_, raw) = store.manifest("latest"), store.manifest("obd")
    manifest = json.loads(raw)
    assert manifest["subject"]["digest"] == before.digest
    kind = "application/vnd.containerd.overlaybd.native.v1+json"
    assert manifest["artifactType"] == kind
    ran = convert("--referrer", f"oci:{layout}:latest", tmp_path / "x", code=2)
    assert "--referrer does not go with a folder" in ran.err


def test_turbo_layers(convert: Obd, obd: Obd, layout: Path, tmp_path: Path) -> None:
    words = ("--turbo", "--size", "64M", "--output", "json", f"oci:{layout}:latest")
    found = facts(convert(*words, tmp_path / "image"))
    assert found["format"] == "turbo"
    assert found["layers"][0]["index-size"] > 333
    targets = [layer["target-digest"] for layer in found["layers"]]
    shown = facts(obd("info", "--output", "json", tmp_path / "image"))["layers"]
    assert [layer["target"]["digest"] for layer in shown] == targets
    assert {layer["target"]["codec"] for layer in shown} == {"gzip"}
    text = obd("info", tmp_path / "image").out.decode()
    assert "TurboOCI layer, ZFile lz4" in text
    assert "data in target" in text
    assert obd("check", tmp_path / "image").code == 0
    assert "and its target" in obd("map", tmp_path / "image").out.decode()
    assert [layer["reused"] for layer in found["layers"]] == [False, False]
    again = facts(convert(*words, f"oci:{layout}:turbo"))["layers"]
    assert [layer["reused"] for layer in again] == [True, True]
    third = facts(convert("--no-cache", *words, tmp_path / "third"))["layers"]
    assert [layer["reused"] for layer in third] == [False, False]
    assert [layer["digest"] for layer in third] == [
        layer["digest"] for layer in found["layers"]
    ]
    blob = layout / "blobs" / targets[0].replace(":", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"\1")
    damage = obd("check", tmp_path / "image", code=3).out.decode()
    assert "digest" in damage
    convert("--turbo", layout / "oci-layout", tmp_path / "x", code=2)
    convert("--turbo", "--compress", "zstd", f"oci:{layout}", tmp_path / "x", code=2)


@requires("root", "setpriv")
def test_ordinary_user_makes_the_same(
    convert: Obd, layout: Path, golden: Path, tmp_path: Path
) -> None:
    names = [golden / "ext4-c" / f"layer{number}.tar" for number in range(3)]
    image = make_layout(tmp_path / "golden", [name.read_bytes() for name in names])
    words = ("--no-cache", "--size", "1G", "--output", "json", f"oci:{image}")
    first = facts(convert(*words, tmp_path / "root"))
    # Folders of pytest are root's alone.
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        Path(folder).chmod(0o777)
        shutil.copytree(image, Path(folder) / "image")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        command = [
            *let_everybody_in(),
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
        command += [str(Path(sys.executable).with_name("obd")), "convert", *words[:-1]]
        done = subprocess.run(
            [*command, f"oci:{folder}/image", f"{folder}/made"],
            env=environment(HOME=folder, TMPDIR=folder),
            capture_output=True,
        )
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)
    assert [x["digest"] for x in second["layers"]] == [
        x["digest"] for x in first["layers"]
    ]
