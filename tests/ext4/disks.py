# SPDX-License-Identifier: Apache-2.0
"""disks - a writable disk with an ext4, its bytes as a file, and what e2fsck says."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from obdengine import ext4
from obdengine.config import Image
from obdengine.device import Device
from obdengine.errors import BadTar
from obdengine.ops.create import create
from obdengine.ops.image import open_image
from obdengine.units import MIB
from tests.ext4 import tars
from tests.tools import environment, tool

SIZE = 64 * MIB

# Hundreds of small disks: no test here is about what a sync leaves.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def blank(size: int = SIZE) -> Iterator[Device]:
    """A writable disk of zeros."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        config = create(Path(folder), Image([]), size=size)
        with open_image(config, readonly=False) as device:
            yield device


@contextmanager
def made(options: ext4.MakeOptions | None = None, size: int = SIZE) -> Iterator[Device]:
    """A writable disk with an empty file system."""
    with blank(size) as device:
        for offset, data in _empty(options, size):
            device.pwrite(offset, data)
        yield device


@functools.cache
def _empty(options: ext4.MakeOptions | None, size: int) -> list[tuple[int, bytes]]:
    """What such a disk holds: mke2fs is asked only once."""
    with blank(size) as device:
        ext4.make_file_system(device, options)
        return [
            (e.offset, device.pread(e.offset, e.length))
            for e in device.extents()
            if not e.zero
        ]


def apply(device: Device, *tars: bytes, **options: object) -> list[ext4.Applied]:
    """Put layers on top of each other; what is on the disk is sound after each."""
    done = []
    chosen = ext4.ApplyOptions(**options)  # type: ignore[arg-type]
    for tar in tars:
        stream = io.BytesIO(tar)
        done.append(ext4.apply_layer(device, stream, options=chosen))
        assert done[-1].bytes_read == len(tar)
        check(device)
    return done


def flatten(device: Device, path: Path) -> None:
    """Write a disk to a sparse file."""
    with path.open("wb") as out:
        out.truncate(device.size)
        for extent in device.extents():
            if not extent.zero:
                out.seek(extent.offset)
                out.write(device.pread(extent.offset, extent.length))


def check(device: Device) -> None:
    """Assert that e2fsck finds nothing to mend."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        path = Path(folder, "disk")
        flatten(device, path)
        done = subprocess.run(
            [tool("e2fsck"), "-fn", path],
            capture_output=True,
            text=True,
            env=environment(),
        )
    assert done.returncode == 0, done.stdout + done.stderr


def digest(device: Device) -> str:
    """Return the SHA-256 of the disk."""
    found = hashlib.sha256()
    for offset in range(0, device.size, MIB):
        found.update(device.pread(offset, min(MIB, device.size - offset)))
    return found.hexdigest()


def tree(device: Device) -> dict[bytes, ext4.Entry]:
    """Return everything on a disk by its path, but lost+found."""
    with ext4.open_file_system(device) as fs:
        return {e.path: e for e in fs.walk() if e.path != b"lost+found"}


def read(device: Device, path: str | bytes) -> bytes:
    """Return the content of a file."""
    with ext4.open_file_system(device) as fs:
        return fs.read_file(path)


def applied(*layers: bytes) -> dict[bytes, ext4.Entry]:
    """Put layers on a new disk; return what is there then."""
    with made() as device:
        apply(device, *layers)
        return tree(device)


def one(*members: tars.Member) -> dict[bytes, ext4.Entry]:
    return applied(tars.tar(*members))


def refused(*layers: bytes) -> BadTar:
    """Return what is said of the last layer."""
    with made() as device:
        apply(device, *layers[:-1])
        with pytest.raises(BadTar) as caught:
            ext4.apply_layer(device, io.BytesIO(layers[-1]), name="top.tar")
    assert str(caught.value).startswith("top.tar: ")
    return caught.value
