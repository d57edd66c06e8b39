# SPDX-License-Identifier: Apache-2.0
"""
gate - who may use the network next: demand, ahead of it, prefetch, background.

So many requests run at once. One that somebody waits for is let in before any
other; what a reader comes to next, and then what a trace says, only while none of
these waits, and never on the last places; the background only while nothing
else runs. It knows no request by name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["AHEAD", "BACKGROUND", "DEMAND", "PREFETCH", "Gate"]

DEMAND, AHEAD, PREFETCH, BACKGROUND = range(4)

# Seconds without demand until the background goes on: a guest that reads in
# steps leaves such gaps while it thinks.
_QUIET = 0.05


class Gate:
    """Lets requests through by their priority.

    Attributes:
        limit: how many run at once.
        prefetches: how many of them may be what nobody waits for yet.
    """

    def __init__(self, limit: int = 32, prefetches: int = 16) -> None:
        """Leave some places that only demand may have."""
        self.limit = limit
        self.prefetches = min(prefetches, limit - 1)
        self._changed = threading.Condition()
        self._waiting = [0, 0, 0, 0]
        self._running = [0, 0, 0, 0]
        self._last_demand = 0.0

    @contextmanager
    def slot(self, priority: int) -> Iterator[None]:
        """Wait for a place, and have it for the block."""
        with self._changed:
            self._waiting[priority] += 1
            try:
                while not self._may(priority):
                    self._changed.wait(_QUIET if priority == BACKGROUND else None)
            finally:
                self._waiting[priority] -= 1
            self._running[priority] += 1
        try:
            yield
        finally:
            with self._changed:
                self._running[priority] -= 1
                if priority == DEMAND:
                    self._last_demand = time.monotonic()
                self._changed.notify_all()

    def _may(self, priority: int) -> bool:
        running = self._running
        if sum(running) >= self.limit:
            return False
        if priority == DEMAND:
            return True
        if any(self._waiting[:priority]):
            return False
        if priority != BACKGROUND:
            return running[AHEAD] + running[PREFETCH] < self.prefetches
        quiet = time.monotonic() - self._last_demand >= _QUIET
        return not sum(running) and quiet
