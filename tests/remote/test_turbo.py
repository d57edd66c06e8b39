# SPDX-License-Identifier: Apache-2.0
"""test_turbo - TurboOCI layers whose targets are only on a server."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import obdengine
from obdengine import _core
from obdengine.errors import ObdError
from obdengine.oci import open_store, parse, resolve_image
from obdengine.ops.turbo_build import TurboOptions, build_turbo
from obdengine.ops.turbo_targets import TurboFolder
from obdengine.units import GIB, MIB
from tests.misbehaving import Misbehaving
from tests.oci_images import make_layout, small_tar
from tests.remote.images import PREFIX, blob_gets, digest_of, service_in, serving


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    _core.limit_chunks(0)
    _core.limit_chunks(64 * MIB)


@pytest.fixture(scope="module")
def targets(golden: Path) -> list[bytes]:
    folder = golden / "turbo-c"
    return [(folder / f"layer{n}.tar{e}").read_bytes() for n, e in enumerate(ENDS)]


ENDS = (".gz", "", ".gz")


@pytest.fixture
def server(targets: list[bytes]) -> Iterator[Misbehaving]:
    with serving(targets) as started:
        yield started


def configuration(folder: Path, golden: Path, url: str, targets: list[bytes]) -> Path:
    rows = []
    for number, raw in enumerate(targets):
        stem = golden / "turbo-c" / f"layer{number}"
        row = {"file": f"{stem}.ext4.fs.meta", "targetDigest": digest_of(raw)}
        if ENDS[number]:
            row["gzipIndex"] = f"{stem}.gzip.meta"
        rows.append(row)
    path = folder / "config.v1.json"
    path.write_text(json.dumps({"repoBlobUrl": url + PREFIX, "lowers": rows}))
    return path


def asked(server: Misbehaving) -> int:
    """Return how many bytes of blobs were asked for."""
    ranges = (re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in blob_gets(server))
    return sum(int(r[2]) - int(r[1]) + 1 for r in ranges if r)


def test_golden(
    golden: Path, tmp_path: Path, targets: list[bytes], server: Misbehaving
) -> None:
    wanted = json.loads((golden / "turbo-c" / "expected.json").read_bytes())
    config = configuration(tmp_path, golden, server.url, targets)
    for _ in range(2):
        with obdengine.open(config, service=service_in(tmp_path)) as device:
            digest = hashlib.sha256()
            for at in range(0, device.size, 4 * MIB):
                digest.update(device.pread(at, 4 * MIB))
        assert digest.hexdigest() == wanted["layers"][2]["device_sha256"]


def test_little_is_asked_for(
    golden: Path, tmp_path: Path, targets: list[bytes], server: Misbehaving
) -> None:
    """One sector needs one span, and the next one beside it nothing."""
    config = configuration(tmp_path, golden, server.url, targets)
    with obdengine.open(config, service=service_in(tmp_path)) as device:
        first = asked(server)
        far = [e for e in device.extents() if e.layer == 0 and not e.present]
        at = next(e.offset for e in far if e.length > 8192)
        device.pread(at, 512)
        once = asked(server)
        assert 0 < once - first < len(targets[0]) * 0.7
        device.pread(at + 512, 4096)
        assert asked(server) == once
        extents = {e.present for e in device.extents() if e.data}
        assert extents == {True, False}


def built(folder: Path) -> Path:
    """Return the configuration of a TurboOCI image over a layer of one file."""
    data = b"".join(bytes([n % 251]) * (n % 97) for n in range(90_000))
    layout = make_layout(folder / "layout", [small_tar(file=data)])
    with closing(open_store(parse(f"oci:{layout}:latest"))) as store:
        image = resolve_image(store, "latest")
        options = TurboOptions(size=GIB)
        build_turbo(store, image, TurboFolder(folder / "turbo"), options=options)
    return folder / "turbo" / "config.v1.json"


def test_wrong_bytes_are_fetched_again(tmp_path: Path) -> None:
    """The sums of the index tell, and another answer is asked for."""
    config = built(tmp_path)
    with obdengine.open(config) as device:
        wanted = device.pread(0, 64 * MIB)
    found = json.loads(config.read_bytes())
    raw = Path(found["lowers"][0].pop("targetFile")).read_bytes()
    with serving([raw]) as server:
        found["repoBlobUrl"] = server.url + PREFIX
        config.write_text(json.dumps(found))
        server.faults = ["", "garbage", "garbage"]
        _core.limit_chunks(0)
        _core.limit_chunks(64 * MIB)
        with obdengine.open(config, service=service_in(tmp_path)) as device:
            assert device.pread(0, 64 * MIB) == wanted
            assert not server.faults
        server.always = "garbage"
        service = service_in(tmp_path / "other")
        with obdengine.open(config, service=service) as device:
            _core.limit_chunks(0)
            with pytest.raises(ObdError) as caught:
                device.pread(0, 64 * MIB)
        assert "sha256" in str(caught.value)
