# SPDX-License-Identifier: Apache-2.0
"""
upper - a writable layer's files: made, opened, repaired, sealed.

Append form, overlaybd's:
    data file:   LSMT header (flags 3), then sectors in the order of writing
    index file:  LSMT header (flags 1), then records of 16 bytes in time order
Sparse form: bounded by the size of the disk.
    data file:   LSMT header (flags 19), sector s of the disk at 4096 + 512 s
    map file:    LSMT header (flags 17), records as above, whose moffset is
                 8 + s: which sectors count never depends on holes
A sparse file of overlaybd has no map file: its map is made from its holes, as
overlaybd does it, once.

Which records count, and in what order things are written so that this stays
true after a power cut, is at the top of `_core/upper.h` and `_core/journal.h`.
The data file is locked while the layer is open: by one writer, or by readers.
"""

from __future__ import annotations

import os
import threading
import uuid as uuids
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from obdengine import _core
from obdengine.errors import (
    BadHeader,
    BadMagic,
    LimitError,
    SourceError,
    Unsupported,
    UsageError,
)
from obdengine.layer import format, journal
from obdengine.layer.holes import guess_from_holes
from obdengine.layer.journal import Journal
from obdengine.segment import ENTRY_SIZE, MAX_ENTRIES
from obdengine.source.output import Output
from obdengine.source.writable import WritableFile
from obdengine.units import GIB, KIB, SECTOR, round_up

__all__ = ["Upper", "UpperOptions", "create_upper", "map_path", "open_upper"]

_STEP = 256 * KIB  # of the index file that is replayed at once

_APPEND_FLAGS = format.HEADER | format.DATA
_SPARSE_FLAGS = _APPEND_FLAGS | format.SPARSE
_INDEX_FLAGS = format.HEADER
_MAP_FLAGS = format.HEADER | format.SPARSE


@dataclass(frozen=True)
class UpperOptions:
    """How much room a writable layer takes on its host; None: not said.

    Attributes:
        max_size: bytes that the data file may have, in sparse form not
            counting holes; a write that would pass it fails with ENOSPC. In
            append form a part is kept for writing over what the layer has.
            Not said: only the host's disk is the limit.
        garbage: bytes of overwritten data that are let be before they are
            written over: the data file has at most that and the live data,
            and what is written between three flushes. Not said: 1 GiB.
    """

    max_size: int | None = None
    garbage: int | None = None

    @property
    def data_limit(self) -> int:
        """Sectors that the data file may have."""
        return (1 << 62 if self.max_size is None else self.max_size) // SECTOR

    @property
    def allowance(self) -> int:
        """Sectors of garbage that are let be."""
        return (GIB if self.garbage is None else self.garbage) // SECTOR


@dataclass(frozen=True)
class _Files:
    """The files of a writable layer."""

    data: WritableFile
    index: WritableFile | None
    journal: Journal | None = None

    def close(self) -> None:
        """Close them and give up the lock; twice does nothing."""
        if self.journal:
            self.journal.close()
        if self.index:
            self.index.close()
        self.data.close()


