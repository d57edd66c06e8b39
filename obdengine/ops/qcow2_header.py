# SPDX-License-Identifier: Apache-2.0
"""
qcow2_header - what must be known of a qcow2 file before qemu may open it.

qemu's docs/interop/qcow2.txt has the format. Everything else about the file is
qemu's to say and to judge.
"""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from obdengine.errors import BadHeader
from obdengine.source import FileSource
from obdengine.units import round_up

__all__ = ["Qcow2Header", "read_header", "snapshot_sizes"]

_MAGIC = b"QFI\xfb"
_EXTERNAL_DATA = 1 << 2
_DATA_FILE = 0x44415441
_END = 0
_HEAD = 64 << 10  # bytes in which everything is, with the smallest clusters too

# Sizes of id, of name, and of the extra data behind it: that of the state of
# the machine, and of the disk.
_SNAPSHOT = struct.Struct(">12xHH20xI")

_ENCRYPTIONS = {0: None, 1: "AES", 2: "LUKS"}


class Qcow2Header(NamedTuple):
    """Some of a header.

    Attributes:
        encryption: "AES", "LUKS", or None.
        data_file: name of the file that has the data, None: this one; "" when
            that is not recorded.
    """

    encryption: str | None
    data_file: str | None


def read_header(path: Path) -> Qcow2Header:
    """Return what the header of a qcow2 file says; raises BadHeader, SourceError."""
    with closing(FileSource(path)) as opened:
        raw = opened.pread(0, min(opened.size, _HEAD))
    if len(raw) < 104:
        raise BadHeader(str(path), "the header of a qcow2 file", found=len(raw))
    magic, version, method = struct.unpack_from(">4sI24xI", raw)
    if magic != _MAGIC:
        return Qcow2Header(None, None)  # which qemu will say
    encryption = _ENCRYPTIONS.get(method, f"method {method}")
    (features,) = struct.unpack_from(">Q", raw, 72)
    if version < 3 or not features & _EXTERNAL_DATA:
        return Qcow2Header(encryption, None)
    return Qcow2Header(encryption, _data_file(raw))


def snapshot_sizes(path: Path, count: int) -> list[int | None]:
    """Return the bytes that the disk had in each snapshot; None: not recorded.

    count: of the snapshots that there are by qemu's word. Raises BadHeader
    when their table is not all in the file.
    """
    with closing(FileSource(path)) as opened:
        (at,) = struct.unpack(">Q", opened.pread(64, 8))
        sizes: list[int | None] = []
        for _ in range(count):
            if at + _SNAPSHOT.size + 24 > opened.size:
                raise BadHeader(str(path), "the table of snapshots", offset=at)
            head = opened.pread(at, _SNAPSHOT.size + 24)
            id_size, name_size, more = _SNAPSHOT.unpack_from(head)
            (size,) = struct.unpack_from(">Q", head, _SNAPSHOT.size + 8)
            sizes.append(size if more >= 16 else None)
            at += round_up(_SNAPSHOT.size + more + id_size + name_size, 8)
    return sizes


def _data_file(raw: bytes) -> str:
    """Return the name in an extension of the header, "" when there is none."""
    (at,) = struct.unpack_from(">I", raw, 100)
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(">II", raw, at)
        if kind == _DATA_FILE:
            return raw[at + 8 : at + 8 + size].decode("utf-8", "surrogateescape")
        if kind == _END:
            break
        at += 8 + (size + 7) // 8 * 8
    return ""
