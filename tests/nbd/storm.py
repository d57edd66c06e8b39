# SPDX-License-Identifier: Apache-2.0
"""
storm - clients that write, zero, trim, read and flush at random, all at once.

    python3 -m tests.nbd.storm PLAN     PLAN is JSON, see Plan

Each connection has a part of the disk to itself and reads back what it wrote
while the others write. In the middle the server may be killed. What was asked
for and acknowledged goes into a journal for stamps.judge(). Run by the Python
that has libnbd.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import nbd  # type: ignore[import-not-found]

from tests.nbd import stamps
from tests.nbd.stamps import SECTOR, Request

_KINDS = ["write"] * 10 + ["zero", "trim"] + ["read"] * 4 + ["flush"]
_LENGTHS = [1, 1, 1, 2, 3, 8, 8, 8, 16, 33, 128, 128, 512, 2048]


class Plan(NamedTuple):
    """What is to be done.

    Attributes:
        uri: where the disk is.
        journal: the file that the requests go to.
        seed: of the chance.
        requests: how many, all connections together.
        connections: how many.
        kill: process to be killed after half of the requests; 0: none.
        size: bytes of the disk to write to; 0: all.
        full: whether ENOSPC is to be expected, and nothing to stop for.
    """

    uri: str
    journal: str
    seed: int = 1
    requests: int = 1000
    connections: int = 4
    kill: int = 0
    size: int = 0
    full: int = 0


class Part:
    """A connection, and the part of the disk that only it writes to."""

    def __init__(self, storm: Storm, number: int) -> None:
        plan = storm.plan
        self.storm = storm
        self.chance = random.Random(plan.seed * 1000 + number)
        self.disk = nbd.NBD()
        self.disk.connect_uri(plan.uri)
        sectors = (plan.size or self.disk.get_size()) // SECTOR // plan.connections
        self.first, self.sectors = number * sectors, sectors
        self.model = bytearray(self._read_all())
        self.requests: list[Request] = []

    def _read_all(self) -> bytes:
        step, end = 1 << 11, self.first + self.sectors
        return b"".join(
            self.disk.pread(min(step, end - at) * SECTOR, at * SECTOR)
            for at in range(self.first, end, step)
        )

    def run(self) -> None:
        """Send requests until it is enough, or the server is gone."""
        try:
            while self.storm.go_on():
                self._send()
        except nbd.Error as error:
            self.storm.failed(error)
        except Exception as error:
            self.storm.wrong.append(repr(error))

    def _send(self) -> None:
        kind = self.chance.choice(_KINDS)
        length = min(self.chance.choice(_LENGTHS), self.sectors)
        start = self.first + self.chance.randrange(self.sectors - length + 1)
        if kind == "read":
            self._check(start, length)
            return
        fua = kind != "flush" and self.chance.random() < 0.05
        at = len(self.requests)
        row = Request(kind, start, length, next(self.storm.clock), None, fua)
        self.requests.append(row)
        try:
            self._do(row)
        except nbd.Error as error:
            if not self.storm.plan.full or error.errno != "ENOSPC":
                raise
            self._look_again(row)
            return
        self.requests[at] = row._replace(done=next(self.storm.clock))

    def _look_again(self, row: Request) -> None:
        """Take what is there now for right: some of it was written, or none."""
        if row.kind != "flush":
            at, size = (row.start - self.first) * SECTOR, row.length * SECTOR
            found = self.disk.pread(size, row.start * SECTOR)
            self.model[at : at + size] = found

    def _do(self, row: Request) -> None:
        offset, size = row.start * SECTOR, row.length * SECTOR
        flags = nbd.CMD_FLAG_FUA if row.fua else 0
        data = bytes(size)
        if row.kind == "flush":
            self.disk.flush()
            return
        if row.kind == "write":
            data = stamps.payload(row.start, row.length, row.sent)
            self.disk.pwrite(data, offset, flags)
        elif row.kind == "zero":
            self.disk.zero(size, offset, flags | self._zero_flag())
        else:
            self.disk.trim(size, offset, flags)
        at = (row.start - self.first) * SECTOR
        self.model[at : at + size] = data

    def _zero_flag(self) -> int:
        kinds = [0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO]
        return int(self.chance.choice(kinds))

    def _check(self, start: int, length: int) -> None:
        found = self.disk.pread(length * SECTOR, start * SECTOR)
        at = (start - self.first) * SECTOR
        if found != self.model[at : at + length * SECTOR]:
            self.storm.wrong.append(f"read back at {start}, {length} sectors")


class Storm:
    """All the connections."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = itertools.count(1)
        self.wrong: list[str] = []
        self._left = itertools.count(plan.requests, -1)
        self._killed = False
        self.parts = [Part(self, number) for number in range(plan.connections)]

    def go_on(self) -> bool:
        """Count a request; kill the server when it is time."""
        left = next(self._left)
        if self.plan.kill and left == self.plan.requests // 2:
            self._killed = True
            os.kill(self.plan.kill, signal.SIGKILL)
        return left > 0

    def failed(self, error: Any) -> None:
        """Take the failure of a request: it is none when the server was killed."""
        if not self._killed:
            self.wrong.append(str(error))

    def run(self) -> None:
        """Let all connections go, and write the journal."""
        threads = [threading.Thread(target=part.run) for part in self.parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = [row for part in self.parts for row in part.requests]
        stamps.save(Path(self.plan.journal), rows)


def main() -> None:
    """Do what the plan says; the exit code tells whether reads were right."""
    storm = Storm(Plan(**json.loads(sys.argv[1])))
    storm.run()
    sys.exit("\n".join(storm.wrong[:10]) or 0)


if __name__ == "__main__":
    main()
