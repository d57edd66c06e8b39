# SPDX-License-Identifier: Apache-2.0
"""loop - a file as a block device, by the kernel's loop driver."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EBUSY, EINVAL, ENXIO
from pathlib import Path

from obdengine.errors import HostError
from obdengine.host.users import in_use

__all__ = ["attach_file", "detach_file", "file_of", "why_not"]

# linux/loop.h
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_CLEAR = 0x4C01
_READ_ONLY, _DIRECT_IO = 1, 16
# fd, block size; device, inode, rdevice, offset, limit, number, encryption (2),
# flags, names (2), key, init (2); reserved (8)
_CONFIG = struct.Struct("=II QQQQQ IIII 64s64s32s QQ 8Q")

_MAJOR = 7
_TRIES = 1000


def why_not() -> str | None:
    """Return why there are no loop devices here, or None when there are."""
    try:
        with _opened("/dev/loop-control", os.O_RDWR) as control:
            fcntl.ioctl(control, _GET_FREE)
    except OSError as error:
        return f"/dev/loop-control: {error.strerror}"
    return None


def attach_file(file: Path, *, read_only: bool) -> str:
    """Return a new block device with the bytes of a file, which it keeps open.

    It keeps nothing to itself: what it was told, the file was told.
    """
    flags = os.O_RDONLY if read_only else os.O_RDWR
    try:
        with _opened(str(file), flags) as source:
            for _ in range(_TRIES):
                found = _try(source, file, read_only)
                if found is not None:
                    return found
    except OSError as error:
        raise HostError(f"loop device on {file}: {error.strerror}") from error
    raise HostError(f"loop device on {file}: others are always faster")


def _try(source: int, file: Path, read_only: bool) -> str | None:
    """Set up the first free device; None when somebody else was faster."""
    with _opened("/dev/loop-control", os.O_RDWR) as control:
        number = fcntl.ioctl(control, _GET_FREE)
    path = f"/dev/loop{number}"
    if not Path(path).exists():  # a /dev that the kernel does not fill
        with suppress(FileExistsError):
            os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(_MAJOR, number))
    with _opened(path, os.O_RDONLY if read_only else os.O_RDWR) as device:
        how = _DIRECT_IO | (_READ_ONLY if read_only else 0)
        name = str(file).encode()[-63:]
        info = (*[0] * 5, 0, 0, 0, how, name, b"", b"", 0, 0)
        try:
            fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(source, 0, *info, *[0] * 8))
        except OSError as error:
            if error.errno == EBUSY:
                return None
            raise
    return path


def detach_file(device: str) -> None:
    """Take a device off its file; Busy when something uses it.

    What was written to it is in the file then. One without a file is fine.
    """
    try:
        with _opened(device, os.O_RDONLY | os.O_EXCL) as opened:
            with suppress(OSError):  # the file is gone, and has been said so before
                os.fsync(opened)
            fcntl.ioctl(opened, _CLEAR)
    except OSError as error:
        if error.errno == EBUSY:
            raise in_use(device) from error
        if error.errno not in (ENXIO, EINVAL):
            raise HostError(f"{device}: {error.strerror}") from error


def file_of(device: str) -> str | None:
    """Return the file that a device is on, None when it is on none."""
    place = Path("/sys/block", Path(device).name, "loop/backing_file")
    try:
        return place.read_text().strip()
    except OSError:
        return None


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
