# SPDX-License-Identifier: Apache-2.0
"""mounting - a served disk as a file, by nbdfuse, and as a block device on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nbd import programs
from tests.tools import tool


@contextmanager
def as_file(uri: str, folder: Path, *, writable: bool = False) -> Iterator[Path]:
    """Yield a file that holds what is served at uri."""
    mountpoint = folder / "fuse"
    mountpoint.mkdir(exist_ok=True)
    options = [] if writable else ["-r"]
    process = subprocess.Popen(
        [tool("nbdfuse"), *options, mountpoint / "disk", uri],
        stderr=subprocess.PIPE,
    )
    try:
        _wait_for(mountpoint / "disk", process)
        yield mountpoint / "disk"
    finally:
        programs.output("fusermount3", "-u", "-z", mountpoint)
        process.communicate(timeout=60)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)


@contextmanager
def loop_device(file: Path, *, writable: bool = False) -> Iterator[str]:
    """Yield a block device with the bytes of file."""
    # Direct, so that what the device was told is not only in the page cache.
    how = ["--direct-io=on"] if writable else ["--read-only"]
    made = programs.output("losetup", "--find", "--show", *how, file)
    device = made.decode().strip()
    try:
        yield device
    finally:
        programs.output("losetup", "--detach", device)
