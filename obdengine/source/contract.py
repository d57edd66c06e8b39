# SPDX-License-Identifier: Apache-2.0
"""
contract - what every source promises, and the range check that all share.

Only words: nothing here opens or reads anything.
"""

from __future__ import annotations

from typing import Protocol

from obdengine.errors import Closed, OutOfRange, ShortSource

__all__ = ["Source", "check_range", "closed", "ended_early"]


class Source(Protocol):
    """Bytes at an offset.

    Attributes:
        name: what errors call it: a path or an address.
        size: bytes that it holds; it does not change while the source is open.
    """

    name: str
    size: int

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset.

        Raises OutOfRange when the range is not all inside the source,
        ShortSource when it ended early all the same, SourceError when it
        cannot be read, Closed after close().
        """

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset; raises as pread_into does."""

    def fileno(self) -> int | None:
        """Return a descriptor that holds the same bytes, or None."""

    def close(self) -> None:
        """Give back what the source holds. No read may be running."""


def check_range(source: Source, offset: int, size: int) -> None:
    """Raise OutOfRange unless [offset, offset + size) is inside source."""
    if offset < 0 or size < 0 or offset + size > source.size:
        raise OutOfRange(
            f"{source.name}: {size} bytes at offset {offset} are not inside its "
            f"{source.size} bytes"
        )


def ended_early(name: str, offset: int, missing: int) -> ShortSource:
    """Return the error of a source that ended although its size said more."""
    return ShortSource(
        f"{name}: ended at offset {offset}, {missing} bytes too early",
        hint="it was cut while it was open",
    )


def closed(name: str) -> Closed:
    """Return the error of a read after close()."""
    return Closed(f"{name}: read after close")
