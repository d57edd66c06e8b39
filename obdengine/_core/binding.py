# SPDX-License-Identifier: Apache-2.0
"""
binding - the compiled module, and what every call into it needs.

The only importer of the compiled module. Buffers are handed over without a
copy, every call releases the interpreter lock, and a status that is not OK
becomes an exception that names the file.
"""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from obdengine._core.faults import Fault, exception
from obdengine.errors import CoreError, FormatError

try:
    from obdengine._core._obd import ffi, lib
except ImportError as missing:
    raise CoreError(
        f"the compiled part of obdengine cannot be loaded: {missing}",
        errno=errno.ENOSYS,
        hint="build it with `make setup`, or `pip install` the package",
    ) from missing

__all__ = [
    "Absent",
    "Buffer",
    "Damage",
    "Damaged",
    "Lacking",
    "StoredRange",
    "check",
    "ffi",
    "lib",
    "made",
    "new_fault",
    "source",
    "target",
]

Buffer = bytes | bytearray | memoryview

_CORE_VERSION = 2
if lib.OBD_CORE_VERSION != _CORE_VERSION:
    raise CoreError(
        f"the compiled part of obdengine is version {lib.OBD_CORE_VERSION}, "
        f"this is for {_CORE_VERSION}",
        hint="build it again with `make setup`",
    )

_STATUS_NAMES = {
    value: key.removeprefix("OBD_").lower()
    for value, key in ffi.typeof("enum obd_status").elements.items()
}


class StoredRange(NamedTuple):
    """Bytes of the file of one layer."""

    layer: int
    offset: int
    size: int


class Damage(NamedTuple):
    """A block that was fetched and is wrong, and what to raise if it stays so."""

    layer: int
    block: int
    error: FormatError


# What a request lacks: bytes that are to be fetched, or a block to be renewed.
Lacking = list[StoredRange] | Damage


class Absent(Exception):
    """Bytes that a request needs are not on this machine; fetch, then ask again.

    Attributes:
        ranges, lacking: which bytes of which files; not always all that will
            be needed.
    """

    def __init__(self, ranges: list[StoredRange]) -> None:
        """Say what is missing."""
        super().__init__(ranges)
        self.ranges: list[StoredRange] = ranges
        self.lacking: Lacking = ranges


class Damaged(Exception):
    """A block that was fetched is wrong; drop it, fetch it again, ask again.

    Attributes:
        lacking: which block, and what to raise when it stays wrong.
    """

    def __init__(self, layer: int, block: int, error: FormatError) -> None:
        """Say which block."""
        super().__init__(error)
        self.lacking: Lacking = Damage(layer, block, error.with_traceback(None))


def check(status: int, fault: Any, name: str, base: int = 0) -> None:
    """Raise what status means; base is where entries of an index start."""
    if status == lib.OBD_OK:
        return
    if status == lib.OBD_ABSENT:
        raise Absent([StoredRange(fault.layer, fault.at, fault.want)])
    facts = Fault(fault.at, fault.got, fault.want, fault.block, base)
    raise exception(_STATUS_NAMES.get(status, str(status)), facts, name)


def new_fault() -> Any:
    """Return an empty struct obd_fault."""
    return ffi.new("struct obd_fault *")


def source(data: Buffer) -> Any:
    """Return data as C reads it; keep the result while C does."""
    return ffi.from_buffer("uint8_t[]", data)


def target(data: bytearray | memoryview) -> Any:
    """Return data as C writes it; keep the result while C does."""
    return ffi.from_buffer("uint8_t[]", data, require_writable=True)


def made(pointer: Any, what: str) -> Any:
    """Return pointer, or raise when C had no memory for it."""
    if pointer == ffi.NULL:
        raise CoreError(f"no memory for {what}", errno=errno.ENOMEM)
    return pointer
