# SPDX-License-Identifier: Apache-2.0
"""
filesystems - which file system is on a disk, and how it wants to be mounted.

What container runtimes and containerd's block snapshotters are told of a
mount is made here too: a type, a source and options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import HostError, UsageError

__all__ = ["KINDS", "describe", "kind_of", "mount_options"]


class _Kind(NamedTuple):
    """A file system: where its magic is, and what a mount has to say.

    Attributes:
        at: offset of the magic in bytes.
        magic: the bytes there.
        read_only: options of a disk that takes no writes: it may have a
            journal that nobody can replay.
        always: options in any case.
    """

    at: int
    magic: bytes
    read_only: tuple[str, ...] = ()
    always: tuple[str, ...] = ()


KINDS = {
    "ext4": _Kind(1080, b"\x53\xef", ("noload",)),
    # Disks that share an image have the same uuid.
    "xfs": _Kind(0, b"XFSB", ("norecovery",), ("nouuid",)),
    "btrfs": _Kind(0x10040, b"_BHRfS_M"),
    "ntfs": _Kind(3, b"NTFS    "),
    "erofs": _Kind(1024, b"\xe2\xe1\xf5\xe0"),
    "squashfs": _Kind(0, b"hsqs"),
}


def kind_of(disk: str | Path) -> str | None:
    """Return the file system on a disk, None when it is none of KINDS."""
    try:
        fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{disk}: {error.strerror}") from error
    try:
        for name, kind in KINDS.items():
            if os.pread(fd, len(kind.magic), kind.at) == kind.magic:
                return name
    except OSError as error:
        raise HostError(f"{disk}: {error.strerror}") from error
    finally:
        os.close(fd)
    return None


def mount_options(kind: str, *, read_only: bool, discard: bool = True) -> list[str]:
    """Return the options that a file system of that kind is mounted with.

    discard: what is deleted in it is given back, where it can be.
    """
    known = KINDS.get(kind)
    if read_only:
        return ["ro", *(known.read_only + known.always if known else ())]
    gives_back = discard and kind in ("ext4", "xfs", "btrfs")
    options = ["rw", *(known.always if known else ())]
    return [*options, "discard"] if gives_back else options


def describe(
    device: str, *, read_only: bool, kind: str | None = None
) -> dict[str, Any]:
    """Return how a device is mounted, as containerd and Kata are told it.

    As in {"type": "ext4", "source": "/dev/nbd0", "options": ["ro", "noload"]}.
    Raises UsageError when there is no file system that is known.
    """
    kind = kind or kind_of(device)
    if kind is None:
        raise UsageError(f"{device}: has no file system that is known here")
    options = mount_options(kind, read_only=read_only)
    name = "ntfs3" if kind == "ntfs" else kind
    return {"type": name, "source": device, "options": options}
