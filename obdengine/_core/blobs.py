# SPDX-License-Identifier: Apache-2.0
"""blobs - the stream of a layer, and where the blocks of a ZFile start."""

from __future__ import annotations

from typing import Any

from obdengine._core.binding import (
    Buffer,
    Damaged,
    check,
    ffi,
    lib,
    made,
    new_fault,
    source,
    target,
)
from obdengine.errors import BadBlock, BadChecksum, UsageError

__all__ = ["PRESENCE_UNIT", "USE_STEP", "Blob", "JumpTable", "unit_sums"]

# Bytes of a file that are here or not as a whole: what one page holds, so that
# a fetch never brings in much more than was asked for.
PRESENCE_UNIT = 4096

# Bytes of a file that are remembered as used together.
USE_STEP = 1 << 20


def unit_sums(seed: int, first_unit: int, data: Buffer) -> bytes:
    """Return the sums, 4 bytes each, of units that data is made of, end to end."""
    out = bytearray(4 * -(-len(data) // PRESENCE_UNIT))
    src, dst = source(data), ffi.from_buffer("uint32_t[]", out)
    lib.obd_presence_sums(seed, first_unit, src, len(src), dst)
    return bytes(out)


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
        pointer = lib.obd_jump_new(
            algo, verify, shift, original_size, first_offset, end_offset
        )
        self._c = ffi.gc(made(pointer, "a jump table"), lib.obd_jump_free)
        self._name = name
        self._table_offset = table_offset

    def feed(self, raw: Buffer) -> None:
        """Take the next lengths, 4 bytes each; raises BadJumpTable."""
        src, fault = source(raw), new_fault()
        status = lib.obd_jump_feed(self._c, src, len(src) // 4, fault)
        self._judge(status, fault)

    def finish(self) -> None:
        """Check number and sum when all was fed; raises BadJumpTable."""
        fault = new_fault()
        self._judge(lib.obd_jump_finish(self._c, fault), fault)

    def _judge(self, status: int, fault: Any) -> None:
        fault.at = self._table_offset + 4 * fault.block
        check(status, fault, self._name)

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
        pointer = made(pointer, "a blob")
        self._c = ffi.gc(pointer, lib.obd_blob_free)
        self._presence = lib.obd_blob_presence(self._c)
        self.name = name
        self.guarded = False
        if track is not None:
            shift = PRESENCE_UNIT.bit_length() - 1
            status = lib.obd_presence_begin(self._presence, track, shift)
            check(status, new_fault(), name)

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

    def name_at(self, fault: Any) -> str:
        """Return the name of the file that a fault is about."""
        return self.name

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
        lib.obd_presence_mark(self._presence, offset, size)

    def guard(self, seed: int, spare: int) -> None:
        """Compare the sum of every unit that is read; before the first is here.

        spare is the descriptor of lent units: borrowed, as the file's is.
        """
        status = lib.obd_presence_guard(self._presence, seed, spare)
        check(status, new_fault(), self.name)
        self.guarded = True

    def adopt(self, first_unit: int, sums: Buffer, *, lent: bool = False) -> None:
        """Say that units from the first on may be here, 4 bytes of sum for each.

        A sum of 0 says nothing of its unit. lent: they are in the spare file.
        """
        src = ffi.from_buffer("uint32_t[]", sums)
        lib.obd_presence_adopt(self._presence, first_unit, src, len(src), lent)

    def forget(self, offset: int, size: int) -> None:
        """Say that the units that a range of the file touches are not here."""
        lib.obd_presence_forget(self._presence, offset, size)

    def present(self, offset: int, size: int) -> bool:
        """Tell whether a range of the file is here."""
        return bool(lib.obd_presence_here(self._presence, offset, size))

    def take_used(self, used: bytearray) -> None:
        """Set a byte of used for each MiB of the file that was read since."""
        lib.obd_presence_take_used(self._presence, target(used), len(used))

    def pread_into(self, offset: int, buf: bytearray | memoryview) -> None:
        """Fill buf with the bytes at offset of the stream, or raise."""
        dst, fault = target(buf), new_fault()
        status = lib.obd_blob_pread(self._c, offset, dst, len(dst), fault)
        self._judge(status, fault)

    def _judge(self, status: int, fault: Any) -> None:
        try:
            check(status, fault, self.name)
        except (BadBlock, BadChecksum) as error:
            if self.guarded:
                raise Damaged(0, fault.block, error) from None
            raise

    def pread(self, offset: int, size: int) -> bytes:
        """Return the size bytes at offset of the stream, or raise."""
        out = bytearray(size)
        self.pread_into(offset, out)
        return bytes(out)

    def check(self, first_block: int, count: int) -> None:
        """Read, verify and inflate blocks (all, where there are none)."""
        fault = new_fault()
        status = lib.obd_blob_check(self._c, first_block, count, fault)
        self._judge(status, fault)

    def stored(self, offset: int, size: int) -> tuple[int, int]:
        """Return offset and size, in the file, of a range of the stream."""
        if not (0 <= offset < offset + size <= self.size):
            raise UsageError(f"{self.name}: no such range: {offset}, {size}")
        out = ffi.new("uint64_t[2]")
        lib.obd_blob_stored(self._c, offset, size, out, out + 1)
        return out[0], out[1]
