# SPDX-License-Identifier: Apache-2.0
"""
vm_locks - whether a qemu has an image file open for writing, by qemu's locks.

A qemu that may write to a file holds a lock on one byte of it, see
RAW_LOCK_PERM_BASE in its block/file-posix.c. Nothing is locked here.
"""

from __future__ import annotations

import fcntl
import os
import struct

from obdengine.errors import Busy

__all__ = ["refuse_locked"]

# struct flock: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "hhqqi4x"
_F_OFD_GETLK = 36

# Permissions that it holds lock the bytes from 100 on; that to write is the
# second, that to write what is there already the third.
_WRITE_BYTES = (101, 2)


def refuse_locked(path: str | os.PathLike[str]) -> None:
    """Raise Busy when another process has the right to write to an image.

    What cannot be opened is left to who reads it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_WRITE_BYTES, 0)
        answer = fcntl.fcntl(fd, _F_OFD_GETLK, question)
    except OSError:
        return  # a file system without locks: nobody has one
    finally:
        os.close(fd)
    if struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK:
        raise Busy(
            f"{os.fspath(path)}: another process, maybe a machine, writes to it",
            hint="stop it, or take a copy of a snapshot",
        )
