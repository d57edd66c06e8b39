# SPDX-License-Identifier: Apache-2.0
"""
truth - what each sector may read as after the power went at some moment.

The rule of durability: its value at the last flush that had returned, or one
written since; also one whose write had begun and not returned. A sector has
one of these as a whole, so a mix of two is none of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

SECTOR = 512
ZEROS = bytes(SECTOR)


@dataclass
class Wrote:
    """One write: the sectors from start on get these values.

    begun and acked are ticks; acked is infinite until it returned.
    """

    start: int
    values: Sequence[bytes]
    begun: int
    acked: float = math.inf


@dataclass
class Truth:
    """All writes and flushes of a run.

    Attributes:
        first: what each sector may be at the start.
        writes: in the order in which they began.
        flushes: when each that returned had begun, and returned.
    """

    first: list[frozenset[bytes]]
    writes: list[Wrote] = field(default_factory=list)
    flushes: list[tuple[int, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, start: int, values: Sequence[bytes], tick: int) -> Wrote:
        """Note that a write begins; who writes sets acked when it returned."""
        wrote = Wrote(start, values, tick)
        with self._lock:
            self.writes.append(wrote)
        return wrote

    def flushed(self, begun: int, ended: int) -> None:
        """Note a flush that returned."""
        with self._lock:
            self.flushes.append((begun, ended))

    def allowed(self, now: float) -> list[set[bytes]]:
        """Return what each sector may be when the power goes at that tick."""
        safe = max((begun for begun, ended in self.flushes if ended < now), default=-1)
        found: list[set[bytes]] = [set(values) for values in self.first]
        # Of each sector: when the last write began that the flush covers.
        covered: list[float] = [-1.0] * len(found)
        for wrote in self.writes:
            if wrote.acked < safe:
                for sector in range(wrote.start, wrote.start + len(wrote.values)):
                    covered[sector] = max(covered[sector], wrote.begun)
        for sector, begun in enumerate(covered):
            if begun >= 0:
                found[sector].clear()
        for wrote in self.writes:
            if wrote.begun < now:
                for sector, value in enumerate(wrote.values, wrote.start):
                    if wrote.acked >= covered[sector]:
                        found[sector].add(value)
        return found
