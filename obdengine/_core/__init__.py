# SPDX-License-Identifier: Apache-2.0
"""
_core - the door to the C core, and the only importer of the compiled module.

Buffers are handed over without a copy, every call releases the interpreter
lock, and a status that is not OK becomes an exception that names the file.
Nothing here decides anything: no I/O of its own, no retry, no cache.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from obdengine._core.faults import Fault, exception
from obdengine.errors import CoreError, UsageError
from obdengine.segment import ENTRY_SIZE, Segment

try:
    from obdengine._core._obd import ffi, lib
except ImportError as missing:
    raise CoreError(
        f"the compiled part of obdengine cannot be loaded: {missing}",
        errno=errno.ENOSYS,
        hint="build it with `make setup`, or `pip install` the package",
    ) from missing

__all__ = [
    "ALGO_LZ4",
    "ALGO_ZSTD",
    "BLOCK_SEED",
    "PRESENCE_UNIT",
    "Absent",
    "Blob",
    "Device",
    "JumpTable",
    "RawExtent",
    "SegMap",
    "Segments",
    "StoredRange",
    "crc32c",
    "crc32c_kernels",
    "crc32c_with",
    "decode_block",
    "encode_blocks",
    "merge",
    "same_granules",
    "zero_granules",
]

_Buffer = bytes | bytearray | memoryview

_VERSION = 1
if lib.OBD_CORE_VERSION != _VERSION:
    raise CoreError(
        f"the compiled part of obdengine is version {lib.OBD_CORE_VERSION}, "
        f"this is for {_VERSION}",
        hint="build it again with `make setup`",
    )

ALGO_LZ4: int = lib.OBD_ALGO_LZ4
ALGO_ZSTD: int = lib.OBD_ALGO_ZSTD
BLOCK_SEED: int = lib.OBD_BLOCK_SEED
_KERNELS = {"portable": lib.OBD_CRC32C_PORTABLE, "sse42": lib.OBD_CRC32C_SSE42}
_ENTRIES_AT_ONCE = 512

# Bytes of a file that are here or not as a whole: what one page holds, so that
# a fetch never brings in much more than was asked for.
PRESENCE_UNIT = 4096


class StoredRange(NamedTuple):
    """Bytes of the file of one layer."""

    layer: int
    offset: int
    size: int


class Absent(Exception):
    """Bytes that a request needs are not on this machine; fetch, then ask again.

    Attributes:
        ranges: which bytes of which files; not always all that will be needed.
    """

    def __init__(self, ranges: list[StoredRange]) -> None:
        """Say what is missing."""
        super().__init__(ranges)
        self.ranges = ranges


class RawExtent(NamedTuple):
    """A run of bytes of the disk; layer is None where nothing is mapped."""

    offset: int
    size: int
    layer: int | None
    zero: bool
    data: bool
    present: bool


def _check(status: int, fault: Any, name: str, base: int = 0) -> None:
    """Raise what status means; base is where entries of an index start."""
    if status == lib.OBD_OK:
        return
    if status == lib.OBD_ABSENT:
        raise Absent([StoredRange(fault.layer, fault.at, fault.want)])
    facts = Fault(fault.at, fault.got, fault.want, fault.block, base)
    raise exception(_STATUS_NAMES.get(status, str(status)), facts, name)


_STATUS_NAMES = {
    value: key.removeprefix("OBD_").lower()
    for value, key in ffi.typeof("enum obd_status").elements.items()
}


def _source(data: _Buffer) -> Any:
    return ffi.from_buffer("uint8_t[]", data)


def _target(data: bytearray | memoryview) -> Any:
    return ffi.from_buffer("uint8_t[]", data, require_writable=True)


def _made(pointer: Any, what: str) -> Any:
    """Return pointer, or raise when C had no memory for it."""
    if pointer == ffi.NULL:
        raise CoreError(f"no memory for {what}", errno=errno.ENOMEM)
    return pointer


def crc32c(data: _Buffer, seed: int = 0) -> int:
    """Return the raw reflected CRC-32C of data: nothing is inverted."""
    src = _source(data)
    return int(lib.obd_crc32c(seed, src, len(src)))


def crc32c_with(kernel: str, data: _Buffer, seed: int = 0) -> int:
    """Return the same by one kernel; raises CoreError if it cannot run here."""
    src, out = _source(data), ffi.new("uint32_t *")
    number = _KERNELS.get(kernel, -1)
    if lib.obd_crc32c_with(number, seed, src, len(src), out) != lib.OBD_OK:
        raise CoreError(f"crc32c: this machine cannot run the kernel {kernel!r}")
    return int(out[0])


def crc32c_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that this machine can run."""
    out = ffi.new("uint32_t *")
    return tuple(
        name
        for name, number in _KERNELS.items()
        if lib.obd_crc32c_with(number, 0, ffi.NULL, 0, out) == lib.OBD_OK
    )


