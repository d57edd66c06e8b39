# SPDX-License-Identifier: Apache-2.0
"""
recorder - notes what is read of a device while it is in use.

Each read is noted as parts of the layers' streams, with the time and whether
its bytes were here. It changes nothing about the read.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from obdengine import _core
from obdengine.device.trace import MAX_RECORDS, Read

__all__ = ["Noted", "Recorder"]


class Noted(NamedTuple):
    """A read, the seconds since the recording began, and whether it was a hit."""

    read: Read
    seconds: float
    hit: bool


class Recorder:
    """What was read so far; from any thread."""

    def __init__(self) -> None:
        """Begin now."""
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._noted: list[Noted] = []

    def note(self, core: _core.Device, offset: int, length: int) -> None:
        """Note a read of the disk that is about to be made."""
        if len(self._noted) >= MAX_RECORDS or not length:
            return
        seconds = time.monotonic() - self._began
        hit = not core.ranges(offset, length, absent_only=True)
        parts = [
            Noted(Read(part.layer, part.offset, part.size), seconds, hit)
            for part in core.streams(offset, length)
        ]
        with self._lock:
            for part in parts:
                self._append(part)

    def _append(self, part: Noted) -> None:
        """Add a part, to the last one where it goes on behind it."""
        last = self._noted[-1] if self._noted else None
        if last and last.hit == part.hit and last.read.layer == part.read.layer:
            end = last.read.offset + last.read.size
            if end == part.read.offset:
                longer = last.read._replace(size=last.read.size + part.read.size)
                self._noted[-1] = last._replace(read=longer)
                return
        self._noted.append(part)

    def noted(self) -> list[Noted]:
        """Return what was read so far."""
        with self._lock:
            return list(self._noted)

    def reads(self) -> list[Read]:
        """Return the same, for a trace."""
        return [noted.read for noted in self.noted()]
