# SPDX-License-Identifier: Apache-2.0
"""
make - a new ext4 file system over a whole disk, by mke2fs.

mke2fs knows every feature and how to lay it out. It works on a sparse file
that is then copied; all that it takes from the machine, the clock and its
configuration is given or replaced, so the same options give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from obdengine.device import Device
from obdengine.errors import CoreError, SourceError, UsageError
from obdengine.ext4.apply import TIME
from obdengine.ext4.volume import open_volume
from obdengine.units import KIB, MIB

__all__ = ["MakeOptions", "make_file_system"]

# The kernel's NBD refuses blocks below its own, so never mke2fs's choice.
_BLOCK_SIZE = 4 * KIB

_FEATURES = (
    "none",
    "ext_attr",
    "resize_inode",
    "dir_index",
    "filetype",
    "extent",
    "64bit",
    "flex_bg",
    "sparse_super",
    "large_file",
    "huge_file",
    "dir_nlink",
    "extra_isize",
    "metadata_csum",
)

# Where mke2fs is for people whose PATH has no sbin.
_PLACES = "/usr/sbin:/sbin:/usr/local/sbin"

_NAMESPACE = uuid.UUID("9a0f3b5e-5c0c-5d0e-8b1e-0bdea91e0e43")
_COPIED_AT_ONCE = MIB


@dataclass(frozen=True)
class MakeOptions:
    """What the file system shall be.

    Attributes:
        label: at most 16 bytes.
        uuid: None: made from the other options.
        journal: False, True, or its size in MiB.
        features: for `mke2fs -O`, on top of our own: "quota", "^64bit".
        block_size: bytes.
        inodes: their number, or None.
        inode_ratio: bytes of disk for each inode, or None.
        reserved: percent of the blocks that only root may use.
        time: of its making, seconds since 1970.
    """

    label: str = ""
    uuid: uuid.UUID | None = None
    journal: bool | int = False
    features: Sequence[str] = ()
    block_size: int = _BLOCK_SIZE
    inodes: int | None = None
    inode_ratio: int | None = None
    reserved: float = 0
    time: int = TIME


def make_file_system(device: Device, options: MakeOptions | None = None) -> None:
    """Make an ext4 file system over all of a writable disk.

    What the disk had before reads as zeros. Raises UsageError for options
    that mke2fs refuses, CoreError when it is not installed, and what writing
    raises.
    """
    chosen = options or MakeOptions()
    with tempfile.TemporaryDirectory(prefix="obdengine-") as folder:
        image = Path(folder, "disk")
        image.touch()
        os.truncate(image, device.size)
        _run(image, Path(folder), chosen)
        for extent in list(device.extents()):
            if not extent.zero:
                device.write_zeroes(extent.offset, extent.length)
        _copy(image, device)
    with open_volume(device, writing=True, now=chosen.time) as volume:
        volume.normalize()


def _identity(options: MakeOptions, size: int) -> uuid.UUID:
    if options.uuid:
        return options.uuid
    return uuid.uuid5(_NAMESPACE, f"{size} {options}")


def _command(image: Path, options: MakeOptions) -> list[str]:
    size = image.stat().st_size
    name = _identity(options, size)
    seed = uuid.uuid5(name, "hash_seed")
    features = [*_FEATURES, *options.features]
    if options.journal:
        features.append("has_journal")
    words = [
        shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:{_PLACES}")
        or "mke2fs",
        *("-q", "-F", "-t", "ext4", "-b", str(options.block_size), "-I", "256"),
        *("-U", str(name), "-O", ",".join(features), "-m", str(options.reserved)),
        "-E",
        f"hash_seed={seed},root_owner=0:0,nodiscard,"
        "lazy_itable_init=0,lazy_journal_init=0",
    ]
    if options.label:
        words += ["-L", options.label]
    if options.inodes is not None:
        words += ["-N", str(options.inodes)]
    if options.inode_ratio is not None:
        words += ["-i", str(options.inode_ratio)]
    if options.journal is not True and options.journal:
        words += ["-J", f"size={options.journal}"]
    return [*words, str(image)]


def _run(image: Path, folder: Path, options: MakeOptions) -> None:
    # An empty configuration: what Debian's says is not what others' say.
    config = folder / "mke2fs.conf"
    config.write_text("[defaults]\n[fs_types]\n ext4 = {\n }\n")
    environment = {
        "MKE2FS_CONFIG": str(config),
        "MKE2FS_SYNC": "0",
        "E2FSPROGS_FAKE_TIME": str(options.time),
        "SOURCE_DATE_EPOCH": str(options.time),
        "LC_ALL": "C.UTF-8",
        "PATH": os.environ.get("PATH", ""),
    }
    try:
        done = subprocess.run(
            _command(image, options), capture_output=True, env=environment
        )
    except FileNotFoundError as error:
        raise CoreError(
            "mke2fs is not installed", hint="apt-get install e2fsprogs"
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"mke2fs refuses: {said[-1] if said else done.returncode}")


def _copy(image: Path, device: Device) -> None:
    """Write to the device what of the image is not zeros."""
    zeros = bytes(_BLOCK_SIZE)
    with image.open("rb", buffering=0) as opened:
        at, size = 0, device.size
        while at < size:
            try:
                at = os.lseek(opened.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(opened.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(opened.fileno(), min(end - at, _COPIED_AT_ONCE), at)
                if not data:
                    raise SourceError(f"{image}: it became shorter")
                _write(device, at, data, zeros)
                at += len(data)


def _write(device: Device, offset: int, data: bytes, zeros: bytes) -> None:
    """Write the blocks of data that are not zeros, in runs."""
    start = None
    for at in range(0, len(data), _BLOCK_SIZE):
        empty = data[at : at + _BLOCK_SIZE] == zeros[: len(data) - at]
        if not empty and start is None:
            start = at
        elif empty and start is not None:
            device.pwrite(offset + start, data[start:at])
            start = None
    if start is not None:
        device.pwrite(offset + start, data[start:])
