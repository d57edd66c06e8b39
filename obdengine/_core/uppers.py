# SPDX-License-Identifier: Apache-2.0
"""uppers - a writable layer: the log's index in memory, and its two files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

from obdengine._core.binding import Buffer, check, ffi, lib, made, new_fault, source
from obdengine._core.segments import Segments
from obdengine.segment import ENTRY_SIZE, PADDING_START

__all__ = [
    "JOURNAL_UUID",
    "Io",
    "JournalFound",
    "JournalState",
    "Upper",
    "UpperFacts",
    "journal_header",
    "punch",
]

JOURNAL_UUID = 36  # bytes of a uuid in a journal


class JournalState(Enum):
    """What a journal turned out to be."""

    EMPTY = lib.OBD_JOURNAL_EMPTY
    KEEPS = lib.OBD_JOURNAL_KEEPS  # it has what the two files have not
    STRAY = lib.OBD_JOURNAL_STRAY  # of another layer, or no journal
    PAST = lib.OBD_JOURNAL_PAST  # somebody wrote to the layer without it


class JournalFound(NamedTuple):
    """What was in a journal.

    Attributes:
        entries: flushes.
        records: of these, all together.
        state: whether they count.
    """

    entries: int
    records: int
    state: JournalState


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
        journaled: records that a flush wrote to the journal only.
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
    journaled: int
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
        patience: int = 0,
        io: Io | None = None,
    ) -> None:
        """Make an empty index; replay() and start() make it usable.

        data_limit: sectors that the data file may have; allowance: sectors of
        garbage in it that are let be; patience: small flushes, one after the
        other, until a journal is wanted, 0: never. io None: the kernel.
        """
        setup = ffi.new(
            "struct obd_upper_setup *",
            {
                "disk_end": disk_sectors,
                "data_limit": data_limit,
                "allowance": allowance,
                "data_fd": data_fd,
                "index_fd": index_fd,
                "in_place": in_place,
                "patience": patience,
            },
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

    def recover(self, fd: int, size: int, uuid: bytes, *, repair: bool) -> JournalFound:
        """Apply the journal of that many bytes, after all was replayed.

        With repair, all of it is durable in the two files afterwards and the
        journal is empty; without, nothing is changed, and it is not applied.
        """
        found, fault = ffi.new("struct obd_journal_found *"), new_fault()
        status = lib.obd_upper_recover(
            self._c, fd, size, uuid.ljust(JOURNAL_UUID, b"\0"), repair, found, fault
        )
        check(status, fault, self.name)
        return JournalFound(found.entries, found.records, JournalState(found.state))

    def wants_journal(self) -> bool:
        """Tell whether so many small flushes came that a journal would pay."""
        return bool(lib.obd_upper_wants_journal(self._c))

    def use_journal(self, fd: int, size: int) -> None:
        """Use a journal from now on: empty, of size bytes, borrowed."""
        fault = new_fault()
        check(lib.obd_upper_use_journal(self._c, fd, size, fault), fault, self.name)

    def end_journal(self, *, never: bool) -> None:
        """Make everything durable in the two files, and use no journal.

        never: nor want one again. Raises SourceError; it stays in use then.
        """
        fault = new_fault()
        check(lib.obd_upper_end_journal(self._c, never, fault), fault, self.name)

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


def journal_header(uuid: bytes, generation: int) -> bytes:
    """Return the header of an empty journal."""
    made: Any = ffi.new("uint8_t[]", lib.OBD_JOURNAL_HEADER)
    lib.obd_journal_header(uuid.ljust(JOURNAL_UUID, b"\0"), generation, made)
    return bytes(ffi.buffer(made))


def punch(fd: int, offset: int, size: int) -> int:
    """Make a range of a file a hole; return 0 or an errno."""
    return int(lib.obd_io_kernel.punch(ffi.NULL, fd, offset, size))
