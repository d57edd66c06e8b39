# SPDX-License-Identifier: Apache-2.0
"""
acl - access control lists, as Linux shows them and as ext4 keeps them.

    attribute:  version 2, entries of (tag, permissions, who)
    tar:        a text, or the attribute
    ext4:       version 1, entries of (tag, permissions) and, for a user or
                group that is named, who

libext2fs makes the last from the first, and trusts what it is given.
"""

from __future__ import annotations

import re
import struct

__all__ = ["ACL", "fault_of", "from_disk", "from_text"]

# How the names of such attributes begin.
ACL = b"system.posix_acl_"

_SHORT, _LONG = struct.Struct("<HH"), struct.Struct("<HHI")
_SHOWN, _KEPT = b"\2\0\0\0", b"\1\0\0\0"
_NOBODY = 0xFFFFFFFF

# As star and GNU tar write an entry: a number may be behind it.
_ROW = re.compile(rb"(user|group|mask|other):([^:]*):([r-][w-][x-])(?::(\d+))?")
_WORDS = {b"user": 0x01, b"group": 0x04, b"mask": 0x10, b"other": 0x20}

# user:: user:x: group:: group:x: mask:: other::
_TAGS = frozenset((0x01, 0x02, 0x04, 0x08, 0x10, 0x20))
_NAMED = frozenset((0x02, 0x08))


def fault_of(value: bytes) -> str:
    """Say what is wrong with the value of an attribute, "" when nothing is."""
    rows = value[len(_SHOWN) :]
    if not value.startswith(_SHOWN) or len(rows) % _LONG.size:
        return "that is none"
    if any(tag not in _TAGS or perm > 7 for tag, perm, _ in _LONG.iter_unpack(rows)):
        return "with an entry of no known kind"
    return ""


def from_text(text: bytes) -> bytes | None:
    """Return the attribute that a list like "user::rw-,user:5:r--" means.

    b"" when it says no more than a mode does; None when it names people, who
    have no number here, or is not such a text.
    """
    rows = []
    for word in re.split(rb"[,\n]", text.strip()):
        row = _ROW.fullmatch(word.strip())
        if not row:
            return None
        kind, name, letters, number = row.groups()
        who = number or name
        if who and not (who.isdigit() and int(who) < _NOBODY):
            return None
        tag = _WORDS[kind] << bool(who)
        perm = sum(4 >> i for i, letter in enumerate(letters) if letter != ord("-"))
        rows.append((tag, int(who) if who else _NOBODY, perm))
    if all(tag in (0x01, 0x04, 0x20) for tag, _, _ in rows):
        return b""
    return _SHOWN + b"".join(_LONG.pack(t, perm, who) for t, who, perm in sorted(rows))


def from_disk(kept: bytes) -> bytes:
    """Return what ext4 keeps in the form of an attribute; as it is if broken."""
    if not kept.startswith(_KEPT):
        return kept
    shown, at = [_SHOWN], len(_KEPT)
    while at < len(kept):
        if len(kept) - at < _SHORT.size:
            return kept
        tag, perm = _SHORT.unpack_from(kept, at)
        who = _NOBODY
        if tag in _NAMED:
            if len(kept) - at < _LONG.size:
                return kept
            who = _LONG.unpack_from(kept, at)[2]
        at += _LONG.size if tag in _NAMED else _SHORT.size
        shown.append(_LONG.pack(tag, perm, who))
    return b"".join(shown)
