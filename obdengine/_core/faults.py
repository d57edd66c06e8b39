# SPDX-License-Identifier: Apache-2.0
"""
faults - what C found wrong, as an exception with a sentence.

C says what and where in numbers; the words are all here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from obdengine.errors import (
    BadBlock,
    BadChecksum,
    BadIndex,
    BadJumpTable,
    BadTargetIndex,
    CoreError,
    ObdError,
    OutOfRange,
    ReadOnly,
    ShortSource,
    SourceError,
)
from obdengine.segment import ENTRY_SIZE

__all__ = ["Fault", "exception"]


class Fault(NamedTuple):
    """The numbers of struct obd_fault, and where a table starts in its file."""

    at: int
    got: int
    want: int
    block: int
    base: int


def _io(name: str, f: Fault) -> ObdError:
    return SourceError(f"{name}: offset {f.at}: {os.strerror(f.got)}", errno=f.got)


def _short(name: str, f: Fault) -> ObdError:
    return ShortSource(
        f"{name}: offset {f.at}: the file ends here, {f.want} more bytes are needed",
        hint="it was cut off or changed after it was opened",
    )


def _out_of_range(name: str, f: Fault) -> ObdError:
    return OutOfRange(
        f"{name}: {f.want} bytes at offset {f.at} reach past the end, {f.got}"
    )


def _entry(
    what: str, expected: Callable[[Fault], str], found: Callable[[Fault], str]
) -> Callable[[str, Fault], ObdError]:
    def make(name: str, f: Fault) -> ObdError:
        return BadIndex(
            name,
            f"index entry {f.at} {what}",
            offset=f.base + ENTRY_SIZE * f.at,
            expected=expected(f),
            found=found(f),
        )

    return make


def _too_many(name: str, f: Fault) -> ObdError:
    return BadJumpTable(
        name, "number of blocks", offset=f.at, expected=f.want, found=f.got
    )


def _bad_length(name: str, f: Fault) -> ObdError:
    return BadJumpTable(
        name,
        f"stored length of block {f.block}",
        offset=f.at,
        expected=f"at most {f.want} and not empty",
        found=f.got,
    )


def _bad_sum(name: str, f: Fault) -> ObdError:
    return BadJumpTable(
        name, "the blocks' end", offset=f.at, expected=f.want, found=f.got
    )


def _bad_crc(name: str, f: Fault) -> ObdError:
    return BadChecksum(
        name,
        f"crc of block {f.block}",
        offset=f.at,
        expected=f"{f.want:#010x}",
        found=f"{f.got:#010x}",
    )


def _bad_block(name: str, f: Fault) -> ObdError:
    found = f"{f.got} bytes" if f.got else "bytes that do not inflate"
    return BadBlock(
        name, f"block {f.block}", offset=f.at, expected=f"{f.want} bytes", found=found
    )


def _point(
    what: str, expected: Callable[[Fault], str]
) -> Callable[[str, Fault], ObdError]:
    def make(name: str, f: Fault) -> ObdError:
        what_of = f"{what} of entry {f.block}"
        return BadTargetIndex(
            name, what_of, offset=f.base, expected=expected(f), found=f.got
        )

    return make


def _bad_window(name: str, f: Fault) -> ObdError:
    return BadTargetIndex(
        name,
        f"the window of entry {f.block} of its index",
        offset=f.at,
        expected=f"{f.want} bytes",
        found=f"{f.got} bytes" if f.got else "bytes that do not inflate",
    )


def _more_members(name: str, f: Fault) -> ObdError:
    return BadTargetIndex(
        name,
        "the index covers the first gzip member only, another follows",
        offset=f.at,
        expected="the end of the file",
        found="a gzip member",
        hint="its author left data out; make the layer anew",
    )


def _bad_member(name: str, f: Fault) -> ObdError:
    if f.got not in (1, 2):
        found = "bytes that do not inflate"
        return BadBlock(name, "compressed data", offset=f.at, found=found)
    return BadChecksum(
        name,
        f"the {'crc' if f.got == 1 else 'size'} of a gzip member",
        offset=f.at,
        expected="that of what it inflates to",
        found="another",
    )


def _full(name: str, f: Fault) -> ObdError:
    return SourceError(
        f"{name}: no room left to write",
        errno=f.got,
        hint="make room on the disk, or raise the size limit of the layer",
    )


def _read_only(name: str, f: Fault) -> ObdError:
    return ReadOnly(f"{name}: the image has no writable layer")


_MAKERS: dict[str, Callable[[str, Fault], ObdError]] = {
    "io": _io,
    "short": _short,
    "out_of_range": _out_of_range,
    "empty_entry": _entry("is empty", lambda f: "sectors", lambda f: "none"),
    "disorder": _entry(
        "overlaps the one before, or is out of order",
        lambda f: f"start at sector {f.want} or later",
        lambda f: f"{f.got}",
    ),
    "beyond_disk": _entry(
        "reaches past the disk",
        lambda f: f"end at sector {f.want} or before",
        lambda f: f"{f.got}",
    ),
    "before_data": _entry(
        "points before the data",
        lambda f: f"sector {f.want} of the layer or later",
        lambda f: f"{f.got}",
    ),
    "beyond_data": _entry(
        "points past the data",
        lambda f: f"end at sector {f.want} of the layer or before",
        lambda f: f"{f.got}",
    ),
    "too_many": _too_many,
    "bad_length": _bad_length,
    "bad_sum": _bad_sum,
    "bad_crc": _bad_crc,
    "bad_block": _bad_block,
    "bad_tag": _entry(
        "is of an unknown kind",
        lambda f: f"a tag up to {f.want}, counted from the smallest",
        lambda f: f"{f.got}",
    ),
    "point_order": _point("position", lambda f: f"more than {f.want}"),
    "point_beyond": _point("position", lambda f: f"less than {f.want}"),
    "point_far": _point("the stretch up to the end", lambda f: f"at most {f.want}"),
    "point_bits": _point("bits", lambda f: f"at most {f.want}, as its kind has them"),
    "point_window": _point("window", lambda f: f"size or end up to {f.want}"),
    "bad_window": _bad_window,
    "more_members": _more_members,
    "bad_member": _bad_member,
    "full": _full,
    "read_only": _read_only,
}


def exception(status: str, fault: Fault, name: str) -> ObdError:
    """Return the exception for a status of the core, by its lower-case name."""
    if status in _MAKERS:
        return _MAKERS[status](name, fault)
    if status == "nomem":
        return CoreError(f"{name}: no memory left", errno=errno.ENOMEM)
    return CoreError(f"{name}: the core refused a request: {status}")
