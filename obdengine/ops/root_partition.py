# SPDX-License-Identifier: Apache-2.0
"""
root_partition - which partition of a disk has a Linux root in it.

  (1) the one whose GPT type says root of some architecture; else
  (2) the largest with ext2, 3 or 4 whose top folder has etc, and usr or bin; else
  (3) the only one with XFS or btrfs, into which nobody looks here.

Several that are equally good are refused, with a list.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from obdengine.errors import UsageError
from obdengine.ops.disks import Disk
from obdengine.ops.partitions import Partition, partitions, read

__all__ = ["root_partition"]

# From the Discoverable Partitions Specification.
_ROOT_TYPES = {
    "44479540-f297-41b2-9af7-d131d5f0458a": "x86",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "x86-64",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "arm",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "arm64",
    "c31c45e6-3f39-412e-80fb-4809c4980599": "ppc64le",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224": "riscv64",
    "5eead9a9-fe09-4a1e-a1d7-520d00531306": "s390x",
}

_EXT_MAGIC = 0xEF53
_64BIT, _EXTENTS = 0x80, 0x80000
_EXTENT_MAGIC = 0xF30A
_MAX_FOLDER = 1 << 20  # bytes of a top folder that are looked at
_ROOT_INODE = 2
_MAX_BLOCK_BITS = 6  # 1024 << 6: 64 KiB


def root_partition(disk: Disk) -> Partition:
    """Return the partition with a Linux root in it.

    Raises UsageError when there is none, or no telling which; what reading
    disk raises, and FormatError when its table is damaged or missing.
    """
    found = partitions(disk)
    marked = [one for one in found if one.kind in _ROOT_TYPES]
    if marked:
        return _only(disk, marked, "several are marked as root")
    roots = [one for one in found if _has_root(disk, one)]
    if roots:
        roots.sort(key=lambda one: -one.size)
        best = [one for one in roots if one.size == roots[0].size]
        return _only(disk, best, "several of one size have a root in them")
    others = [one for one in found if _is_other(disk, one)]
    if others:
        return _only(disk, others, "several may have a root in them")
    has = ", ".join(map(str, found)) or "none"
    raise UsageError(
        f"{disk.name}: no partition with a Linux root", hint=f"it has {has}"
    )


def _only(disk: Disk, found: Sequence[Partition], complaint: str) -> Partition:
    if len(found) > 1:
        has = ", ".join(map(str, found))
        raise UsageError(f"{disk.name}: {complaint}: {has}", hint="say which by number")
    return found[0]


def _is_other(disk: Disk, one: Partition) -> bool:
    xfs = read(disk, one.offset, 4) == b"XFSB"
    return xfs or read(disk, one.offset + 65600, 8) == b"_BHRfS_M"


def _has_root(disk: Disk, one: Partition) -> bool:
    names = set(_top_names(disk, one))
    return b"etc" in names and bool(names & {b"usr", b"bin"})


def _top_names(disk: Disk, one: Partition) -> Iterator[bytes]:
    """Yield what is in the top folder of an ext file system, nothing of others.

    Damage makes it yield less, or nonsense: it decides nothing but a choice.
    """
    start = one.offset
    words = read(disk, start + 1024, 1024)
    if struct.unpack_from("<H", words, 56)[0] != _EXT_MAGIC:
        return
    (bits,) = struct.unpack_from("<I", words, 24)
    features, inode_size = (
        struct.unpack_from("<I", words, 96)[0],
        struct.unpack_from("<H", words, 88)[0] or 128,
    )
    if bits > _MAX_BLOCK_BITS:
        return
    block = 1024 << bits
    # The descriptor of the first group follows the block of the superblock.
    group = read(disk, start + (2048 if bits == 0 else block), 64)
    (table,) = struct.unpack_from("<I", group, 8)
    if features & _64BIT:
        table |= struct.unpack_from("<I", group, 40)[0] << 32
    inode = read(disk, start + table * block + (_ROOT_INODE - 1) * inode_size, 128)
    seen = 0
    for number in _blocks(disk, start, block, inode):
        seen += block
        if not 0 < number * block < one.size or seen > _MAX_FOLDER:
            return
        yield from _names(read(disk, start + number * block, block))


def _blocks(disk: Disk, start: int, block: int, inode: bytes) -> Iterator[int]:
    """Yield the numbers of the blocks of an inode, as far as they are direct."""
    if not struct.unpack_from("<I", inode, 32)[0] & _EXTENTS:
        yield from (n for n in struct.unpack_from("<12I", inode, 40) if n)
        return
    node = inode[40:100]
    for _ in range(6):  # a tree is at most five high
        magic, count, _most, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC:
            return
        if depth:
            low, high = struct.unpack_from("<IH", node, 16)
            node = read(disk, start + (low | high << 32) * block, block)
            continue
        for at in range(12, min(12 + 12 * count, len(node) - 11), 12):
            length, high, low = struct.unpack_from("<HHI", node, at + 4)
            yield from ((low | high << 32) + n for n in range(length & 0x7FFF))
        return


def _names(raw: bytes) -> Iterator[bytes]:
    """Yield the names in one block of a folder."""
    at = 0
    while at + 8 <= len(raw):
        inode, step, length = struct.unpack_from("<IHB", raw, at)
        if step < 8:
            return
        if inode:
            yield raw[at + 8 : at + 8 + length]
        at += step
