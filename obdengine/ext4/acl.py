# SPDX-License-Identifier: Apache-2.0
"""
acl - access control lists, as the extended attributes of Linux have them.

A list is a version, 2, and entries of 8 bytes: tag, permissions, who. ext4
keeps it in another form; libext2fs translates, and trusts what it is given.
"""

from __future__ import annotations

import struct

from obdengine.ext4.tree import PathError

__all__ = ["judge_acl"]

_ENTRY = struct.Struct("<HHI")
_VERSION = b"\2\0\0\0"

# user::, user:x:, group::, group:x:, mask::, other::
_TAGS = frozenset((0x01, 0x02, 0x04, 0x08, 0x10, 0x20))


def judge_acl(value: bytes) -> None:
    """Raise PathError unless value is a list that can be translated."""
    rows = value[len(_VERSION) :]
    if not value.startswith(_VERSION) or len(rows) % _ENTRY.size:
        raise PathError("an access control list that is none")
    if any(tag not in _TAGS or perm > 7 for tag, perm, _ in _ENTRY.iter_unpack(rows)):
        raise PathError("an access control list with an entry of no known kind")
