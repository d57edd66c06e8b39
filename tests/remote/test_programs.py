# SPDX-License-Identifier: Apache-2.0
"""test_programs - remote images by the commands and the plugin, as users have them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdengine.ops.control import ask
from obdengine.ops.traces import load_times, load_trace
from tests import running, stacks
from tests.misbehaving import Misbehaving
from tests.remote.images import blob_gets, configure, digest_of, serving
from tests.tools import requires

pytestmark = requires("nbdkit", "nbdkit-python", "qemu-img")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    return stacks.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def blobs(made: stacks.Image) -> list[bytes]:
    return [path.read_bytes() for path in made.layers]


@pytest.fixture
def server(blobs: list[bytes]) -> Iterator[Misbehaving]:
    with serving(blobs) as started:
        yield started


@pytest.fixture
def image(tmp_path: Path, server: Misbehaving, blobs: list[bytes]) -> Path:
    return configure(tmp_path, server.url, blobs)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    path = tmp_path / "overlaybd.json"
    content = {
        "cacheConfig": {"cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def env(service: Path) -> dict[str, str]:
    return {"OBD_SERVICE": str(service)}


COPY = ["--", "qemu-img", "convert", "-O", "raw", "$uri"]
Obd = Callable[..., running.Ran]


def test_serve(
    obd: Obd, image: Path, service: Path, made: stacks.Image, tmp_path: Path
) -> None:
    out = tmp_path / "out.raw"
    obd("serve", "--service", service, image, *COPY, out)
    assert out.read_bytes() == made.disk
    assert (tmp_path / "cache" / "blobs").is_dir()


def test_record_show_plot_replay(
    obd: Obd, image: Path, env: dict[str, str], server: Misbehaving, tmp_path: Path
) -> None:
    trace, png = tmp_path / "first.trace", tmp_path / "first.png"
    obd("trace", "record", image, "-o", trace, *COPY, tmp_path / "out", env=env)
    assert trace.with_name("first.trace.ok").exists()
    assert not trace.with_name("first.trace.lock").exists()
    facts = obd("trace", "show", "--output", "json", trace).json()
    assert facts["reads"] == len(load_trace(trace)) > 0
    assert {noted.hit for noted in load_times(trace.with_name("first.trace.times"))}
    obd("trace", "plot", trace, png)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "removed" in obd("cache", "prune", "--all", env=env).text
    before = len(blob_gets(server))
    text = obd("trace", "replay", "--trace", trace, image, env=env).text
    assert "fetched" in text
    assert len(blob_gets(server)) > before
    before = len(server.requests)
    obd("serve", image, *COPY, tmp_path / "out", env=env)
    assert len(server.requests) == before


def test_replay_while_serving(
    image: Path,
    service: Path,
    server: Misbehaving,
    made: stacks.Image,
    tmp_path: Path,
    served: Callable[..., running.Export],
    obd: Obd,
) -> None:
    trace = tmp_path / "trace"  # beside the configuration
    obd("trace", "record", image, "-o", trace, *COPY, tmp_path / "out")
    export = served(f"config={image}", f"service={service}")
    until = time.monotonic() + running.PATIENCE
    while time.monotonic() < until and (tmp_path / "cache").exists():
        facts = obd("cache", "show", "--output", "json", env=env_of(service)).json()
        if facts["blobs"] and all(b["present"] == b["size"] for b in facts["blobs"]):
            break
        time.sleep(0.1)
    server.stop()
    obd("convert", "-O", "raw", image, tmp_path / "raw", env=env_of(service))
    assert (tmp_path / "raw").read_bytes() == made.disk
    export.stop()


def env_of(service: Path) -> dict[str, str]:
    return {"OBD_SERVICE": str(service)}


def wait_for(path: Path) -> None:
    until = time.monotonic() + running.PATIENCE
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def test_record_by_configuration(
    image: Path,
    service: Path,
    tmp_path: Path,
    served: Callable[..., running.Export],
    obd: Obd,
) -> None:
    content = json.loads(image.read_text())
    (tmp_path / "recorded").touch()
    image.write_text(json.dumps({**content, "recordTracePath": "recorded"}))
    export = served(f"config={image}", f"service={service}")
    lock = tmp_path / "recorded.lock"
    wait_for(lock)
    obd("info", image, env=env_of(service))
    lock.unlink()  # as overlaybd's tools end a recording
    wait_for(tmp_path / "recorded.ok")
    assert load_trace(tmp_path / "recorded") == []
    export.stop()


def test_record_by_control_socket(
    image: Path,
    service: Path,
    tmp_path: Path,
    served: Callable[..., running.Export],
    obd: Obd,
) -> None:
    control, trace = tmp_path / "control", tmp_path / "asked.trace"
    export = served(f"config={image}", f"service={service}", f"control={control}")
    obd("trace", "start", "--control", control, "-o", trace)
    obd("trace", "start", "--control", control, "-o", trace, code=2)
    obd("convert", "-O", "raw", image, tmp_path / "raw", env=env_of(service))
    copy = ["qemu-img", "convert", "-O", "raw", export.uri, str(tmp_path / "copy")]
    running.subprocess.run(copy, check=True)
    assert "reads" in obd("trace", "stop", "--control", control).text
    assert load_trace(trace)
    assert ask(control, "GET", "stats")["remote"]["size"] > 0
    export.stop()


def test_merge_pack_share(
    obd: Obd, image: Path, env: dict[str, str], tmp_path: Path, blobs: list[bytes]
) -> None:
    one, two, all_ = (tmp_path / name for name in ("one", "two", "all"))
    obd("trace", "record", image, "-o", one, *COPY, tmp_path / "out", env=env)
    two.write_bytes(one.read_bytes())
    obd("trace", "merge", one, two, "-o", all_)
    assert len(load_trace(all_)) <= 2 * len(load_trace(one))
    layer = tmp_path / "layer.tar"
    obd("trace", "pack", all_, layer)
    obd("trace", "share", "--trace", all_, image, env=env)
    obd("cache", "prune", "--all", env=env)
    assert "fetched" in obd("trace", "replay", image, env=env).text
    obd("cache", "prune", "--all", env=env)
    (tmp_path / "accelerated").mkdir()
    (tmp_path / "accelerated" / "trace").write_bytes(all_.read_bytes())
    with_layer(image, {"dir": "accelerated"})
    text = obd("info", "--output", "json", image, env=env).json()
    assert len(text["layers"]) == len(blobs)
    assert "fetched" in obd("trace", "replay", image, env=env).text


def with_layer(image: Path, row: dict[str, Any]) -> None:
    content = json.loads(image.read_text())
    content["lowers"].append(row)
    image.write_text(json.dumps({**content, "accelerationLayer": True}))


def test_acceleration_layer_on_the_server(
    obd: Obd, image: Path, env: dict[str, str], tmp_path: Path, server: Misbehaving
) -> None:
    trace, layer = tmp_path / "one", tmp_path / "layer.tar"
    obd("trace", "record", image, "-o", trace, *COPY, tmp_path / "out", env=env)
    obd("trace", "pack", trace, layer)
    raw = layer.read_bytes()
    server.files[f"/v2/images/blobs/{digest_of(raw)}"] = raw
    with_layer(image, {"digest": digest_of(raw), "size": len(raw)})
    obd("cache", "prune", "--all", env=env)
    assert "fetched" in obd("trace", "replay", image, env=env).text


def test_cache_commands(
    obd: Obd, image: Path, env: dict[str, str], tmp_path: Path, blobs: list[bytes]
) -> None:
    obd("convert", "-O", "raw", image, tmp_path / "raw", env=env)
    facts = obd("cache", "show", "--output", "json", env=env).json()
    assert {blob["size"] for blob in facts["blobs"]} == set(map(len, blobs))
    digest = digest_of(blobs[0])
    obd("cache", "pin", digest[:20], env=env)
    assert "pinned" in obd("cache", "show", env=env).text
    obd("cache", "prune", "--all", env=env)
    left = obd("cache", "show", "--output", "json", env=env).json()["blobs"]
    assert [blob["key"] for blob in left] == [digest.replace(":", "-")]
    obd("cache", "unpin", digest, env=env)
    obd("cache", "prune", digest, env=env)
    assert obd("cache", "show", "--output", "json", env=env).json()["blobs"] == []
    obd("cache", "pin", "nothing", env=env, code=1)


def wait_until_verified(obd: Obd, service: Path, count: int) -> None:
    until = time.monotonic() + running.PATIENCE
    while time.monotonic() < until:
        facts = obd("cache", "show", "--output", "json", env=env_of(service)).json()
        done = [blob["verified"] for blob in facts["blobs"]]
        if len(done) == count and all(done):
            return
        time.sleep(0.1)
    raise AssertionError(facts)


def test_background_download(
    image: Path,
    service: Path,
    tmp_path: Path,
    blobs: list[bytes],
    made: stacks.Image,
    server: Misbehaving,
    served: Callable[..., running.Export],
    obd: Obd,
) -> None:
    content = json.loads(image.read_text())
    (tmp_path / "top").mkdir()
    content["lowers"][-1]["dir"] = "top"
    content["download"] = {"enable": True, "delay": 0, "delayExtra": 0, "maxMBps": 50}
    image.write_text(json.dumps(content))
    export = served(f"config={image}", f"service={service}")
    wait_until_verified(obd, service, len(blobs))
    commit = tmp_path / "top" / "overlaybd.commit"
    wait_for(commit)
    assert commit.read_bytes() == blobs[-1]
    export.stop()
    server.stop()
    obd("convert", "-O", "raw", image, tmp_path / "raw", env=env_of(service))
    assert (tmp_path / "raw").read_bytes() == made.disk
