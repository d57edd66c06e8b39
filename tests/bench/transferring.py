# SPDX-License-Identifier: Apache-2.0
"""
transferring - an image to a registry and back, beside skopeo.

The registry is Debian's docker-registry on this machine, so what is measured
is what both do with the bytes: skopeo reads and hashes them too. The layers do
not compress. Each is told to leave the layers as they are.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from obdengine import oci
from obdengine.oci import words
from obdengine.oci.manifest import Manifest, canonical, describe
from obdengine.units import MIB
from tests.bench.harness import Table, in_turn, ratio, short, timed
from tests.bench.workshop import Workshop, memory
from tests.registries import Registry
from tests.tools import environment, tool

LAYERS = 4


def bench(shop: Workshop) -> str:
    """Measure and return the section."""
    size = (8 if shop.quick else 64) * MIB
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        folder = Path(made)
        layout = make_layout(folder / "layout", size)
        with Registry(folder / "registry") as registry:
            found = in_turn(rivals(folder, layout, registry), shop.rounds)
    total = LAYERS * size
    table = Table([f"MB/s, {LAYERS} layers of {size // MIB} MiB", "skopeo", "ours"])
    for what in ("to the registry", "back", "again, all is there: seconds"):
        one, other = found[f"skopeo {what}"], found[f"ours {what}"]
        if not what.endswith("seconds"):
            one, other = one.inverted(total / 1e6), other.inverted(total / 1e6)
        table.add(
            what, short(one.median), f"{short(other.median)} ({ratio(other, one)})"
        )
    return table.markdown()


def rivals(
    folder: Path, layout: Path, registry: Registry
) -> dict[str, Callable[[], float]]:
    """Return what is measured, by name, in its order."""
    here, there = f"oci:{layout}:v1", f"docker://{registry.host}/bench/image:v1"

    def push(who: str) -> float:
        # A registry that never had it: skopeo remembers where blobs have been.
        registry.stop()
        shutil.rmtree(registry.folder / "blobs", ignore_errors=True)
        registry.start()
        return timed(partial(run, who, here, there))()

    def pull(who: str) -> float:
        target = folder / who
        seconds = timed(partial(run, who, there, f"oci:{target}:v1"))()
        shutil.rmtree(target)
        return seconds

    works = {
        "to the registry": push,
        "back": pull,
        "again, all is there: seconds": lambda who: timed(
            partial(run, who, here, there)
        )(),
    }
    return {
        f"{who} {name}": partial(work, who)
        for name, work in works.items()
        for who in ("skopeo", "ours")
    }


def run(who: str, source: str, target: str) -> None:
    """Copy an image, as a user would."""
    if who == "ours":
        obd = Path(sys.executable).with_name("obd")
        command = [str(obd), "copy", source, target]
    else:
        command = [tool("skopeo"), "--insecure-policy", "copy", "--quiet"]
        for side, name in (("src", source), ("dest", target)):
            if name.startswith("docker:"):
                command.append(f"--{side}-tls-verify=false")
        command += ["--preserve-digests", source, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())


def make_layout(folder: Path, size: int) -> Path:
    """Make a layout with an image of layers that nothing compresses."""
    store = oci.open_store(oci.parse(f"oci:{folder}"), create=True)
    layers = []
    for _ in range(LAYERS):
        data = os.urandom(size)
        layers.append(describe(data, words.OCI_LAYER))
        store.put_blob(layers[-1], partial(io.BytesIO, data))
    root = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    raw = canonical({"architecture": "amd64", "os": "linux", "rootfs": root})
    config = describe(raw, words.OCI_CONFIG)
    store.put_blob(config, partial(io.BytesIO, raw))
    manifest = Manifest(words.OCI_MANIFEST, config, layers)
    store.put_manifest(manifest.raw(), words.OCI_MANIFEST, "v1")
    store.close()
    return folder
