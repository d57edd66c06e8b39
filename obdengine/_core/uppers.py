# SPDX-License-Identifier: Apache-2.0
"""uppers - a writable layer: the log's index in memory, and its two files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from obdengine._core.binding import Buffer, check, ffi, lib, made, new_fault, source
from obdengine._core.segments import Segments
from obdengine.segment import ENTRY_SIZE, PADDING_START

__all__ = ["Io", "Upper", "UpperFacts", "punch"]


class UpperFacts(NamedTuple):
    """What a writable layer's log holds; sizes are in sectors.

    Attributes:
        records: in the index file, all of them.
        padding: of those seen at opening, how many were padding.
        empty: how many were torn or never written.
        beyond_disk: how many reached past the disk.
        dangling: how many pointed past the data.
        segments: of the index in memory.
        stored: sectors that have data.
        data_end: sectors of the data file in use.
        unused: of those, garbage that may be written over.
        pending: records that no flush has written yet.
        flushes: rounds of syncs, each for many callers.
    """

    records: int
    padding: int
    empty: int
    beyond_disk: int
    dangling: int
    segments: int
    stored: int
    data_end: int
    unused: int
    pending: int
    flushes: int

    @property
    def damaged(self) -> int:
        """Records that do not count and are not padding."""
        return self.empty + self.beyond_disk + self.dangling


class Io:
    """What a writable layer does to its files, by functions of the caller.

    For tests that record it, refuse it, or cut the power. Each function
    returns 0 or an errno:

        write(fd, data, offset)   sync(fd)   truncate(fd, size)
        punch(fd, offset, size)
    """

    def __init__(
        self,
        write: Callable[[int, bytes, int], int],
        sync: Callable[[int], int],
        truncate: Callable[[int, int], int],
        punch: Callable[[int, int, int], int],
    ) -> None:
        """Keep the functions as C can call them."""
        kept = (
            ffi.callback(
                "int(void *, int, const void *, uint64_t, uint64_t)",
                lambda _, fd, buf, size, offset: write(
                    fd, bytes(ffi.buffer(buf, size)), offset
                ),
                error=5,
            ),
            ffi.callback("int(void *, int)", lambda _, fd: sync(fd), error=5),
            ffi.callback(
                "int(void *, int, uint64_t)",
                lambda _, fd, size: truncate(fd, size),
                error=5,
            ),
            ffi.callback(
                "int(void *, int, uint64_t, uint64_t)",
                lambda _, fd, offset, size: punch(fd, offset, size),
                error=5,
            ),
        )
        self._kept = kept
        self._c = ffi.new("struct obd_io *", [ffi.NULL, *kept])


class Upper:
    """The index of a writable layer. Borrows its descriptors: keep them open."""

    def __init__(
        self,
        data_fd: int,
        index_fd: int,
        *,
        name: str,
        disk_sectors: int,
        data_limit: int,
        allowance: int,
        in_place: bool,
        io: Io | None = None,
    ) -> None:
        """Make an empty index; replay() and start() make it usable.

        data_limit: sectors that the data file may have; allowance: sectors of
        garbage in it that are let be. io None: the kernel.
        """
        setup = ffi.new(
            "struct obd_upper_setup *",
            [disk_sectors, data_limit, allowance, data_fd, index_fd, in_place],
        )
        pointer = lib.obd_upper_new(setup, io._c if io else ffi.NULL)
        self._c = ffi.gc(made(pointer, "a writable layer"), lib.obd_upper_free)
        self._io = io
        self._disk_sectors = disk_sectors
        self.name = name

    def replay(self, raw: Buffer, data_sectors: int, *, repair: bool) -> None:
        """Take the next records of the index file, 16 bytes each.

        data_sectors: how long the data file is. repair: make those that do not
        count padding in the file.
        """
        src, fault = source(raw), new_fault()
        status = lib.obd_upper_replay(
            self._c, src, len(src) // ENTRY_SIZE, data_sectors, repair, fault
        )
        check(status, fault, self.name)

    def start(self, data_sectors: int) -> None:
        """Sync both files and get ready for writes, when all was replayed."""
        fault = new_fault()
        check(lib.obd_upper_start(self._c, data_sectors, fault), fault, self.name)

    def flush(self) -> None:
        """Make everything durable that was written before; raises SourceError."""
        fault = new_fault()
        check(lib.obd_upper_flush(self._c, fault), fault, self.name)

    def wants_compaction(self) -> bool:
        """Tell whether most records of the index file are overwritten ones."""
        return bool(lib.obd_upper_wants_compaction(self._c))

    def zero(self, start: int, length: int) -> None:
        """Make length sectors from start read as zeros, also past the disk's end."""
        fault = new_fault()
        check(lib.obd_upper_zero(self._c, start, length, fault), fault, self.name)

    @contextmanager
    def split_at(self, sector: int) -> Iterator[None]:
        """Let no record of an index file that is made in the block reach over it."""
        lib.obd_upper_split_at(self._c, sector)
        try:
            yield
        finally:
            lib.obd_upper_split_at(self._c, 0)

    def forget(self, end: int) -> None:
        """Take what lies from sector end on out of the index.

        The disk must end there durably. Until the index file is written anew,
        records of it are there that would count on a larger disk.
        """
        check(lib.obd_upper_forget(self._c, end), new_fault(), self.name)

    def facts(self) -> UpperFacts:
        """Return what the log holds now."""
        out = ffi.new("struct obd_upper_facts *")
        lib.obd_upper_facts(self._c, out)
        return UpperFacts(*(getattr(out, name) for name in UpperFacts._fields))

    def segments(self) -> Segments:
        """Return the index in the order of the disk; no writes may run."""
        room = self.facts().segments + 1
        array: Any = ffi.new("struct obd_segment[]", room)
        upto = ffi.new("uint64_t *")
        n = lib.obd_upper_collect(self._c, 0, PADDING_START, array, room, upto)
        return Segments(array, n)

    @contextmanager
    def replacing_index(self, fd: int, replaced: Callable[[], bool]) -> Iterator[None]:
        """Write the index to fd, and use that from the end of the block on.

        In the block the caller puts the file in the old one's place; no flush
        ends meanwhile. If the block raises, the old file stays in use. If
        replaced() says then that the new one is in its place all the same, a
        power cut could leave either, and every later flush fails with EIO.
        """
        fault, done = new_fault(), 0
        check(lib.obd_upper_index_begin(self._c, fd, fault), fault, self.name)
        try:
            yield
            done = 1
        except BaseException:
            done = -errno.EIO if replaced() else 0
            raise
        finally:
            lib.obd_upper_index_end(self._c, done)


def punch(fd: int, offset: int, size: int) -> int:
    """Make a range of a file a hole; return 0 or an errno."""
    return int(lib.obd_io_kernel.punch(ffi.NULL, fd, offset, size))
