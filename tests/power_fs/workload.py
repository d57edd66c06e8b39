# SPDX-License-Identifier: Apache-2.0
"""
workload - a program that does what plan.py says to a writable image.

    python -m tests.power_fs.workload FOLDER --base LAYER --seed N ...

Its claims go where a cut of the power does not reach: as lines into a file, or
as marks into the log of a device-mapper target. It ends well when it has done
all, and with exit code 75 when the disk under the image refused something:
then it prints the errno's name. Between two batches the first hand has the
index written anew, or a snapshot made; between two sittings the image is
closed, and sometimes compacted.

A neighbour uses the file system too, so that what nobody asked for becomes
durable early: its fsync() commits the metadata of all files, its syncfs() data.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from random import Random

from obdengine.device import Device
from obdengine.errors import ObdError
from obdengine.layer import UpperOptions
from obdengine.ops.compact import compact
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.image import open_image
from obdengine.ops.snapshot import snapshot
from tests.power_fs import plan

REFUSED = 75

# So little that garbage is reused, and holes are made, all the time.
ROOM = UpperOptions(garbage=256 << 10)

Tell = Callable[[str], None]


def main() -> int:
    """Do the plan; return the exit code."""
    args = parse()
    tell = mark_with(args.dm) if args.dm else note_in(args.diary)
    try:
        with neighbour(args.folder.with_name("neighbour"), args.alone):
            work(args, tell)
    except (ObdError, OSError) as error:
        if error.errno not in (errno.EIO, errno.EROFS):
            raise
        print("refused:", errno.errorcode[error.errno], flush=True)
        return REFUSED
    print("done", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--form", default="append")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sittings", type=int, default=3)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--alone", action="store_true", help="without neighbour")
    parser.add_argument("--diary", type=Path)
    parser.add_argument("--dm", help="name of a log-writes target")
    return parser.parse_args()


def work(args: argparse.Namespace, tell: Tell) -> None:
    """Sit down at the disk several times."""
    chance = Random(args.seed)
    todo = [plan.batches(args.seed, hand) for hand in range(plan.HANDS)]
    hands = [Hand(number, tell, todo[number]) for number in range(plan.HANDS)]
    for _ in range(args.sittings):
        with open_writable(args.folder, args.base, args.form) as device:
            tell(plan.MADE)
            sit(device, hands, args, chance)
        if chance.random() < 0.5:
            compact(args.folder / CONFIG_NAME)


def open_writable(folder: Path, base: Path, form: str) -> Device:
    """Open the image in folder, and make it if need be."""
    return open_image([base], readonly=False, upper=folder, form=form, options=ROOM)


def sit(
    device: Device, hands: list[Hand], args: argparse.Namespace, chance: Random
) -> None:
    """Let all hands do some batches, the first one changes to the files too."""
    changes = [
        device.compact_index,
        lambda: snapshot(device, args.folder / CONFIG_NAME),
    ]

    def between() -> None:
        if chance.random() < 4 / args.batches:
            chance.choice(changes)()

    others = [
        threading.Thread(target=hand.do, args=(device, args.batches))
        for hand in hands[1:]
    ]
    for thread in others:
        thread.start()
    hands[0].do(device, args.batches, between)
    for thread in others:
        thread.join()
    for hand in hands:
        if hand.failed:
            raise hand.failed


class Hand:
    """One of those who write, each on its part of the disk."""

    def __init__(self, number: int, tell: Tell, todo: Iterator[list[plan.Step]]):
        self.failed: BaseException | None = None
        self._number = number
        self._tell = tell
        self._todo = todo
        self._durable = 0

    def do(
        self, device: Device, batches: int, between: Callable[[], None] | None = None
    ) -> None:
        """Do some batches, and what is between them; failures are kept."""
        try:
            for batch in islice(self._todo, batches):
                self._claim(batch[-1].number)
                self._do_batch(device, batch)
                if between:
                    between()
        except BaseException as error:
            self.failed = error

    def _do_batch(self, device: Device, batch: list[plan.Step]) -> None:
        for step in batch:
            self._do_step(device, step)
        device.flush()
        self._durable = batch[-1].number
        self._claim(self._durable)

    def _claim(self, begun: int) -> None:
        self._tell(str(plan.Claim(self._number, self._durable, begun)))

    def _do_step(self, device: Device, step: plan.Step) -> None:
        offset, size = step.start * plan.SECTOR, step.length * plan.SECTOR
        if step.kind == "write":
            device.pwrite(offset, plan.payload(self._number, step))
        elif step.kind == "discard":
            device.discard(offset, size)
        else:
            device.write_zeroes(offset, size)


# -- The neighbour


@contextmanager
def neighbour(path: Path, alone: bool) -> Iterator[None]:
    """Write to another file meanwhile."""
    done = threading.Event()
    thread = threading.Thread(target=disturb, args=(path, done))
    if not alone:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if not alone:
            thread.join()


def disturb(path: Path, done: threading.Event) -> None:
    """Write to a file until done, or until the disk refuses it."""
    chance, libc = Random(1), ctypes.CDLL(None)
    with suppress(OSError), path.open("wb") as opened:
        while not done.wait(chance.random() * 0.02):
            os.pwrite(opened.fileno(), bytes(4096), chance.randrange(64) * 4096)
            if chance.random() < 0.3:
                libc.syncfs(opened.fileno())
            else:
                os.fsync(opened.fileno())


# -- Where claims go


def note_in(path: Path) -> Tell:
    """Return what adds a line to a file, durably."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def tell(word: str) -> None:
        os.write(fd, f"{word}\n".encode())
        os.fsync(fd)

    return tell


# <linux/dm-ioctl.h>: struct dm_ioctl, then struct dm_target_msg.
_DM_MESSAGE = 0xC138FD0E
_DM_HEAD = struct.Struct("=3I7IQ128s129s7x")
_DM_VERSION = (4, 0, 0)


def mark_with(name: str) -> Tell:
    """Return what sends a mark to a target of the device mapper."""
    control = os.open("/dev/mapper/control", os.O_RDWR)

    def tell(word: str) -> None:
        message = struct.pack("=Q", 0) + f"mark {word}".encode() + b"\0"
        size = _DM_HEAD.size + len(message)
        numbers = (size, _DM_HEAD.size, 0, 0, 0, 0, 0)
        head = _DM_HEAD.pack(*_DM_VERSION, *numbers, 0, name.encode(), b"")
        fcntl.ioctl(control, _DM_MESSAGE, bytearray(head + message))

    return tell


if __name__ == "__main__":
    sys.exit(main())
