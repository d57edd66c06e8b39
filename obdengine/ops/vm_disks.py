# SPDX-License-Identifier: Apache-2.0
"""
vm_disks - the disk that each file of a chain makes with those below it.

    level      its disk                  its ranges
    bottom     the file                  where it has anything but zeros
    above      the file over the rest    what it allocates itself, zeros too

qemu puts the files on top of each other, so what is read is what a machine
would read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from obdengine.device import Device
from obdengine.errors import SourceError, Unsupported
from obdengine.ops import qemu
from obdengine.ops.disks import Disk, RawDisk, StackDisk
from obdengine.ops.qemu import Node
from obdengine.ops.vm_images import Snapshot, VmFile
from obdengine.source.nbd import ALLOCATION, DEPTH, ZERO, NbdClient

__all__ = ["Below", "Level", "NbdDisk", "Over", "SliceDisk", "flat_level", "levels_of"]


@dataclass(frozen=True)
class Level:
    """One file of a chain, ready to be opened.

    Attributes:
        path: of the file.
        open: gives its disk for a block of code; open(True): with ranges that
            cover all that is not zero, and not only what the file itself has.
    """

    path: Path
    open: Callable[[bool], AbstractContextManager[Disk]]


class NbdDisk:
    """A disk behind an NBD server that knows where it has what."""

    def __init__(
        self, client: NbdClient, *, own: bool = False, cover: int | None = None
    ) -> None:
        """Read from client, which stays the caller's.

        own: let ranges() be what the topmost file allocates, zeros too, and
        all from the byte cover on, where the file below ends.
        """
        self.name = client.name
        self.size = client.size
        self._client = client
        self._own = own
        self._cover = client.size if cover is None else min(cover, client.size)
        if client.contexts != (ALLOCATION, DEPTH):
            raise Unsupported(self.name, "this qemu-nbd does not say what is where")

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf, with zeros past the end; raises as NbdClient does."""
        there = max(0, min(len(buf), self.size - offset))
        if there:
            self._client.pread_into(offset, buf[:there])
        buf[there:] = bytes(len(buf) - there)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) as the class says, in order."""
        for offset, end, (allocation, depth) in self._client.status(0, self.size):
            if not self._own:
                if not allocation & ZERO:
                    yield offset, end
            elif depth == 1:
                yield offset, end
            elif end > self._cover:
                yield max(offset, self._cover), end


class Below(StackDisk):
    """What a level is compared with: only where the level has something."""

    def __init__(self, device: Device) -> None:
        """Read from device, which stays the caller's."""
        super().__init__(device)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield nothing: what a level does not have is as it is here."""
        return iter(())


class Over:
    """A layer over a disk that is none of the same image."""

    def __init__(self, device: Device, below: Disk) -> None:
        """Read from device where it has something, else from below."""
        self.name = device.name
        self.size = device.size
        self._device = device
        self._below = below

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf, which ends with the disk; raises as both do."""
        self._below.pread_into(offset, buf)
        for extent in self._device.extents(offset, len(buf)):
            if extent.layer is not None:
                start, end = extent.offset - offset, extent.end - offset
                self._device.pread_into(extent.offset, buf[start:end])

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what either has data for."""
        both = StackDisk(self._device).ranges(), self._below.ranges()
        for start, end in heapq.merge(*both):
            yield start, min(end, self.size)


class SliceDisk:
    """A part of a disk as a disk; what is past the end of either is zero."""

    def __init__(self, disk: Disk, offset: int, size: int) -> None:
        """Take size bytes at offset of disk, less where it ends before."""
        self.name = disk.name
        self.size = max(0, min(size, disk.size - offset))
        self._disk = disk
        self._offset = offset

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf, with zeros past the end; raises as the disk does."""
        there = max(0, min(len(buf), self.size - offset))
        if there:
            self._disk.pread_into(self._offset + offset, buf[:there])
        buf[there:] = bytes(len(buf) - there)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what the disk yields, as far as it is in the part."""
        for start, end in self._disk.ranges():
            low, high = start - self._offset, min(end - self._offset, self.size)
            if low >= self.size:
                return
            if high > max(low, 0):
                yield max(low, 0), high


def levels_of(
    chain: Sequence[VmFile],
    *,
    snapshot: Snapshot | None = None,
    secret: Path | None = None,
) -> list[Level]:
    """Return a level for each file of a chain, the bottom one first.

    snapshot: one in the topmost file, which is taken as it was then.
    """
    levels = []
    for number in range(len(chain)):
        top = number == len(chain) - 1
        sizes = [below.size for below in chain[:number]]
        # Past the end of the file below it is all zeros, whatever is under it.
        ends_early = sizes and sizes[-1] < max(sizes)
        levels.append(
            _level(
                chain[: number + 1],
                own=number > 0,
                cover=sizes[-1] if ends_early else None,
                snapshot=snapshot if top else None,
                secret=secret,
            )
        )
    return levels


def flat_level(
    chain: Sequence[VmFile],
    *,
    snapshot: Snapshot | None = None,
    secret: Path | None = None,
) -> Level:
    """Return a single level that is all of a chain."""
    return _level(chain, own=False, cover=None, snapshot=snapshot, secret=secret)


def _level(
    files: Sequence[VmFile],
    *,
    own: bool,
    cover: int | None,
    snapshot: Snapshot | None,
    secret: Path | None,
) -> Level:
    top = files[-1]

    @contextmanager
    def open_(whole: bool) -> Iterator[Disk]:
        if top.form == "raw" and set(top.node) == {"driver", "file"}:
            with RawDisk(top.path, any_content=True) as disk:
                yield disk
            return
        with qemu.exported(
            str(top.path),
            _stacked(files),
            contexts=(ALLOCATION, DEPTH),
            snapshot=_option(snapshot) if snapshot else None,
            secret=secret if any(file.encrypted for file in files) else None,
        ) as client:
            found = NbdDisk(client, own=own and not whole, cover=cover)
            yield _as_it_was(found, snapshot) if snapshot else found

    return Level(top.path, open_)


def _stacked(files: Sequence[VmFile]) -> Node:
    """Return the node that has all of files open, the last one on top."""
    node: Node | None = None
    for file in files:
        if node is not None and not file.backed:
            raise SourceError(f"{file.path}: {file.form} has no backing files")
        node = {**file.node, "backing": node} if file.backed else file.node
    assert node is not None
    return node


def _option(snapshot: Snapshot) -> str:
    """Return the option that means a snapshot."""
    return f"snapshot.id={snapshot.id.replace(',', ',,')}"


def _as_it_was(disk: NbdDisk, snapshot: Snapshot) -> Disk:
    """Return the disk with the size that it had; qemu-nbd gives it that of now."""
    size = disk.size if snapshot.size is None else snapshot.size
    if size > disk.size:
        raise Unsupported(
            disk.name,
            f"the disk had {size} bytes in snapshot {snapshot.name!r}, it has only "
            f"{disk.size} now",
            hint="let `qemu-img resize` make it as large as it was, in a copy",
        )
    return SliceDisk(disk, 0, size)
