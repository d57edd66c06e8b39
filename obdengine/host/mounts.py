# SPDX-License-Identifier: Apache-2.0
"""
mounts - an image as a folder: a device, its file system, and what is put over it.

Who is root gets the kernel's file systems, read-only, with an overlay that
takes the writes, or with an upper of the image. Who is not gets those that
run in FUSE. Unmounting undoes all that mounting did, in any state it is in.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from errno import EBUSY, EINVAL
from pathlib import Path
from typing import NamedTuple

from obdengine.errors import Busy, HostError, UsageError
from obdengine.host import devices, processes
from obdengine.host.filesystems import kind_of, mount_options
from obdengine.host.records import Places, Record, load, locked, save

__all__ = ["Mounting", "mount", "mounted_at", "unmount"]

# In the folder of a device: what an overlay lies on, and what it takes.
_LOWER, _OVERLAY = "lower", "overlay"

_DETACH = 2  # MNT_DETACH

_BTRFS_FORGET = 0x50009405  # BTRFS_IOC_FORGET_DEV

_LET_GO_SECONDS, _STEP = 5.0, 0.05


class Mounting(NamedTuple):
    """How an image is mounted.

    Attributes:
        target: the folder that it is seen in.
        kind: the file system, None to look.
        options: more options for it.
        overlay: whether writes go to an overlay.
        overlay_folder: where that keeps them, None for memory, or what /run
            is: they are gone afterwards.
    """

    target: Path
    kind: str | None = None
    options: Sequence[str] = ()
    overlay: bool = False
    overlay_folder: Path | None = None


def mount(
    places: Places, wanted: Record, how: Mounting, *, way: str | None = None
) -> Record:
    """Attach an image and mount it; HostError when it has no known file system."""
    target = how.target.absolute()
    if not target.is_dir():
        raise UsageError(f"{target}: is no folder")
    if how.overlay and not wanted.read_only:
        raise UsageError("an overlay is for an image that takes no writes itself")
    record, new = devices.attach(places, replace(wanted, made_for=str(target)), way=way)
    try:
        with locked(places, record.name) as folder:
            record = load(places, record.name) or record
            if str(target) in record.mounts:
                return record
            kind = how.kind or kind_of(record.device)
            if kind is None:
                raise HostError(f"{record.name}: has no file system that is known here")
            return _mount(places, folder, record, how._replace(kind=kind), target)
    except BaseException:
        if new:
            devices.detach(places, record.name)
        raise


def unmount(places: Places, word: str) -> str | None:
    """Undo a mount, by its folder or the name of its device; return the name.

    The device goes too, unless it was attached before. None: nothing is
    mounted there by us. Raises Busy when something uses it.
    """
    found = mounted_at(places, word)
    if found is None:
        return None
    with locked(places, found.name) as folder:
        record = load(places, found.name) or found
        for target in reversed(record.mounts):
            _unmount(Path(target))
            rest = [path for path in record.mounts if path != target]
            record = save(places, replace(record, mounts=rest))
        shutil.rmtree(folder / _OVERLAY, ignore_errors=True)
        _forget_btrfs(record.device)
    if record.made_for:
        _detach(places, record.name)
    return record.name


# The kernel remembers where it saw a btrfs, and takes another disk with the
# same uuid for the one that it remembers.
def _forget_btrfs(device: str) -> None:
    control = Path("/dev/btrfs-control")
    if not control.exists():
        return
    words = bytearray(struct.pack("=q4088s", 0, os.fsencode(device)))
    with suppress(OSError), control.open("rb") as opened:  # it does not know it
        fcntl.ioctl(opened, _BTRFS_FORGET, words)


# The kernel may have a file system's device open for a moment after the last
# overlay on it was unmounted.
def _detach(places: Places, name: str) -> None:
    for _ in range(int(_LET_GO_SECONDS / _STEP)):
        try:
            devices.detach(places, name)
            return
        except Busy:
            time.sleep(_STEP)
    devices.detach(places, name)


def mounted_at(places: Places, word: str) -> Record | None:
    """Return the device that is mounted at a folder, or has a name."""
    path = str(Path(word).absolute())
    for record in devices.attached(places):
        if record.of_this_boot and (word == record.name or path in record.mounts):
            return record
    return None


def _mount(
    places: Places, folder: Path, record: Record, how: Mounting, target: Path
) -> Record:
    lower = folder / _LOWER if how.overlay else target
    lower.mkdir(exist_ok=True)
    with _undone() as done:
        _mount_disk(record, how, lower)
        done.append(lower)
        if how.overlay:
            _mount_overlay(lower, how.overlay_folder or folder / _OVERLAY, target)
            done.append(target)
        return save(places, replace(record, mounts=[str(path) for path in done]))


@contextmanager
def _undone() -> Iterator[list[Path]]:
    """Yield a list of what was mounted, which is unmounted on failure."""
    done: list[Path] = []
    try:
        yield done
    except BaseException:
        for path in reversed(done):
            _unmount(path)
        raise


def _mount_disk(record: Record, how: Mounting, target: Path) -> None:
    assert how.kind is not None
    options = mount_options(how.kind, read_only=record.read_only)
    options += how.options
    why: list[str] = []
    for words in _commands(record, how.kind, options, target):
        if shutil.which(words[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            why.append(f"{words[0]} is not installed")
            continue
        try:
            processes.run(words)
        except HostError as error:
            why.append(str(error))
        else:
            return
    raise HostError(f"{record.name}: cannot be mounted: {'; '.join(why)}")


def _commands(
    record: Record, kind: str, options: Sequence[str], target: Path
) -> list[list[str]]:
    """Return what is tried, the best first."""
    device, place, words = record.device, str(target), ",".join(options)
    fuse = ",".join(options[:1])  # "ro" or "rw"
    if record.way == "file":
        return {
            "ext4": [["fuse2fs", device, place, "-o", f"{fuse},fakeroot"]],
            "ntfs": [["ntfs-3g", device, place, "-o", fuse]],
        }.get(kind, [["false"]])
    if kind == "ntfs":
        # Of both the kernel's is faster, and not every kernel has it.
        kernel = ["mount", "-i", "-t", "ntfs3", "-o", words, device, place]
        return [kernel, ["ntfs-3g", "-o", fuse, device, place]]
    return [["mount", "-t", kind, "-o", words, device, place]]


def _mount_overlay(lower: Path, folder: Path, target: Path) -> None:
    parts = {"lowerdir": lower}
    for name in ("upper", "work"):
        parts[f"{name}dir"] = folder.absolute() / name
        parts[f"{name}dir"].mkdir(parents=True, exist_ok=True)
    for path in parts.values():
        if set(str(path)) & set(",:\\"):
            raise UsageError(f"{path}: an overlay cannot be there, for its name")
    words = ",".join(f"{key}={path}" for key, path in parts.items())
    processes.run(["mount", "-t", "overlay", "-o", words, "overlay", str(target)])


def _unmount(path: Path) -> None:
    """Unmount what is at path, if something is; Busy when something uses it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), 0) == 0:
        return
    number = ctypes.get_errno()
    if number == EINVAL or not path.exists():
        return  # nothing is mounted there
    if number == EBUSY:
        raise Busy(f"{path}: something uses it")
    if os.geteuid() != 0:  # only fusermount3 may
        processes.run(["fusermount3", "-u", str(path)])
        return
    if libc.umount2(os.fsencode(path), _DETACH) != 0:
        raise HostError(f"{path}: {os.strerror(number)}")
