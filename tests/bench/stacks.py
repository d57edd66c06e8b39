# SPDX-License-Identifier: Apache-2.0
"""
stacks - one disk in several files: as layers of ours, and as a qcow2 chain.

Each 64 KiB of the disk are in one of the files, drawn by lot, the same in
both; so both find neighbouring bytes in different files.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB
from tests.bench.workshop import Workshop, settle
from tests.tools import environment, tool

CLUSTER = 64 * KIB

FORMS = {"plain": LayerOptions(codec=None), "lz4": LayerOptions(codec="lz4")}


@dataclass(frozen=True)
class Stack:
    """The same disk twice: `layers` by form, bottom first, and the top of a chain."""

    layers: dict[str, list[Path]]
    chain: Path


def stack(shop: Workshop, count: int) -> Stack:
    """Return the shop's disk in `count` files, made when it is first asked for."""
    folder = shop.folder / f"stack{count}"
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    parts = [folder / f"{number}.raw" for number in range(count)]
    if new:
        _split(shop.disk, parts)
        for form, options in FORMS.items():
            for part in parts:
                to_layer(part, part.with_suffix(f".{form}"), options=options)
        _make_chain(parts)
        for part in parts:
            part.unlink()
        for path in folder.iterdir():
            settle(path)
    layers = {form: [part.with_suffix(f".{form}") for part in parts] for form in FORMS}
    return Stack(layers, parts[-1].with_suffix(".qcow2"))


def _split(disk: Path, parts: list[Path]) -> None:
    """Write sparse files of the disk's size that add up to the disk."""
    chance = random.Random(len(parts))
    size = disk.stat().st_size
    files = [part.open("wb") for part in parts]
    with disk.open("rb") as source:
        for at in range(0, size, CLUSTER):
            file = chance.choice(files)
            file.seek(at)
            file.write(source.read(CLUSTER))
    for file in files:
        file.truncate(size)
        file.close()


def _make_chain(parts: list[Path]) -> None:
    """Write a qcow2 beside each part, each backed by the one before."""
    backing: list[str] = []
    for part in parts:
        image = str(part.with_suffix(".qcow2"))
        create = [tool("qemu-img"), "create", "-q", "-f", "qcow2", *backing]
        _run(*create, image, str(part.stat().st_size))
        # Skips what is zero in the part: below it must show through.
        copy = [tool("nbdcopy"), "--destination-is-zero", "--", str(part)]
        _run(*copy, "[", tool("qemu-nbd"), "-f", "qcow2", image, "]")
        backing = ["-b", image, "-F", "qcow2"]


def _run(*words: str) -> None:
    subprocess.run(words, check=True, env=environment())
