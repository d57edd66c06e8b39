# SPDX-License-Identifier: Apache-2.0
"""
resident - a descriptor that the C core can read a source's bytes from.

A local file is its own. Any other source gets an anonymous file in memory
that starts as one hole; fetch() brings ranges in. Which ranges are in is
known to the core, which asks for what it misses, and not remembered here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from obdengine import _core
from obdengine.errors import Closed
from obdengine.source.contract import Source
from obdengine.source.remote import Remote
from obdengine.units import MIB, round_up

__all__ = ["Resident", "resident_of"]

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
        self._core: _core.Blob | None = None
        own = source.fileno()
        self.complete = own is not None
        self.fd = _anonymous(source) if own is None else own

    def attach(self, core: _core.Blob) -> None:
        """Tell core of what is fetched from now on; it reads fd."""
        self._core = core

    def want(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take note that ranges will be read; they are near enough."""

    def fetch(self, offset: int, size: int, round: int = 0) -> None:
        """Bring [offset, offset + size) in; does nothing when complete.

        The range is widened to whole units of the core's presence map. Safe
        from many threads: two that fetch the same range write the same bytes.
        Raises what the source raises, and Closed after close().
        """
        if self.fd < 0:
            raise Closed(f"{self.source.name}: fetch after close")
        if self.complete:
            return
        unit = _core.PRESENCE_UNIT
        start = at = offset // unit * unit
        end = min(round_up(offset + size, unit), self.source.size)
        while at < end:
            data = self.source.pread(at, min(_STEP, end - at))
            _write_all(self.fd, data, at)
            at += len(data)
        if self._core:
            self._core.mark_present(start, end - start)

    def close(self) -> None:
        """Close the descriptor and the source; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and not self.complete:
            os.close(fd)
        self.source.close()


def resident_of(source: Source) -> Resident | Remote:
    """Return what the core can read source from; it takes source over."""
    return source if isinstance(source, Remote) else Resident(source)


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
