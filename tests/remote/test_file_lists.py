# SPDX-License-Identifier: Apache-2.0
"""test_file_lists - an acceleration layer that names files has them here at once."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import obdengine
from obdengine import ext4
from obdengine.ops.background import known_reads, replay
from obdengine.ops.resolve import resolve
from tests.remote.images import blob_gets, configure, service_in, serving


def listing(text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo("list")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def test_files_of_a_list(tmp_path: Path, golden: Path) -> None:
    blobs = [(golden / "ext4-c" / f"layer{n}.obd").read_bytes() for n in range(3)]
    with (
        obdengine.open([golden / "ext4-c" / f"layer{n}.obd" for n in range(3)]) as all_,
        ext4.open_file_system(all_) as volume,
    ):
        entries = [e for e in volume.walk("/") if e.size > 20_000]
        largest = max(
            entries, key=lambda e: e.size if volume.file_extents(e.path) else 0
        )
        wanted = volume.read_file(largest.path)
    text = f"# first\n/nowhere\n/{largest.path.decode()}\n/no/such/tree/*\n"
    layer = listing(text)
    with serving([*blobs, layer]) as server:
        image = configure(tmp_path, server.url, [*blobs, layer], accelerationLayer=True)
        assert len(json.loads(image.read_text())["lowers"]) == 4
        service = service_in(tmp_path, {"refillSize": 4096})
        found = resolve([image], service=service)
        with obdengine.open(image, service=service) as device:
            assert len(device.layers) == 3
            reads = known_reads(device, found, service, tmp_path)
            assert sum(read.size for read in reads) >= len(wanted)
            replay(device, reads, 4).wait()
            asked = len(blob_gets(server))
            with ext4.open_file_system(device) as volume:
                runs = volume.file_extents(largest.path)
                for run in runs:
                    device.pread(run.device_offset, run.length)
            assert len(blob_gets(server)) == asked
