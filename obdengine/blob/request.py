# SPDX-License-Identifier: Apache-2.0
"""
request - one request that found bytes missing, or wrong: what is done, how often.

Bytes that are missing are fetched, all at once. A block that is wrong is
fetched again, from elsewhere if there is such a place. Neither goes on for
ever. What the request itself is, is known to who makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from obdengine import _core
from obdengine.errors import SourceError
from obdengine.source import Remote, bring

__all__ = ["Fetched", "Request"]

# Rounds of fetching. One is usual; more come from others who empty or damage
# the cache between fetch and read, and after a few of them memory is used.
_ROUNDS = 12

# How often a wrong block is fetched again.
_RENEWALS = 3


class Fetched(Protocol):
    """What a request needs of a blob, or of a layer."""

    name: str

    def fetch(self, offset: int, size: int) -> None:
        """Make bytes resident that the core misses."""

    def remote_at(self, offset: int) -> tuple[Remote | None, int]:
        """Return what an offset that the core misses is in, and where there."""

    def renew(self, block: int, elsewhere: int) -> None:
        """Fetch a block again."""


class Request:
    """A request over some blobs, which are counted as the core counts layers."""

    def __init__(self, blobs: Sequence[Fetched]) -> None:
        """Begin; nothing is fetched yet."""
        self._blobs = blobs
        self._asked: dict[tuple[int, int], int] = {}
        self._renewed: dict[tuple[int, int], int] = {}

    def get(self, lacking: _core.Lacking) -> None:
        """Get what the request lacks; raises as bring() and renew() do."""
        if isinstance(lacking, _core.Damage):
            self.renew(lacking)
        else:
            self.bring(lacking)

    def bring(self, missing: Sequence[_core.StoredRange]) -> None:
        """Fetch what is missing; raises SourceError when it does not stay."""
        remote, rounds = [], 0
        for layer, offset, size in missing:
            rounds = max(rounds, self._count(layer, offset))
            place, at = self._blobs[layer].remote_at(offset)
            if place:
                remote.append((place, at, size))
            else:
                self._blobs[layer].fetch(offset, size)
        if remote:
            bring(remote, rounds)

    def _count(self, layer: int, offset: int) -> int:
        """Return how often these bytes were missed before."""
        key = layer, offset
        times = self._asked[key] = self._asked.get(key, -1) + 1
        if times > _ROUNDS:
            raise SourceError(
                f"{self._blobs[layer].name}: offset {offset}: what was fetched is "
                f"gone again, {_ROUNDS} times",
                hint="something empties the cache, or it is far too small",
            )
        return times

    def renew(self, damaged: _core.Damage) -> None:
        """Fetch a wrong block again; raises its error when that does not help."""
        key = damaged.layer, damaged.block
        times = self._renewed[key] = self._renewed.get(key, 0) + 1
        if times > _RENEWALS:
            raise damaged.error
        self._blobs[damaged.layer].renew(damaged.block, times)
