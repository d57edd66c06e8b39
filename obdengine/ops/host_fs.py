# SPDX-License-Identifier: Apache-2.0
"""
host_fs - file systems that this host's own kernel and tools write: XFS and NTFS.

    disk -> a sparse file -> mounted, the tar applied -> what differs -> disk

Root and loop devices are needed, and time and room for all of the disk's
content at each layer: ext4 needs none of this. The mount is in a namespace of
its own and cannot stay behind; the tar is applied by host_apply, which sees
nothing but the file system. Their makers put times and random numbers into
these file systems: the same image does not give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from obdengine import ext4
from obdengine.device import Device
from obdengine.errors import BadTar, CoreError, SourceError, Unsupported, UsageError
from obdengine.layer import LayerWriter
from obdengine.ops.convert import to_raw
from obdengine.ops.difference import write_difference
from obdengine.ops.disks import RawDisk, StackDisk
from obdengine.ops.feed import LayerFeed
from obdengine.units import SECTOR

__all__ = ["EXT4", "KINDS", "HostMake", "apply_on_host", "kind_of"]

EXT4 = "ext4"
KINDS = (EXT4, "xfs", "ntfs")

# Where the makers are for people whose PATH has no sbin.
_PLACES = "/usr/sbin:/sbin"
_MAKERS = {
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "ntfs": ["mkntfs", "-q", "-F", "-f"],
}
_PACKAGES = {"mkfs.xfs": "xfsprogs", "mkntfs": "ntfs-3g", "unshare": "util-linux"}
_DAMAGED = 3  # exit code of host_apply for a tar that is wrong
_COPY = 1 << 20


@dataclass(frozen=True)
class HostMake:
    """A file system to be made by the host: its kind, not ext4, and its name."""

    kind: str
    label: str = ""


def kind_of(disk: Device) -> str:
    """Return which file system fills a disk; raises Unsupported for others."""
    head = disk.pread(0, min(disk.size, 4096))
    if head[1080:1082] == b"\x53\xef":
        return EXT4
    if head[:4] == b"XFSB":
        return "xfs"
    if head[3:11] == b"NTFS    ":
        return "ntfs"
    raise Unsupported(
        disk.name,
        "what fills the disk",
        expected="ext4, xfs or ntfs",
        found="none of these",
        hint="a disk with partitions cannot be written to so",
    )


def apply_on_host(
    disk: Device, feed: LayerFeed, kind: str, folder: Path, make: HostMake | None = None
) -> ext4.Applied:
    """Put the tar that feed has on top of a disk's file system, by this host.

    folder: for temporary files. make: make the file system first. Raises
    BadTar for a damaged tar, CoreError for what this host lacks, UsageError for
    a disk that is too small, SourceError; the disk is useless then.
    """
    with tempfile.TemporaryDirectory(prefix="host-", dir=folder) as made:
        raw = Path(made, "disk.raw")
        if make:
            raw.touch()
            os.truncate(raw, disk.size)
            _make(raw, make)
        else:
            to_raw(disk, raw)
        notes = _apply(raw, Path(made), feed, kind)
        with closing(RawDisk(raw, any_content=True)) as changed:
            writer = cast(LayerWriter, _Writer(disk))
            write_difference(changed, StackDisk(disk), writer)
    return ext4.Applied(bytes_read=feed.size, notes=notes)


class _Writer:
    """Takes differences as a LayerWriter does, and writes them to a disk."""

    entries = 0
    limit = 1 << 40

    def __init__(self, disk: Device) -> None:
        self._disk = disk

    def data(self, start: int, payload: bytes | bytearray | memoryview) -> None:
        self._disk.pwrite(start * SECTOR, payload)

    def zero(self, start: int, length: int) -> None:
        self._disk.write_zeroes(start * SECTOR, length * SECTOR)


def _make(raw: Path, make: HostMake) -> None:
    command = [*_MAKERS[make.kind], *(["-L", make.label] if make.label else [])]
    done = _run([*command, str(raw)], None)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[0] if said else f"exit code {done.returncode}"
        raise UsageError(f"{command[0]} refuses: {why}")


def _apply(raw: Path, folder: Path, feed: LayerFeed, kind: str) -> list[str]:
    mounted = folder / "mounted"
    mounted.mkdir()
    program = [sys.executable, "-m", "obdengine.ops.host_apply"]
    command = ["unshare", "--mount", *program, kind, str(raw), str(mounted), feed.name]
    said = folder / "said"
    with said.open("wb") as errors:
        process = _started(command, errors.fileno())
        with process, suppress(BrokenPipeError):
            assert process.stdin is not None
            # A child that has failed reads no more; its reason counts then.
            with process.stdin as pipe:
                while data := feed.read(_COPY):
                    pipe.write(data)
    text = said.read_text(errors="replace").splitlines()
    if process.returncode == 0:
        return text
    why = text[-1] if text else f"exit code {process.returncode}"
    if process.returncode == _DAMAGED:
        raise BadTar(feed.name, why)
    raise SourceError(f"{feed.name}: {kind} on this host: {why}")


def _started(command: list[str], errors: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [_found(command[0]), *command[1:]], stdin=subprocess.PIPE, stderr=errors
        )
    except OSError as error:
        raise SourceError(f"{command[0]}: {error.strerror}") from error


def _run(command: list[str], feed: bytes | None) -> subprocess.CompletedProcess[bytes]:
    words = [_found(command[0]), *command[1:]]
    return subprocess.run(words, input=feed, capture_output=True)


def _found(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if path is None:
        package = _PACKAGES.get(program, program)
        raise CoreError(
            f"{program} is not installed", hint=f"apt-get install {package}"
        )
    return path