class Upper:
    """An open writable layer.

    Attributes:
        files: the data file, and the index or map file.
        form: "append" or "sparse".
        virtual_size: bytes of the disk.
        uuid: text in lower case, or None.
        parent_uuid: likewise, of the layer below.
        options: how much room it may take.
        core: the `_core.Upper`, for a device.
        torn: bytes of half a record that were at the end of the index.
        guessed: whether the map was made from the holes of the file: where
            less than a block of the file system was written, what is beside
            it reads as zeros.
    """

    def __init__(
        self,
        data: WritableFile,
        index: WritableFile | None,
        header: format.Header,
        options: UpperOptions,
        io: _core.Io | None,
    ) -> None:
        """Take over the files; open_upper() finds them and replays."""
        self.name = data.name
        self.form = "sparse" if header.flags & format.SPARSE else "append"
        self.virtual_size = header.virtual_size
        self.uuid = _uuid(header.uuid)
        self.parent_uuid = _uuid(header.parent_uuid)
        self.options = options
        self.torn = 0
        self.guessed = index is None
        self._header = header
        self._sealed_at: int | None = None
        self._compacting = threading.Lock()
        self.core = _made_core(data, index, header, options, io)
        append = self.form == "append"
        beside = Journal(self.core, data.path, header.uuid) if append else None
        self.files = _Files(data, index, beside)

    @property
    def data(self) -> WritableFile:
        """The data file."""
        return self.files.data

    @property
    def index(self) -> WritableFile | None:
        """The index or map file; None for a map that was only guessed."""
        return self.files.index

    @property
    def journal(self) -> Journal | None:
        """What makes small flushes durable, in append form."""
        return self.files.journal

    @property
    def readonly(self) -> bool:
        """Whether it was opened for reading only."""
        return self.data.readonly

    def facts(self) -> _core.UpperFacts:
        """Return what the log holds, and what replay stepped over."""
        return self.core.facts()

    def flush(self) -> None:
        """Make every write before durable; raises SourceError with the errno."""
        self.core.flush()

    def settle(self) -> None:
        """Flush, so that the two files are all of the layer, without a journal."""
        if self.journal:
            with self._compacting:
                self.journal.end()
        else:
            self.flush()

    def upkeep(self) -> None:
        """Do what flushes have made worth while: a new index file, a journal."""
        if self.core.wants_compaction():
            self.compact_index()
        if self.journal and self.core.wants_journal():
            with self._compacting:
                self.journal.make()

    def compact_index(self) -> None:
        """Write the index file anew, in the order of the disk.

        Writes go on meanwhile and flushes wait. A crash leaves the old file
        or the new one.
        """
        assert self.index is not None
        with self._compacting, Output(self.index.path) as out:
            flags = _MAP_FLAGS if self.form == "sparse" else _INDEX_FLAGS
            out.append(_index_header(self._header, flags))
            fd = os.dup(out.fileno())
            try:
                with self.core.replacing_index(fd, lambda: _is_at(fd, out.path)):
                    out.commit()
            except BaseException:
                os.close(fd)
                raise
            self.index.adopt(fd)

    def trim(self) -> None:
        """Make holes of what is stored for nothing, in sparse form.

        No writes may run. What is stored for nothing counts in no state that
        a crash could leave, as opening and flushing have synced the map.
        """
        assert self.form == "sparse"
        self.settle()
        at = format.SLOT
        for segment in self.core.segments():
            if not segment.zeroed:
                start = format.SLOT + segment.start * SECTOR
                if at < start:
                    self.data.punch(at, start - at)
                at = start + segment.length * SECTOR
        end = format.SLOT + self.virtual_size
        if at < end:
            self.data.punch(at, end - at)

    def resize(self, virtual_size: int, zeroed: Iterable[tuple[int, int]] = ()) -> None:
        """Change the size of the disk, in bytes; no writes may run.

        zeroed: (offset, size) of what must read as zeros past the old end,
        whatever is below. What lies past a new end is forgotten. A crash
        leaves the old disk or the new one, and so does a failure.
        """
        _judge_size(virtual_size)
        self.settle()
        if virtual_size < self.virtual_size:
            self._shrink(virtual_size)
            return
        try:
            self._grow(virtual_size, zeroed)
        except BaseException:
            self.core.forget(self.virtual_size // SECTOR)
            raise

    def _shrink(self, virtual_size: int) -> None:
        # No record may reach over the new end when that begins to count.
        with self.core.split_at(virtual_size // SECTOR):
            self.compact_index()
        self._write_size(virtual_size)
        self.core.forget(virtual_size // SECTOR)
        # What is past the end counts no more: that it goes is tidiness.
        with suppress(SourceError):
            self.compact_index()

    def _grow(self, virtual_size: int, zeroed: Iterable[tuple[int, int]]) -> None:
        for offset, size in zeroed:
            self.core.zero(offset // SECTOR, size // SECTOR)
        # What was past the end on other days is not in the new index file.
        self.compact_index()
        self._write_size(virtual_size)

    def _write_size(self, virtual_size: int) -> None:
        """Change the size that counts: it lies in one sector of the data file."""
        end = format.SLOT + virtual_size
        if self.form == "sparse" and virtual_size > self.virtual_size:
            self.data.truncate(max(self.data.size, end))
        field = virtual_size.to_bytes(8, "little")
        self.data.write(format.OFFSETS["virtual_size"], field)
        self.data.sync()
        if self.form == "sparse" and virtual_size < self.virtual_size:
            self.data.truncate(end)
            self.data.sync()
        self._header = self._header._replace(virtual_size=virtual_size)
        self.virtual_size = virtual_size

    def seal(self) -> None:
        """Append index and trailer to the data file: a layer for reading.

        No writes may run. A crash leaves a writable layer with some garbage
        at its end, or a sealed one. Raises LimitError for too many entries.
        """
        self.settle()
        segments = self.core.segments()
        if len(segments) > MAX_ENTRIES:
            raise LimitError(
                f"{self.name}: {len(segments)} index entries, readers of the format "
                f"accept {MAX_ENTRIES}",
                hint="commit the layer instead",
            )
        at = self._sealed_at = round_up(self.data.size, SECTOR)
        index = segments.pack()
        trailer = self._header._replace(
            flags=format.DATA | format.SEALED,
            index_offset=at,
            index_size=len(segments),
        )
        padded = index.ljust(round_up(len(index), SECTOR), b"\0")
        self.data.write(at, padded + format.pack_header(trailer))
        self.data.sync()
        if self.form == "sparse":
            self._write_flags(_APPEND_FLAGS)

    def finish(self) -> None:
        """Say in the header too that it was sealed.

        From now on it cannot be opened as a writable layer, not even by a
        configuration that is out of date. For when seal() is not to be undone.
        """
        self._sealed_at = None
        self._write_flags(_APPEND_FLAGS | format.SEALED)

    def unseal(self) -> None:
        """Undo seal(), also one that failed, so that writing can go on."""
        if self._sealed_at is not None:
            if self.form == "sparse":
                self._write_flags(_SPARSE_FLAGS)
            self.data.truncate(self._sealed_at)
            self.data.sync()
            self._sealed_at = None

    def _write_flags(self, flags: int) -> None:
        header = self._header._replace(flags=flags)
        self.data.write(0, format.pack_header(header)[:SECTOR])
        self.data.sync()

    def close(self) -> None:
        """Flush, close both files and give up the lock; twice does nothing."""
        try:
            if not self.readonly and self.data.fileno() >= 0:
                self.settle()
        finally:
            self.files.close()


def _made_core(
    data: WritableFile,
    index: WritableFile | None,
    header: format.Header,
    options: UpperOptions,
    io: _core.Io | None,
) -> _core.Upper:
    return _core.Upper(
        data.fileno(),
        index.fileno() if index else -1,
        name=data.name,
        disk_sectors=header.virtual_size // SECTOR,
        data_limit=options.data_limit,
        allowance=options.allowance,
        in_place=bool(header.flags & format.SPARSE),
        patience=0 if data.readonly else journal.PATIENCE,
        io=io,
    )


def map_path(data: Path) -> Path:
    """Return where the map file of a sparse data file is."""
    return data.with_name(data.name + ".map")


def create_upper(
    data: Path,
    index: Path | None = None,
    *,
    virtual_size: int,
    form: str = "append",
    uuid: str | None = None,
    parent_uuid: str | None = None,
) -> None:
    """Make the files of an empty writable layer; what is there is replaced.

    virtual_size is in bytes. index None: the map file beside a sparse data
    file. uuid None: a new one. The data file appears last: where it is, the
    layer is whole.
    """
    _judge_size(virtual_size)
    if form not in ("append", "sparse"):
        raise UsageError(f"no form {form!r} of a writable layer")
    sparse = form == "sparse"
    header = format.Header(
        flags=_SPARSE_FLAGS if sparse else _APPEND_FLAGS,
        virtual_size=virtual_size,
        uuid=_uuid_field(uuid or str(uuids.uuid4())),
        parent_uuid=_uuid_field(parent_uuid or format.NO_UUID),
    )
    flags = _MAP_FLAGS if sparse else _INDEX_FLAGS
    journal.journal_path(data).unlink(missing_ok=True)
    WritableFile.create(index or map_path(data), _index_header(header, flags))
    with Output(data) as out:
        out.append(format.pack_header(header))
        if sparse:
            out.resize(format.SLOT + virtual_size)
        out.commit()


def open_upper(
    data: Path,
    index: Path | None,
    *,
    readonly: bool = False,
    locked: bool = True,
    recover: bool = True,
    options: UpperOptions | None = None,
    io: _core.Io | None = None,
) -> Upper:
    """Open a writable layer, replay its log and repair it.

    index None: the map file beside a sparse data file. Records that do not
    count are made padding, and half a record at the end is cut off, unless
    readonly. locked=False is for facts about a layer that somebody may be
    writing to: its data may change while they are read. A journal that a crash
    has left is applied, which writes to the files also when readonly is said;
    without recover, or not locked, what is in it is not seen then.

    Raises Busy when another process writes to it, or for writing when one
    reads it; FormatError when a header is wrong, SourceError.
    """
    if readonly and locked and recover and journal.journal_path(data).exists():
        _recover(data, index)
    files = [WritableFile(data, readonly=readonly)]
    try:
        if locked or not readonly:
            files[0].lock()
        header = _read_header(files[0], (_APPEND_FLAGS, _SPARSE_FLAGS))
        made = _make_map(files[0], header, index)
        found = _open_index(files[0], header, index)
        if found:
            files.append(found)
        upper = Upper(files[0], found, header, options or UpperOptions(), io)
        upper.guessed |= made
        _replay(upper)
    except BaseException:
        for file in files:
            file.close()
        raise
    return upper


def _recover(data: Path, index: Path | None) -> None:
    """Apply the journal if there is something in it."""
    with closing(open_upper(data, index, readonly=True, recover=False)) as upper:
        kept = upper.journal.kept if upper.journal else 0
    if not kept:
        return
    try:
        open_upper(data, index).close()
    except SourceError as error:
        raise SourceError(
            f"{journal.journal_path(data)}: holds {kept} flushes that are not in the "
            f"layer's files yet, which cannot be written: {error.args[0]}",
            hint="open the layer for writing once, or `obd check --repair`",
            errno=error.errno,
        ) from error


def _make_map(data: WritableFile, header: format.Header, index: Path | None) -> bool:
    """Make the map file from the holes if it is missing; tell whether it was."""
    path = index or map_path(data.path)
    if data.readonly or not header.flags & format.SPARSE or path.exists():
        return False
    raw = guess_from_holes(data, header.virtual_size).pack()
    WritableFile.create(path, _index_header(header, _MAP_FLAGS), raw)
    return True


def _open_index(
    data: WritableFile, header: format.Header, index: Path | None
) -> WritableFile | None:
    """Return the index or map file; None for a map that can only be guessed."""
    path, sparse = index or map_path(data.path), header.flags & format.SPARSE
    if not path.exists():
        if sparse:
            return None
        # With a map file it is a sparse one whose seal() was interrupted.
        if index is None:
            raise UsageError(f"{data.name}: in append form, needs its index file")
    file = WritableFile(path, readonly=data.readonly)
    try:
        _judge_pair(file, header, _read_header(file, (_INDEX_FLAGS, _MAP_FLAGS)))
    except BaseException:
        file.close()
        raise
    return file


def _replay(upper: Upper) -> None:
    sectors = upper.data.size // SECTOR
    if upper.index is None:
        guess = guess_from_holes(upper.data, upper.virtual_size)
        upper.core.replay(guess.pack(), sectors, repair=False)
        return
    repair, size = not upper.readonly, upper.index.size
    upper.torn = (size - format.SLOT) % ENTRY_SIZE
    at, end = format.SLOT, size - upper.torn
    while at < end:
        raw = upper.index.pread(at, min(_STEP, end - at))
        if not raw:
            break
        upper.core.replay(raw, sectors, repair=repair)
        at += len(raw)
    if repair and upper.torn:
        upper.index.truncate(end)
    if upper.journal:
        upper.journal.recover(repair=repair)
    if repair:
        upper.core.start(round_up(upper.data.size, SECTOR) // SECTOR)


def _read_header(file: WritableFile, allowed: tuple[int, ...]) -> format.Header:
    raw = file.pread(0, format.SLOT)
    if raw[:8] != format.MAGIC0 or raw[8:24] != format.MAGIC1:
        raise BadMagic(
            file.name,
            "not a file of a writable layer",
            offset=0,
            expected=f"{format.MAGIC0!r} (LSMT)",
            found=repr(raw[:8]),
        )
    if len(raw) < format.SLOT:
        raise BadHeader(
            file.name,
            "the header is cut off",
            expected=f"{format.SLOT} bytes",
            found=len(raw),
        )
    header = format.unpack_header(raw)
    _judge_header(file, header, allowed)
    return header


def _judge_header(
    file: WritableFile, header: format.Header, allowed: tuple[int, ...]
) -> None:
    at, size = format.OFFSETS, header.virtual_size
    if header.size != format.HEADER_SIZE:
        raise BadHeader(
            file.name,
            "size in the header",
            offset=at["size"],
            expected=format.HEADER_SIZE,
            found=header.size,
        )
    if header.flags not in allowed:
        raise Unsupported(
            file.name,
            "not the header of this file of a writable layer",
            offset=at["flags"],
            expected=" or ".join(f"flags {flags:#x}" for flags in allowed),
            found=f"flags {header.flags:#x}",
        )
    if not size or size % SECTOR or size > format.MAX_VIRTUAL_SIZE:
        raise BadHeader(
            file.name,
            "virtual_size in the header",
            offset=at["virtual_size"],
            expected="a multiple of 512, at most 2^59, not 0",
            found=size,
        )


def _judge_pair(
    index: WritableFile, data_header: format.Header, header: format.Header
) -> None:
    """Refuse the index file of another layer."""
    expected, found = _uuid(data_header.uuid), _uuid(header.uuid)
    if expected != found:
        raise BadHeader(
            index.name,
            "uuid in the header",
            offset=format.OFFSETS["uuid"],
            expected=f"{expected}, as the data file",
            found=found,
        )


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return True  # who knows


def _index_header(header: format.Header, flags: int) -> bytes:
    return format.pack_header(header._replace(flags=flags, index_offset=format.SLOT))


def _judge_size(virtual_size: int) -> None:
    if virtual_size % SECTOR or not 0 < virtual_size <= format.MAX_VIRTUAL_SIZE:
        words = f"a disk cannot have {virtual_size} bytes"
        raise UsageError(words, hint="a multiple of 512")


def _uuid(field: bytes) -> str | None:
    text = field.split(b"\0")[0].decode(errors="replace").lower()
    return None if text in ("", format.NO_UUID) else text


def _uuid_field(text: str) -> bytes:
    try:
        return str(uuids.UUID(text)).upper().encode()
    except ValueError as error:
        raise UsageError(f"{text!r} is not a uuid") from error
