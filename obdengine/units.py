# SPDX-License-Identifier: Apache-2.0
"""
units - sectors, bytes, and how people write sizes.

Sectors are named start, length, end; bytes are named offset, size. The two
are never mixed in one name, and the conversion is always written with SECTOR.
"""

from __future__ import annotations

from obdengine.errors import UsageError

__all__ = ["GIB", "KIB", "MIB", "SECTOR", "TIB", "human_size", "parse_size", "round_up"]

SECTOR = 512
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def round_up(size: int, unit: int) -> int:
    """Return the smallest multiple of unit that is not less than size."""
    return -(-size // unit) * unit


def parse_size(text: str) -> int:
    """Return the bytes that a person means by "64k", "10G", "1.5T" or "4096".

    Suffixes are binary, as qemu-img's are; "KiB" and "KB" mean the same.
    Raises UsageError when it is not a size.
    """
    word = text.strip().lower().removesuffix("ib").removesuffix("b")
    suffix = word[-1:] if word[-1:] in _SUFFIXES and word[-1:].isalpha() else ""
    number = word.removesuffix(suffix)
    try:
        value = float(number) * _SUFFIXES[suffix]
    except ValueError:
        value = -1.0
    if not 0 <= value < 2**63 or value != int(value):
        raise UsageError(
            f"{text!r} is not a size", hint="write bytes, or a number with k, M, G or T"
        )
    return int(value)


def human_size(size: int) -> str:
    """Return size in bytes as a short text, as qemu-img prints it: "1.5 GiB"."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
