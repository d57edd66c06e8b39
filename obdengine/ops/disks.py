# SPDX-License-Identifier: Apache-2.0
"""
disks - what `convert` reads from: a raw disk, or a stack.

Both say how large they are, fill a buffer, and tell where they may have
something but zeros, so that holes need not be read. Other formats than raw
are recognized in order to be refused.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO, NamedTuple, Protocol

from obdengine import _core, source
from obdengine.blob import format as zfile
from obdengine.blob import tar
from obdengine.config import begins_config
from obdengine.device import Device
from obdengine.errors import FormatError, SourceError, Unsupported
from obdengine.layer import format as lsmt
from obdengine.ops.vm_locks import refuse_locked
from obdengine.source import FileSource, Source
from obdengine.units import MIB, SECTOR, round_up

__all__ = [
    "STREAM",
    "Base",
    "BaseDisk",
    "Disk",
    "RawDisk",
    "StackDisk",
    "foreign",
    "hidden",
    "looks_like_image",
    "vm_format",
]

STREAM = "-"  # standard input, or output

_GRANULE = 4096

_LAYER = "a layer, not a raw disk"


class _Magic(NamedTuple):
    """How a file of another kind begins.

    Attributes:
        form: what qemu calls the format; "" for what it does not read.
    """

    offset: int
    magic: bytes
    what: str
    form: str = ""


_FOREIGN = [
    _Magic(0, b"QFI\xfb\0\0\0\1", "a qcow image", "qcow"),
    _Magic(0, b"QFI\xfb", "a qcow2 image", "qcow2"),
    _Magic(0, b"QED\0", "a QED image", "qed"),
    _Magic(0, b"KDMV", "a VMDK image", "vmdk"),
    _Magic(0, b"COWD", "a VMDK image", "vmdk"),
    _Magic(0, b"# Disk DescriptorFile", "the description of a VMDK image", "vmdk"),
    _Magic(0, b"vhdxfile", "a VHDX image", "vhdx"),
    _Magic(0, b"conectix", "a VHD image", "vpc"),
    _Magic(64, b"\x7f\x10\xda\xbe", "a VDI image", "vdi"),
    _Magic(0, b"WithoutFreeSpace", "a Parallels image", "parallels"),
    _Magic(0, b"WithouFreSpacExt", "a Parallels image", "parallels"),
    _Magic(0, b"LUKS\xba\xbe", "encrypted with LUKS", "luks"),
    _Magic(0, b"\x1f\x8b\x08", "compressed with gzip"),
    _Magic(0, b"\xfd7zXZ\0", "compressed with xz"),
    _Magic(0, b"BZh", "compressed with bzip2"),
    _Magic(0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    _Magic(0, b"\x04\x22\x4d\x18", "compressed with lz4"),
    _Magic(257, b"ustar", "a tar archive"),
    _Magic(0, zfile.MAGIC0, _LAYER),
    _Magic(0, lsmt.MAGIC0, _LAYER),
]

# A VHD of fixed size is a raw disk with a footer.
_VHD_FOOTER = _Magic(-SECTOR, b"conectix", "a VHD image", "vpc")


class Disk(Protocol):
    """What can be converted.

    Attributes:
        name: for errors.
        size: bytes, whole sectors.
    """

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def size(self) -> int:
        """Bytes, whole sectors."""

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset; what is past the end is zero."""

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of what may be something but zeros, in order."""


class Base(Disk, Protocol):
    """What a disk can be compared with, because it goes over it."""

    def is_hidden(self, offset: int, size: int) -> bool:
        """Tell whether a range has anything that cannot be read here."""


class RawDisk:
    """A file or block device whose bytes are the disk's; "-": standard input.

    Attributes:
        name: the path.
        file_size: bytes that the file has.
        size: the same rounded up to whole sectors, as qemu does; the rest of
            the last one is zeros.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, any_content: bool = False
    ) -> None:
        """Open path; "-" is read to its end first, into a temporary file.

        Raises Unsupported when the content says that it is of another format,
        unless any_content; SourceError when it cannot be read, Busy when a
        running machine writes to it.
        """
        if os.fspath(path) != STREAM:
            refuse_locked(path)
        self._source = _spooled() if os.fspath(path) == STREAM else FileSource(path)
        self.name = self._source.name
        self.file_size = self._source.size
        self.size = round_up(self.file_size, SECTOR)
        if not any_content and (what := foreign(self._source)):
            self.close()
            raise Unsupported(
                self.name,
                f"the source is {what}",
                hint="to take its bytes as those of the disk, say that it is raw",
            )

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf, with zeros where the file has ended; raises SourceError."""
        there = max(0, min(len(buf), self.file_size - offset))
        if there:
            self._source.pread_into(offset, buf[:there])
        buf[there:] = bytes(len(buf) - there)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of what is not a hole of the file, in order."""
        fd, end = self._source.fileno(), 0
        while fd is not None and end < self.file_size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
                end = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    return
                # A block device cannot tell: all of it may be data.
                start, end = end, self.file_size
            yield start, end

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._source.close()

    def __enter__(self) -> RawDisk:
        """Return the disk, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class StackDisk:
    """A Device as a source; it stays the caller's to close."""

    def __init__(self, device: Device) -> None:
        """Read from device."""
        self.name = device.name
        self.size = device.size
        self._device = device

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf, with zeros past the end; raises what the device raises."""
        there = max(0, min(len(buf), self.size - offset))
        if there:
            self._device.pread_into(offset, buf[:there])
        buf[there:] = bytes(len(buf) - there)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of what some layer has data for, in order."""
        for extent in self._device.extents():
            if extent.data:
                yield extent.offset, extent.end

    def is_hidden(self, offset: int, size: int) -> bool:
        """Tell that there is nothing which cannot be read."""
        return False


