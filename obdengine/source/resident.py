# SPDX-License-Identifier: Apache-2.0
"""
resident - a descriptor that the C core can read a source's bytes from.

A local file is its own. Any other source gets an anonymous file in memory
that starts as one hole; fetch() brings ranges in. Which ranges are in is
known to the core, which asks for what it misses, and not remembered here.
"""

from __future__ import annotations

import os

from obdengine.errors import Closed
from obdengine.source.contract import Source
from obdengine.units import MIB

__all__ = ["Resident"]

# One fetch holds at most this much of the source in Python's memory.
_STEP = MIB


class Resident:
    """A source and the descriptor that holds what was fetched of it.

    Attributes:
        source: where the bytes come from; closed together with this.
        fd: the descriptor; -1 after close().
        complete: whether all of the source is behind fd from the start.
    """

    def __init__(self, source: Source) -> None:
        """Take over source and find or make its descriptor."""
        self.source = source
        own = source.fileno()
        self.complete = own is not None
        self.fd = _anonymous(source) if own is None else own

    def fetch(self, offset: int, size: int) -> None:
        """Bring [offset, offset + size) in; does nothing when complete.

        Safe from many threads: two that fetch the same range write the same
        bytes. Raises what the source raises, and Closed after close().
        """
        if self.fd < 0:
            raise Closed(f"{self.source.name}: fetch after close")
        if self.complete:
            return
        end = offset + size
        while offset < end:
            data = self.source.pread(offset, min(_STEP, end - offset))
            _write_all(self.fd, data, offset)
            offset += len(data)

    def close(self) -> None:
        """Close the descriptor and the source; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and not self.complete:
            os.close(fd)
        self.source.close()


def _anonymous(source: Source) -> int:
    fd = os.memfd_create("obdengine", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, source.size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