def encode_blocks(
    data: _Buffer, *, algo: int, level: int, block_size: int, verify: bool
) -> tuple[memoryview, list[int]]:
    """Compress data, cut in blocks, into stored blocks that lie end to end.

    Returns the stored bytes and the length of each block in them, its crc
    included. Only the last block may be shorter than block_size bytes.
    """
    src, count = _source(data), -(-len(data) // block_size)
    bound = lib.obd_zblock_bound(algo, block_size, verify) * count
    stored = bytearray(bound)
    dst, lengths = _target(stored), ffi.new("uint32_t[]", count)
    written = ffi.new("size_t *")
    status = lib.obd_zblock_encode(
        algo, level, block_size, verify, src, len(src), dst, bound, lengths, written
    )
    _check(status, ffi.new("struct obd_fault *"), "encode_blocks")
    return memoryview(stored)[: written[0]], ffi.unpack(lengths, count)


def decode_block(
    stored: _Buffer,
    size: int,
    *,
    algo: int,
    verify: bool,
    name: str = "block",
    offset: int = 0,
) -> bytes:
    """Return the size bytes of one stored block; BadChecksum, BadBlock if not."""
    src, out = _source(stored), bytearray(size)
    dst, fault = _target(out), ffi.new("struct obd_fault *")
    status = lib.obd_zblock_decode_one(algo, verify, src, len(src), dst, size, fault)
    fault.at = offset
    _check(status, fault, name)
    return bytes(out)


def zero_granules(data: _Buffer, granule: int) -> bytes:
    """Return a byte for each granule of data, the last may be short: 1 if zero."""
    src, flags = _source(data), bytearray(-(-len(data) // granule))
    lib.obd_scan_zero(src, len(src), granule, _target(flags))
    return bytes(flags)


def same_granules(a: _Buffer, b: _Buffer, granule: int) -> bytes:
    """Return a byte for each granule of a, the last may be short: 1 if as in b."""
    if len(a) != len(b):
        raise UsageError(f"buffers of {len(a)} and {len(b)} bytes cannot be compared")
    src, other = _source(a), _source(b)
    flags = bytearray(-(-len(src) // granule))
    lib.obd_scan_same(src, other, len(src), granule, _target(flags))
    return bytes(flags)


class Segments(Sequence[Segment]):
    """Index entries in order, 16 bytes each, as C has them."""

    def __init__(self, array: Any, count: int) -> None:
        """Wrap count entries of a C array, which is kept."""
        self._array = array
        self._count = count

    @classmethod
    def from_list(cls, segments: Iterable[Segment]) -> Segments:
        """Make an array of segments; UsageError where a number does not fit."""
        rows = list(segments)
        array = ffi.new("struct obd_segment[]", len(rows))
        for row, s in zip(array, rows, strict=True):
            if not (0 <= s.start < 1 << 50 and 0 <= s.length < 1 << 14):
                raise UsageError(f"a segment cannot be {s}")
            if not (0 <= s.moffset < 1 << 55 and 0 <= s.layer < 256):
                raise UsageError(f"a segment cannot be {s}")
            row.lo = s.start | s.length << 50
            row.hi = s.moffset | int(s.zeroed) << 55 | s.layer << 56
        return cls(array, len(rows))

    @classmethod
    def unpack(
        cls,
        raw: _Buffer,
        *,
        name: str,
        offset: int,
        disk_sectors: int,
        data_start: int,
        data_end: int,
    ) -> Segments:
        """Unpack on-disk entries: padding dropped, tags cleared, rules checked.

        name and offset (bytes) say where raw comes from. disk_sectors 0 means
        that the disk's size is unknown. Raises BadIndex.
        """
        src, count = _source(raw), len(raw) // ENTRY_SIZE
        array = ffi.new("struct obd_segment[]", count)
        kept, fault = ffi.new("size_t *"), ffi.new("struct obd_fault *")
        bounds = ffi.new("struct obd_bounds *", [disk_sectors, data_start, data_end])
        status = lib.obd_record_unpack(src, count, bounds, array, kept, fault)
        _check(status, fault, name, offset)
        return cls(array, kept[0])

    def pack(self) -> bytes:
        """Return the entries as they are on disk, with tag 0, without padding."""
        out = bytearray(self._count * ENTRY_SIZE)
        lib.obd_record_pack(self._array, self._count, _target(out))
        return bytes(out)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __getitem__(self, i: Any) -> Any:
        """Return the Segment with number i, or a list for a slice."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._count))]
        if not -self._count <= i < self._count:
            raise IndexError(i)
        s = self._array[i + self._count if i < 0 else i]
        return _segment(s.lo, s.hi)

    def __iter__(self) -> Iterator[Segment]:
        """Yield each Segment."""
        for i in range(self._count):
            s = self._array[i]
            yield _segment(s.lo, s.hi)


def _segment(lo: int, hi: int) -> Segment:
    return Segment(
        lo & (1 << 50) - 1,
        lo >> 50,
        hi & (1 << 55) - 1,
        bool(hi >> 55 & 1),
        hi >> 56,
    )


def merge(layers: Sequence[Segments]) -> Segments:
    """Fold the indexes of a stack, bottom first, into one.

    The newest layer that maps a sector wins, and its number becomes the
    segment's layer. Zeroed entries are kept. O(N log k).
    """
    arrays = ffi.new("struct obd_segment *[]", [s._array for s in layers])
    counts = ffi.new("size_t[]", [len(s) for s in layers])
    out, n = ffi.new("struct obd_segment **"), ffi.new("size_t *")
    status = lib.obd_merge(arrays, counts, len(layers), out, n)
    _check(status, ffi.new("struct obd_fault *"), "merge")
    return Segments(ffi.gc(out[0], lib.free, n[0] * ENTRY_SIZE), n[0])


class SegMap:
    """Which segment covers a sector; copies the segments."""

    def __init__(self, segments: Segments) -> None:
        """Build the look-up structure over segments in order, below 2^50."""
        made = lib.obd_segmap_new(segments._array, len(segments))
        pointer = _made(made, "a look-up map")
        size = lib.obd_segmap_memory(pointer)
        self._c = ffi.gc(pointer, lib.obd_segmap_free, size)
        self.segments = segments
        self.memory = int(size)

    def __len__(self) -> int:
        """Return how many segments there are."""
        return int(self._c.n)

    def find(self, sector: int) -> int:
        """Return the number of the first segment that ends after sector."""
        return int(lib.obd_segmap_search(self._c, sector))


class JumpTable:
    """Where each block of a ZFile starts; fed with the table, chunk by chunk."""

    def __init__(
        self,
        expected_blocks: int,
        *,
        algo: int,
        block_size: int,
        original_size: int,
        verify: bool,
        first_offset: int,
        end_offset: int,
        name: str,
        table_offset: int,
    ) -> None:
        """Expect the table of a stream of original_size bytes, in so many blocks.

        The blocks are stored from first_offset to end_offset of the payload.
        name and table_offset (bytes) say where the table comes from.
        """
        shift = block_size.bit_length() - 1
        if not 4096 <= block_size <= 65536 or block_size != 1 << shift:
            raise UsageError(f"a block size cannot be {block_size}")
        if expected_blocks != -(-original_size // block_size):
            raise UsageError(f"{original_size} bytes are not {expected_blocks} blocks")
        made = lib.obd_jump_new(
            algo, verify, shift, original_size, first_offset, end_offset
        )
        self._c = ffi.gc(_made(made, "a jump table"), lib.obd_jump_free)
        self._name = name
        self._table_offset = table_offset

    def feed(self, raw: _Buffer) -> None:
        """Take the next lengths, 4 bytes each; raises BadJumpTable."""
        src, fault = _source(raw), ffi.new("struct obd_fault *")
        status = lib.obd_jump_feed(self._c, src, len(src) // 4, fault)
        self._judge(status, fault)

    def finish(self) -> None:
        """Check number and sum when all was fed; raises BadJumpTable."""
        fault = ffi.new("struct obd_fault *")
        self._judge(lib.obd_jump_finish(self._c, fault), fault)

    def _judge(self, status: int, fault: Any) -> None:
        fault.at = self._table_offset + 4 * fault.block
        _check(status, fault, self._name)

    @property
    def crc(self) -> int:
        """The raw crc of all that was fed."""
        return int(lib.obd_jump_crc(self._c))

    def __len__(self) -> int:
        """Return the number of blocks."""
        return int(lib.obd_jump_blocks(self._c))

    def offset(self, block: int) -> int:
        """Return where a block starts in the payload; len(self): where they end."""
        if not 0 <= block <= len(self):
            raise IndexError(block)
        return int(lib.obd_jump_offset(self._c, block))

    def _hand_over(self) -> Any:
        """Give the table to a blob, which frees it."""
        pointer = self._c
        ffi.gc(pointer, None)
        del self._c
        return pointer


class Blob:
    """The stream of one layer. Borrows the file descriptor: keep it open."""

    def __init__(self, pointer: Any, name: str, track: int | None) -> None:
        """Wrap a C blob; use plain() or zfile()."""
        made = _made(pointer, "a blob")
        self._c = ffi.gc(made, lib.obd_blob_free)
        self.name = name
        if track is not None:
            shift = PRESENCE_UNIT.bit_length() - 1
            status = lib.obd_blob_track(self._c, track, shift)
            _check(status, ffi.new("struct obd_fault *"), name)

    @classmethod
    def plain(
        cls, fd: int, offset: int, size: int, *, name: str, track: int | None = None
    ) -> Blob:
        """Stream of the size bytes at offset of fd.

        track: the size of the file in bytes, if nothing of it is here until
        mark_present() says so; None when all of it is behind fd.
        """
        return cls(lib.obd_blob_new_plain(fd, offset, size), name, track)

    @classmethod
    def zfile(
        cls,
        fd: int,
        offset: int,
        jump: JumpTable,
        *,
        name: str,
        track: int | None = None,
    ) -> Blob:
        """Stream of what the blocks inflate to; takes jump, unusable after."""
        pointer = lib.obd_blob_new_zfile(fd, offset, jump._hand_over())
        return cls(pointer, name, track)

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return int(lib.obd_blob_size(self._c))

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes."""
        return int(lib.obd_blob_memory(self._c))

    def mark_present(self, offset: int, size: int) -> None:
        """Say that the size bytes at offset of the file are here now."""
        lib.obd_blob_mark(self._c, offset, size)

    def pread_into(self, offset: int, buf: bytearray | memoryview) -> None:
        """Fill buf with the bytes at offset of the stream, or raise."""
        dst, fault = _target(buf), ffi.new("struct obd_fault *")
        status = lib.obd_blob_pread(self._c, offset, dst, len(dst), fault)
        _check(status, fault, self.name)

    def pread(self, offset: int, size: int) -> bytes:
        """Return the size bytes at offset of the stream, or raise."""
        out = bytearray(size)
        self.pread_into(offset, out)
        return bytes(out)

    def check(self, first_block: int, count: int) -> None:
        """Read, verify and inflate blocks (all, where there are none)."""
        fault = ffi.new("struct obd_fault *")
        status = lib.obd_blob_check(self._c, first_block, count, fault)
        _check(status, fault, self.name)

    def stored(self, offset: int, size: int) -> tuple[int, int]:
        """Return offset and size, in the file, of a range of the stream."""
        if not (0 <= offset < offset + size <= self.size):
            raise UsageError(f"{self.name}: no such range: {offset}, {size}")
        out = ffi.new("uint64_t[2]")
        lib.obd_blob_stored(self._c, offset, size, out, out + 1)
        return out[0], out[1]


class Device:
    """A stack of blobs under one map, as one disk. Keeps both alive."""

    def __init__(self, blobs: Sequence[Blob], segmap: SegMap, size: int) -> None:
        """Make a disk of size bytes; blobs[i] is layer i."""
        pointers = ffi.new("struct obd_blob *[]", [b._c for b in blobs])
        made = lib.obd_device_new(pointers, len(blobs), segmap._c, size)
        if made == ffi.NULL:
            raise UsageError(f"no disk of {size} bytes can be made of these layers")
        self._c = ffi.gc(made, lib.obd_device_free)
        self._blobs = tuple(blobs)
        self._segmap = segmap
        self.size = size

    def pread_into(self, offset: int, buf: bytearray | memoryview) -> None:
        """Fill buf with the bytes at offset, or raise; Absent when not here."""
        dst, fault = _target(buf), ffi.new("struct obd_fault *")
        status = lib.obd_device_read(self._c, offset, dst, len(dst), fault)
        if status == lib.OBD_ABSENT:
            raise Absent(self.ranges(offset, len(dst), absent_only=True))
        if status != lib.OBD_OK:
            _check(status, fault, self._name_of(fault))

    def _name_of(self, fault: Any) -> str:
        return self._blobs[fault.layer].name if self._blobs else "disk"

    def extents(self, offset: int, size: int) -> list[RawExtent]:
        """Describe the start of a range, as much as one call gives."""
        out = ffi.new("struct obd_extent[]", _ENTRIES_AT_ONCE)
        n, fault = ffi.new("size_t *"), ffi.new("struct obd_fault *")
        status = lib.obd_device_extents(
            self._c, offset, size, out, _ENTRIES_AT_ONCE, n, fault
        )
        _check(status, fault, "disk")
        return [_raw_extent(out[i]) for i in range(n[0])]

    def ranges(
        self, offset: int, size: int, *, absent_only: bool = False
    ) -> list[StoredRange]:
        """Return which bytes of which files the range is made from."""
        out = ffi.new("struct obd_range[]", _ENTRIES_AT_ONCE)
        n, fault = ffi.new("size_t *"), ffi.new("struct obd_fault *")
        status = lib.obd_device_ranges(
            self._c, offset, size, absent_only, out, _ENTRIES_AT_ONCE, n, fault
        )
        _check(status, fault, "disk")
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
