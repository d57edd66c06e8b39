# SPDX-License-Identifier: Apache-2.0
"""
stamps - what must be on a disk after a crash, from a journal of what clients did.

Every sector that a client writes says which sector it is and by which write.
When the server has died, each must have

    what the last write has put there that was acknowledged before a flush was
    sent which was acknowledged too, or that was acknowledged and had FUA;
    or what a write after that one has put there, acknowledged or not.

It knows nothing about how the server keeps its promise. Only the standard
library: the Python of libnbd runs it too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
_STAMP = struct.Struct("<QQ")
_ZEROS = bytes(SECTOR)


class Request(NamedTuple):
    """What a client asked for; of each sector one client only writes.

    Attributes:
        kind: "write", "zero", "trim" or "flush".
        start: first sector.
        length: in sectors.
        sent: when; times grow from request to request, of all clients.
        done: when it was acknowledged, None if it never was.
        fua: whether it was to be durable when acknowledged.
    """

    kind: str
    start: int
    length: int
    sent: int
    done: int | None
    fua: bool


def payload(start: int, length: int, number: int) -> bytes:
    """Return what the write that is called number puts into these sectors."""
    return b"".join(_sector(at, number) for at in range(start, start + length))


def _sector(at: int, number: int) -> bytes:
    return _STAMP.pack(at, number) * (SECTOR // _STAMP.size)


def save(path: Path, requests: Iterable[Request]) -> None:
    """Keep a journal."""
    path.write_text(json.dumps(list(requests)))


def load(path: Path) -> list[Request]:
    """Return a journal that was kept."""
    return [Request(*row) for row in json.loads(path.read_text())]


class Verdict(NamedTuple):
    """What judge() has found.

    Attributes:
        wrong: a sentence for each sector that broke the rule.
        written: sectors that some request has touched.
        lost: of those, how many do not have what was sent last.
    """

    wrong: list[str]
    written: int
    lost: int


def judge(before: bytes, requests: Iterable[Request], after: bytes) -> Verdict:
    """Judge the disk that was found after a crash; before is the one at first."""
    rows = sorted(requests, key=lambda row: row.sent)
    horizon = max((r.sent for r in rows if r.kind == "flush" and r.done), default=-1)
    allowed: dict[int, list[int | None]] = {}
    for row in rows:
        if row.kind == "flush":
            continue
        number = row.sent if row.kind == "write" else 0
        durable = row.done is not None and (row.fua or row.done < horizon)
        for at in range(row.start, row.start + row.length):
            if durable:
                allowed[at] = [number]
            else:
                allowed.setdefault(at, [None]).append(number)
    return _compare(before, allowed, after)


def _compare(
    before: bytes, allowed: dict[int, list[int | None]], after: bytes
) -> Verdict:
    wrong, lost = [], 0
    for at in range(len(before) // SECTOR):
        numbers = allowed.get(at, [None])
        found = after[at * SECTOR : (at + 1) * SECTOR]
        old = before[at * SECTOR : (at + 1) * SECTOR]
        may = [_content(at, number, old) for number in numbers]
        if found not in may:
            wrong.append(f"sector {at}: {_describe(found, old)}, allowed {numbers}")
        lost += found != may[-1]
    return Verdict(wrong, len(allowed), lost)


def _content(at: int, number: int | None, old: bytes) -> bytes:
    """Return the sector as a request has left it: None for none, 0 for zeros."""
    if number is None:
        return old
    return _sector(at, number) if number else _ZEROS


def _describe(found: bytes, old: bytes) -> str:
    if found == old:
        return "as it was at first"
    if found == _ZEROS:
        return "zeros"
    stamp = _STAMP.unpack_from(found)
    whole = found == _STAMP.pack(*stamp) * (SECTOR // _STAMP.size)
    return f"{'stamp' if whole else 'a mixture that begins with'} {stamp}"
