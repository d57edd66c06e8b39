# SPDX-License-Identifier: Apache-2.0
"""
plot - a recorded trace as a picture: where in the image, over time.

Hits are green, misses red, and blue is what a trace brought before it was
asked for. It needs Pillow, which nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from obdengine.device.recorder import Noted
from obdengine.errors import UsageError
from obdengine.units import human_size

__all__ = ["COLOURS", "draw"]

_WIDTH, _HEIGHT = 1200, 700
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 20, 40, 50

COLOURS = {
    "miss": (200, 40, 40),
    "hit": (40, 150, 60),
    "prefetched": (40, 90, 200),
}


def draw(
    path: Path, noted: Sequence[Noted], title: str, *, prefetched: bool = False
) -> None:
    """Write the PNG; prefetched: hits are what a trace has brought.

    Raises UsageError without Pillow, OSError when it cannot be written.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise UsageError(
            "a plot needs Pillow", hint="pip install pillow, or python3-pil"
        ) from error
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    bases, total = _bases(noted)
    seconds = max((n.seconds for n in noted), default=0.0) or 1.0
    _axes(pen, title, bases, total, seconds)
    for one in noted:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * one.seconds / seconds
        start = bases[one.read.layer] + one.read.offset
        top = _y(start + one.read.size, total)
        bottom = max(_y(start, total), top + 2)
        kind = "miss" if not one.hit else "prefetched" if prefetched else "hit"
        pen.rectangle((x, top, x + 2, bottom), fill=COLOURS[kind])
    image.save(path, "PNG")


def _bases(noted: Sequence[Noted]) -> tuple[dict[int, int], int]:
    """Return where each layer begins on the axis, and where the last one ends."""
    ends: dict[int, int] = {}
    for one in noted:
        end = one.read.offset + one.read.size
        ends[one.read.layer] = max(ends.get(one.read.layer, 0), end)
    bases, at = {}, 0
    for layer in sorted(ends):
        bases[layer] = at
        at += ends[layer]
    return bases, max(at, 1)


def _y(offset: int, total: int) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * offset / total


def _axes(
    pen: Any, title: str, bases: dict[int, int], total: int, seconds: float
) -> None:
    pen.text((_LEFT, 12), title, fill="black")
    frame = (_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    pen.rectangle(frame, outline="black")
    for layer, base in bases.items():
        y = _y(base, total)
        pen.line((_LEFT, y, _WIDTH - _RIGHT, y), fill=(200, 200, 200))
        pen.text((8, y - 12), f"layer {layer}", fill="black")
    pen.text((8, _TOP), human_size(total), fill="black")
    for part in range(5):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * part / 4
        pen.text(
            (x - 20, _HEIGHT - _BOTTOM + 8), f"{seconds * part / 4:.2f} s", "black"
        )
    x = _LEFT
    for name, colour in COLOURS.items():
        pen.rectangle((x, _HEIGHT - 20, x + 10, _HEIGHT - 10), fill=colour)
        pen.text((x + 16, _HEIGHT - 22), name, fill="black")
        x += 110
