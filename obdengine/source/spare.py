# SPDX-License-Identifier: Apache-2.0
"""
spare - memory for what a cache could not keep: its disk is full, or broken.

One bound for the whole process. What came first goes first, and whoever still
needs it asks for it again. Nothing here is shared with other processes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import ClassVar

from obdengine import _core
from obdengine.units import MIB

__all__ = ["Spare"]

# Bytes. Twice the largest request that NBD knows, which has to be there whole.
_BOUND = 64 * MIB


class Spare:
    """An anonymous file beside a blob's cached one, at the same offsets."""

    _lock = threading.Lock()
    _held: ClassVar[deque[tuple[Spare, int, int]]] = deque()
    _size = 0

    def __init__(self, size: int) -> None:
        """Make a file of size bytes that takes no memory yet."""
        self.fd = os.memfd_create("obdengine-spare", os.MFD_CLOEXEC)
        self._core: _core.Blob | None = None
        try:
            os.ftruncate(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise

    def attach(self, core: _core.Blob) -> None:
        """Lend to this blob, which must have been told of fd."""
        self._core = core

    def lend(self, offset: int, data: bytes, sums: bytes) -> None:
        """Have data, whole units from offset on, at hand for a while."""
        core = self._core
        if core is None:
            return
        with Spare._lock:
            if self.fd < 0:
                return
            _make_room(len(data))
            os.pwrite(self.fd, data, offset)
            Spare._held.append((self, offset, len(data)))
            Spare._size += len(data)
        core.adopt(offset // _core.PRESENCE_UNIT, sums, lent=True)

    def forget(self, offset: int, size: int) -> None:
        """Give the memory of a range back."""
        if self._core:
            self._core.forget(offset, size)
        _core.punch(self.fd, offset, size)

    def close(self) -> None:
        """Give all of it back; a second time does nothing."""
        with Spare._lock:
            mine = [entry for entry in Spare._held if entry[0] is self]
            Spare._size -= sum(size for _, _, size in mine)
            for entry in mine:
                Spare._held.remove(entry)
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _make_room(size: int) -> None:
    while Spare._held and Spare._size + size > _BOUND:
        spare, offset, length = Spare._held.popleft()
        Spare._size -= length
        spare.forget(offset, length)