class BaseDisk(StackDisk):
    """A Device to be compared with a disk that goes over it.

    Where that is longer, a lower layer may have something that only the end
    of this disk hides. It cannot be read, and differs from whatever is there.
    """

    def __init__(self, device: Device, size: int) -> None:
        """Read from device, under a disk of size bytes."""
        super().__init__(device)
        self._hidden = list(hidden(device, size))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of what some layer has data for, in order."""
        yield from super().ranges()
        for offset, size in self._hidden:
            yield offset, offset + size

    def is_hidden(self, offset: int, size: int) -> bool:
        """Tell whether anything in a range cannot be read."""
        return any(
            start < offset + size and offset < start + length
            for start, length in self._hidden
        )


def hidden(device: Device, size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of what lower layers have past the end of the disk.

    size: bytes up to where that matters.
    """
    if size <= device.size or not device.layers:
        return
    for segment in _core.merge([layer.segments for layer in device.layers]):
        start, end = max(segment.start * SECTOR, device.size), segment.end * SECTOR
        if not segment.zeroed and start < min(end, size):
            yield start, min(end, size) - start


def foreign(disk: Source) -> str | None:
    """Return what disk is if it is not raw, in words; None when it may be raw."""
    found = _recognized(disk)
    return found.what if found else None


def vm_format(disk: Source) -> str | None:
    """Return what qemu calls the format of disk; None: raw, or not one of its."""
    found = _recognized(disk)
    return found.form or None if found else None


def _recognized(disk: Source) -> _Magic | None:
    head = disk.pread(0, min(disk.size, 4096))
    for known in _FOREIGN:
        if head[known.offset : known.offset + len(known.magic)] == known.magic:
            return known
    if disk.size >= SECTOR and disk.pread(disk.size - SECTOR, 8) == _VHD_FOOTER.magic:
        return _VHD_FOOTER
    return None


def looks_like_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether path is a layer or a configuration, by its first bytes."""
    if os.fspath(path) == STREAM:
        return False
    try:
        with closing(source.open(path)) as opened:
            start = opened.pread(0, min(64, opened.size))
            wrapping = tar.unwrap(opened)
            magic = opened.pread(wrapping.offset, min(8, wrapping.size))
    except (SourceError, FormatError):
        return False  # reading it as a disk will say what is wrong
    return begins_config(start) or magic in (zfile.MAGIC0, lsmt.MAGIC0)


def _spooled() -> FileSource:
    """Return standard input as a temporary file that has no name any more."""
    with tempfile.TemporaryFile(prefix="obd-") as spool:
        _spool(sys.stdin.buffer, spool.fileno())
        opened = FileSource(f"/proc/self/fd/{spool.fileno()}")
    opened.name = "standard input"
    return opened


def _spool(stream: BinaryIO, fd: int) -> None:
    """Copy stream to fd, leaving out what is zero."""
    size = 0
    while data := stream.read(MIB):
        if not all(_core.zero_granules(data, _GRANULE)):
            os.pwrite(fd, data, size)
        size += len(data)
    os.truncate(fd, size)
