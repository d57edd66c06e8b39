# SPDX-License-Identifier: Apache-2.0
"""devices - a stack of blobs, and an upper, as one disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from obdengine._core.binding import (
    Absent,
    Buffer,
    Damaged,
    StoredRange,
    check,
    ffi,
    lib,
    new_fault,
    source,
    target,
)
from obdengine._core.blobs import Blob
from obdengine._core.segments import SegMap
from obdengine._core.uppers import Upper
from obdengine.errors import BadBlock, BadChecksum, UsageError
from obdengine.units import SECTOR, round_up

__all__ = ["Device", "DeviceCalls", "RawExtent"]

_ENTRIES_AT_ONCE = 512


class RawExtent(NamedTuple):
    """A run of bytes of the disk; layer is None where nothing is mapped."""

    offset: int
    size: int
    layer: int | None
    zero: bool
    data: bool
    present: bool


class DeviceCalls(NamedTuple):
    """Addresses of a device and of the functions of device.h that work on it."""

    device: int
    read: int
    write: int
    discard: int


class Device:
    """A stack of blobs under one map, and an upper, as one disk. Keeps all alive."""

    def __init__(
        self,
        blobs: Sequence[Blob],
        segmap: SegMap,
        size: int,
        upper: Upper | None = None,
    ) -> None:
        """Make a disk of size bytes; blobs[i] is layer i, upper is the next."""
        pointers = ffi.new("struct obd_blob *[]", [b._c for b in blobs])
        c_upper = upper._c if upper else ffi.NULL
        pointer = lib.obd_device_new(pointers, len(blobs), segmap._c, c_upper, size)
        if pointer == ffi.NULL:
            raise UsageError(f"no disk of {size} bytes can be made of these layers")
        self._c = ffi.gc(pointer, lib.obd_device_free)
        self._blobs = tuple(blobs)
        self._segmap = segmap
        self._upper = upper
        self.size = size

    def pread_into(self, offset: int, buf: bytearray | memoryview) -> None:
        """Fill buf with the bytes at offset, or raise; Absent when not here."""
        dst, fault = target(buf), new_fault()
        status = lib.obd_device_read(self._c, offset, dst, len(dst), fault)
        if status == lib.OBD_ABSENT:
            raise Absent(self.ranges(offset, len(dst), absent_only=True))
        if status != lib.OBD_OK:
            self._raise(status, fault)

    def _raise(self, status: int, fault: Any) -> None:
        block = fault.block
        try:
            check(status, fault, self._name_of(fault))
        except (BadBlock, BadChecksum) as error:
            if fault.layer < len(self._blobs) and self._blobs[fault.layer].guarded:
                raise Damaged(fault.layer, block, error) from error
            raise

    def _name_of(self, fault: Any) -> str:
        if self._upper and fault.layer == len(self._blobs):
            return self._upper.name
        return self._blobs[fault.layer].name_at(fault) if self._blobs else "disk"

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write data at offset, or raise; Absent when part of a sector is not here."""
        src, fault = source(data), new_fault()
        status = lib.obd_device_write(self._c, offset, src, len(src), fault)
        self._judge(status, fault, offset, len(src))

    def zero(self, offset: int, size: int) -> None:
        """Make size bytes at offset read as zeros; raises as pwrite() does."""
        fault = new_fault()
        status = lib.obd_device_zero(self._c, offset, size, fault)
        self._judge(status, fault, offset, size)

    def discard(self, offset: int, size: int) -> None:
        """Do the same to the whole sectors of the range."""
        fault = new_fault()
        status = lib.obd_device_discard(self._c, offset, size, fault)
        self._judge(status, fault, offset, size)

    def _judge(self, status: int, fault: Any, offset: int, size: int) -> None:
        if status == lib.OBD_ABSENT:
            start, end = offset // SECTOR * SECTOR, round_up(offset + size, SECTOR)
            end = min(end, self.size)
            raise Absent(self.ranges(start, end - start, absent_only=True))
        if status != lib.OBD_OK:
            name = self._upper.name if self._upper else self._name_of(fault)
            if status in (lib.OBD_BAD_CRC, lib.OBD_BAD_BLOCK):
                self._raise(status, fault)
            check(status, fault, name)

    def calls(self) -> DeviceCalls:
        """Return what other C code needs to use the device, while this lives."""
        names = ("obd_device_read", "obd_device_write", "obd_device_discard")
        functions = [ffi.addressof(lib, name) for name in names]
        pointers = [ffi.cast("uintptr_t", p) for p in (self._c, *functions)]
        return DeviceCalls(*map(int, pointers))

    def extents(self, offset: int, size: int) -> list[RawExtent]:
        """Describe the start of a range, as much as one call gives."""
        out = ffi.new("struct obd_extent[]", _ENTRIES_AT_ONCE)
        n, fault = ffi.new("size_t *"), new_fault()
        status = lib.obd_device_extents(
            self._c, offset, size, out, _ENTRIES_AT_ONCE, n, fault
        )
        check(status, fault, "disk")
        return [_raw_extent(out[i]) for i in range(n[0])]

    def ranges(
        self, offset: int, size: int, *, absent_only: bool = False
    ) -> list[StoredRange]:
        """Return which bytes of which files the range is made from."""
        which = lib.OBD_RANGES_ABSENT if absent_only else lib.OBD_RANGES_STORED
        return self._ranges(offset, size, which)

    def streams(self, offset: int, size: int) -> list[StoredRange]:
        """Return which bytes of which layers' streams the range is made from."""
        return self._ranges(offset, size, lib.OBD_RANGES_STREAM)

    def _ranges(self, offset: int, size: int, which: int) -> list[StoredRange]:
        out = ffi.new("struct obd_range[]", _ENTRIES_AT_ONCE)
        n, fault = ffi.new("size_t *"), new_fault()
        status = lib.obd_device_ranges(
            self._c, offset, size, which, out, _ENTRIES_AT_ONCE, n, fault
        )
        check(status, fault, "disk")
        found = (out[i] for i in range(n[0]))
        return [StoredRange(r.layer, r.offset, r.size) for r in found]


def _raw_extent(e: Any) -> RawExtent:
    return RawExtent(
        e.offset,
        e.size,
        None if e.layer == lib.OBD_NO_LAYER else e.layer,
        bool(e.flags & lib.OBD_EXTENT_ZERO),
        bool(e.flags & lib.OBD_EXTENT_DATA),
        bool(e.flags & lib.OBD_EXTENT_PRESENT),
    )
