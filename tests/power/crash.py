# SPDX-License-Identifier: Apache-2.0
"""
crash - what may be on a disk when the power goes, given all that was done to it.

The rules, which allow more than real file systems do:
  (1) what was done to a file before its last sync is there;
  (2) of what came after, any part may be there: each change may be missing, and
      of each write any sectors of 512 bytes, whatever else is missing; a file
      may also be longer already and hold zeros where the data will be;
  (3) names change in order, and what came before the last sync of the folder is
      there; a name may be there while the file is still empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.power.recorder import Op, Recorder

SECTOR = 512

# name -> content
State = dict[str, bytes]


class File:
    """One file: what is surely there, what came after, and both together."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = content
        self.now = bytearray(content)
        self.pending: list[Op] = []

    def change(self, op: Op) -> None:
        """Do what the log says, a sync too."""
        if op.kind == "sync":
            self.durable, self.pending = bytes(self.now), []
        else:
            _apply(self.now, op)
            self.pending.append(op)

    def some(self, chance: Random) -> bytes:
        """Return the file with a part of what came after the last sync."""
        if not self.pending:
            return self.durable
        content, bias = bytearray(self.durable), chance.random()
        for op in self.pending:
            if chance.random() < bias:
                _apply(content, op)
            elif op.kind in ("write", "punch"):
                _apply_torn(content, op, chance)
        return bytes(content)


def _apply(content: bytearray, op: Op) -> None:
    end = op.offset + op.size
    if op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
    elif op.kind == "write":
        content.extend(bytes(max(0, op.offset - len(content))))
        content[op.offset : end] = op.data
    elif op.kind == "punch":
        end = min(end, len(content))
        content[op.offset : end] = bytes(max(0, end - op.offset))
    else:
        raise AssertionError(op)


def _apply_torn(content: bytearray, op: Op, chance: Random) -> None:
    """Apply some sectors of a write or a hole, or none."""
    kind = chance.randrange(4)
    if kind == 0 and op.kind == "write":
        missing = op.offset + op.size - len(content)
        content.extend(bytes(max(0, missing)))
    if kind < 2:
        return
    at, end = op.offset, op.offset + op.size
    while at < end:
        step = min(end, at // SECTOR * SECTOR + SECTOR) - at
        if chance.random() < 0.5:
            data = op.data[at - op.offset : at - op.offset + step]
            _apply(content, op._replace(offset=at, size=step, data=data))
        at += step


class Disk:
    """The folder, as the log is gone through."""

    def __init__(self, start: dict[str, tuple[int, bytes]]) -> None:
        self._files = {number: File(content) for number, content in start.values()}
        self._names = {name: number for name, (number, _) in start.items()}
        self._pending: list[Op] = []

    def change(self, op: Op) -> None:
        """Do what the log says."""
        if op.kind == "folder":
            self._names, self._pending = self._named(len(self._pending)), []
        elif op.kind in ("create", "rename", "unlink"):
            if op.kind == "create":
                self._files[op.file] = File()
            self._pending.append(op)
        else:
            self._files[op.file].change(op)

    def _named(self, count: int) -> dict[str, int]:
        """Return the names after so many of the changes since the last sync."""
        names = dict(self._names)
        for op in self._pending[:count]:
            if op.kind == "create":
                names[op.name] = op.file
            elif op.kind == "rename":
                names[op.target] = names.pop(op.name)
            else:
                del names[op.name]
        return names

    def everything(self) -> State:
        """Return all that was done."""
        names = self._named(len(self._pending))
        return {name: bytes(self._files[n].now) for name, n in names.items()}

    def only_synced(self) -> State:
        """Return what is surely there."""
        return {name: self._files[n].durable for name, n in self._names.items()}

    def some(self, chance: Random) -> State:
        """Return one of the many others."""
        names = self._named(chance.randint(0, len(self._pending)))
        return {name: self._files[n].some(chance) for name, n in names.items()}

    def states(self, chance: Random, samples: int) -> Iterator[State]:
        """Yield both extremes and so many others."""
        yield self.everything()
        yield self.only_synced()
        for _ in range(samples):
            yield self.some(chance)


def replayed(recorder: Recorder) -> State:
    """Return what the log says is in the folder."""
    disk = Disk(recorder.start)
    for op in recorder.log:
        disk.change(op)
    return disk.everything()
