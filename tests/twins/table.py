# SPDX-License-Identifier: Apache-2.0
"""
table - the merged index of a stack, and looking a sector up in it.

merge() asks the layers about every stretch between two edges; find() walks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from sortedcontainers import SortedDict

from obdengine.segment import Segment


def merge(layers: Sequence[Iterable[Segment]]) -> list[Segment]:
    """Fold layers, the bottom one first; the newest one that has a sector wins."""
    held = [SortedDict((seg.start, seg) for seg in layer) for layer in layers]
    edges = {edge for one in held for s in one.values() for edge in (s.start, s.end)}
    found = (_newest(held, *stretch) for stretch in pairwise(sorted(edges)))
    return joined(segment for segment in found if segment)


def _newest(held: list[SortedDict], start: int, end: int) -> Segment | None:
    for number in reversed(range(len(held))):
        below = held[number].bisect_right(start) - 1
        segment = held[number].peekitem(below)[1] if below >= 0 else None
        if segment and segment.end > start:
            moffset = segment.moffset + (0 if segment.zeroed else start - segment.start)
            return Segment(start, end - start, moffset, segment.zeroed, number)
    return None


def joined(segments: Iterable[Segment]) -> list[Segment]:
    """Return the same map with the fewest entries, of any length.

    Two maps that say the same are equal after this: where a run is cut does
    not count, nor does the moffset of a zeroed entry.
    """
    result: list[Segment] = []
    for segment in segments:
        if segment.zeroed:
            segment = segment._replace(moffset=0)
        if result and _continues(result[-1], segment):
            longer = result[-1].length + segment.length
            result[-1] = result[-1]._replace(length=longer)
        else:
            result.append(segment)
    return result


def _continues(a: Segment, b: Segment) -> bool:
    stored_next = a.zeroed or a.moffset + a.length == b.moffset
    return a.end == b.start and stored_next and a[3:] == b[3:]


def find(segments: Sequence[Segment], sector: int) -> int:
    """Return the index of the first entry that ends after sector."""
    for index, segment in enumerate(segments):
        if segment.end > sector:
            return index
    return len(segments)
