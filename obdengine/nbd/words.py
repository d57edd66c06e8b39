# SPDX-License-Identifier: Apache-2.0
"""
words - the numbers of NBD's negotiation.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; those of the
transmission phase are in _core/wire.h.
"""

from __future__ import annotations

import enum

__all__ = [
    "ALLOCATION",
    "GREETING",
    "LAYER",
    "OPTION_MAGIC",
    "REPLY_MAGIC",
    "Flag",
    "Handshake",
    "Info",
    "Option",
    "Reply",
]

GREETING = b"NBDMAGICIHAVEOPT"
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9

# Metadata contexts. The second is ours: see _core/export.h for its numbers.
ALLOCATION = "base:allocation"
LAYER = "obd:layer"


class Handshake(enum.IntFlag):
    """Of the greeting, and of the client's answer."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(enum.IntEnum):
    """What a client asks for."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(enum.IntEnum):
    """What a server answers."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 1 << 31 | 1
    ERR_POLICY = 1 << 31 | 2
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(enum.IntEnum):
    """Kinds of facts about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Flag(enum.IntFlag):
    """What can be done with an export."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_CACHE = 1024
    SEND_FAST_ZERO = 2048
