# SPDX-License-Identifier: Apache-2.0
"""
reader - a read-only LSMT layer opened: its sizes, its names, its index.

A layer counts if and only if
  (1) it begins with a header of a data file: right magics, size of the struct
      and version, no unknown flag;
  (2) its last 4096 bytes are a sealed trailer, right in the same points;
  (3) header and trailer agree on the virtual size, if it was committed (one
      sealed in place keeps the header that it was made with);
  (4) the virtual size is a whole number of sectors and at most 2^59;
  (5) the index has at most 1 000 000 entries, begins at a sector after the
      header, and ends less than a sector before the trailer;
  (6) its entries keep the rules of the core: in order, apart, on the disk,
      their data between header and index, or in the target of a TurboOCI
      layer, where the entry's tag says so.
LSMT has no checksum: this is all that can be known. What counts is in the
trailer; the header is only compared with it. Nothing is looked up here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import NamedTuple

from obdengine import _core, source
from obdengine.blob import Blob, Progress, Target, open_blob
from obdengine.errors import BadHeader, BadIndex, BadMagic, FormatError, Unsupported
from obdengine.layer import format
from obdengine.segment import ENTRY_SIZE, MAX_ENTRIES
from obdengine.source import Source
from obdengine.units import KIB, SECTOR

__all__ = ["Layer", "open_layer"]

# The index is read in pieces, so that memory follows what the file holds.
_STEP = 256 * KIB

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Ends(NamedTuple):
    """The header and the trailer of a layer, and where the trailer stands."""

    header: format.Header
    trailer: format.Header
    trailer_offset: int


class Layer:
    """One read-only layer. Its attributes do not change.

    Attributes:
        name: of the file, for errors.
        blob: its stream.
        target: what a TurboOCI layer points at besides, or None.
        core: what a device reads.
        kind: "committed", or "sealed" in place.
        virtual_size: bytes of the disk; 0: that of the layer below.
        uuid: text in lower case, or None when it is missing or all zero.
        parent_uuid: likewise, of the layer that it was made on.
        message: what was said when it was committed, as the file has it.
        segments: the index, without padding.
        entries: number of segments.
        padding: number of padding entries that the file has besides.
        index_offset: where in the stream the index starts, bytes.
    """

    def __init__(self, blob: Blob, target: Target | None = None) -> None:
        """Read header, trailer and index of blob; open_layer() calls this."""
        ends = _read_ends(blob)
        trailer = ends.trailer
        self.blob, self.target = blob, target
        self.core = _core.TurboBlob(blob.core, target.core) if target else blob.core
        self.name = blob.name
        self.kind = "committed" if ends.header.flags & format.SEALED else "sealed"
        self.virtual_size = trailer.virtual_size
        self.uuid = _uuid(blob, ends, "uuid")
        self.parent_uuid = _uuid(blob, ends, "parent_uuid")
        self.message = trailer.user_tag.split(b"\0")[0].decode(errors="replace")
        self.index_offset = trailer.index_offset
        self.segments = _read_index(blob, trailer, target)
        self.entries = len(self.segments)
        self.padding = trailer.index_size - self.entries
        self._ends = ends

    # Only people ask for these two: opening a large index does not wait.

    @cached_property
    def data_size(self) -> int:
        """Bytes of the disk that the layer has data for. O(entries) once."""
        return sum(s.length for s in self.segments if not s.zeroed) * SECTOR

    @cached_property
    def target_data_size(self) -> int:
        """Bytes of them that are in the target. O(entries) once."""
        segments = (s for s in self.segments if not s.zeroed and s.in_target)
        return sum(s.length for s in segments) * SECTOR

    @cached_property
    def zero_size(self) -> int:
        """Bytes of the disk that the layer says are zero. O(entries) once."""
        return sum(s.length for s in self.segments if s.zeroed) * SECTOR

    def check(
        self, progress: Progress | None = None, *, threads: int | None = None
    ) -> Iterator[FormatError]:
        """Yield everything that is wrong with the layer and its blob.

        progress counts bytes of the stream, threads are one per processor
        unless given. Raises SourceError for what cannot be read at all.
        """
        yield from self.blob.check(None if self.target else progress, threads=threads)
        if self.target:
            yield from self.target.check(progress, threads=threads)
        if self.kind == "committed":
            for field in ("uuid", "parent_uuid", "user_tag"):
                yield from self._compare(field)

    def close(self) -> None:
        """Close the blob. No read may be running; a second time does nothing."""
        self.blob.close()
        if self.target:
            self.target.close()

    def fetch(self, offset: int, size: int) -> None:
        """Make bytes of the file, or of the target's, resident for the core."""
        if self.target and offset & _core.TARGET_BIT:
            self.target.fetch(offset & ~_core.TARGET_BIT, size)
        else:
            self.blob.fetch(offset, size)

    def remote_at(self, offset: int) -> tuple[source.Remote | None, int]:
        """Return what an offset that the core misses is in, and where there."""
        if self.target and offset & _core.TARGET_BIT:
            return self.target.remote_at(offset & ~_core.TARGET_BIT)
        return self.blob.remote_at(offset)

    def renew(self, block: int, elsewhere: int) -> None:
        """Fetch a block again that turned out to be wrong."""
        if self.target and block & _core.TARGET_BIT:
            self.target.renew(block & ~_core.TARGET_BIT, elsewhere)
        else:
            self.blob.renew(block, elsewhere)

    def __repr__(self) -> str:
        """Name the layer, for a person who debugs."""
        return f"Layer({self.name!r}, {self.entries} entries)"

    def _compare(self, field: str) -> Iterator[FormatError]:
        header, trailer, at = self._ends
        said, found = (_text(getattr(one, field)) for one in (header, trailer))
        if said.lower() != found.lower():
            yield BadHeader(
                self.name,
                self.blob.in_stream(f"{field} in the trailer"),
                offset=at + format.OFFSETS[field],
                expected=f"{said!r} as the header",
                found=repr(found),
            )


def open_layer(
    where: Source | str | os.PathLike[str], target: Target | None = None
) -> Layer:
    """Open a layer; a Source and a target are taken over, also when this fails.

    target: that of a TurboOCI layer. Raises FormatError when it is not a layer
    or is damaged, Unsupported for a writable one, or a TurboOCI one without
    its target, SourceError when it cannot be read.
    """
    with ExitStack() as undo:
        if target:
            undo.callback(target.close)
        opened = where if not isinstance(where, (str, os.PathLike)) else None
        blob = open_blob(opened or source.open(where))  # type: ignore[arg-type]
        undo.callback(blob.close)
        if not target:
            _refuse_turbo(blob)
        layer = Layer(blob, target)
        undo.pop_all()
        return layer


def _refuse_turbo(blob: Blob) -> None:
    # Entries of such a layer may point into another file. Nothing but the
    # name tells it from one that has stray tags, and reading it as that one
    # could give wrong bytes.
    if blob.name.endswith(".fs.meta"):
        raise Unsupported(
            blob.name,
            "a TurboOCI layer, as its name says",
            hint="a configuration has to name its targetFile too",
        )


def _read_ends(blob: Blob) -> _Ends:
    """Return header and trailer, judged by rules (1) to (5)."""
    _judge_beginning(blob)
    header = format.unpack_header(blob.pread(0, format.SLOT))
    _judge_common(blob, 0, header)
    _judge_header_flags(blob, header)
    at = max(blob.size - format.SLOT, format.SLOT)
    raw = blob.pread(at, blob.size - at)
    if raw[: len(format.MAGIC0)] != format.MAGIC0:
        raise _no_trailer(blob, at, header, raw)
    trailer = format.unpack_header(raw.ljust(format.SLOT, b"\0"))
    _judge_common(blob, at, trailer)
    if trailer.flags != format.DATA | format.SEALED:
        raise _bad_field(blob, at, trailer, "flags", "6, of a sealed trailer")
    _judge_sizes(blob, at, header, trailer)
    return _Ends(header, trailer, at)


def _judge_beginning(blob: Blob) -> None:
    magic = blob.pread(0, min(len(format.MAGIC0), blob.size))
    if magic != format.MAGIC0:
        raise BadMagic(
            blob.name,
            blob.in_stream("not a layer"),
            offset=0,
            expected=f"{format.MAGIC0!r} (LSMT)",
            found=repr(magic) if magic else "nothing",
        )
    if blob.size < format.SLOT:
        raise BadHeader(
            blob.name,
            blob.in_stream("too short for a layer"),
            offset=0,
            expected=f"at least {2 * format.SLOT} bytes",
            found=blob.size,
        )


def _judge_common(blob: Blob, at: int, header: format.Header) -> None:
    """Judge what is the same in header and trailer."""
    if header.magic1 != format.MAGIC1:
        raise BadMagic(
            blob.name,
            blob.in_stream(f"second magic of the {_role(at)}"),
            offset=at + format.OFFSETS["magic1"],
            expected=format.MAGIC1.hex(),
            found=header.magic1.hex(),
        )
    if header.size != format.HEADER_SIZE:
        raise _bad_field(blob, at, header, "size", format.HEADER_SIZE)
    if (header.version, header.sub_version) != (1, 1):
        raise Unsupported(
            blob.name,
            blob.in_stream(f"version in the {_role(at)}"),
            offset=at + format.OFFSETS["version"],
            expected="1.1",
            found=f"{header.version}.{header.sub_version}",
        )
    if header.flags & ~format.KNOWN_FLAGS:
        raise _unsupported(blob, at, header, "unknown flags")


def _judge_header_flags(blob: Blob, header: format.Header) -> None:
    if not header.flags & format.HEADER:
        raise _bad_field(blob, 0, header, "flags", "those of a header")
    if header.flags & format.SPARSE:
        raise _unsupported(blob, 0, header, "a sparse writable layer")
    if not header.flags & format.DATA:
        raise _unsupported(blob, 0, header, "the index file of a writable layer")


def _no_trailer(blob: Blob, at: int, header: format.Header, raw: bytes) -> FormatError:
    """Return the error of a layer that ends in raw, which is not a trailer."""
    if not header.flags & format.SEALED:
        return _unsupported(
            blob,
            0,
            header,
            "the data file of a writable layer that was not sealed",
            hint="seal or commit it first; if it was, its end is cut off",
        )
    return BadMagic(
        blob.name,
        blob.in_stream("no trailer at the end"),
        offset=at,
        expected=repr(format.MAGIC0),
        found=repr(raw[: len(format.MAGIC0)]) if raw else "nothing",
        hint="the file was cut, or something was added",
    )


def _judge_sizes(
    blob: Blob, at: int, header: format.Header, trailer: format.Header
) -> None:
    size = trailer.virtual_size
    if size % SECTOR or size > format.MAX_VIRTUAL_SIZE:
        raise _bad_field(
            blob, at, trailer, "virtual_size", "a multiple of 512, at most 2^59"
        )
    if header.flags & format.SEALED and header.virtual_size != size:
        expected = f"{header.virtual_size} as the header"
        raise _bad_field(blob, at, trailer, "virtual_size", expected)
    if trailer.index_size > MAX_ENTRIES:
        raise _bad_field(blob, at, trailer, "index_size", f"at most {MAX_ENTRIES}")
    # Writers pad the index to 512 bytes; more means that entries were lost
    # from its count. The padding itself may be anything: overlaybd leaves in
    # it what its memory held (layer1.sealed in tests/data/golden).
    last = at - trailer.index_size * ENTRY_SIZE
    first = max(format.SLOT, last - SECTOR + 1)
    if not first <= trailer.index_offset <= last or trailer.index_offset % SECTOR:
        expected = f"a multiple of 512 from {first} to {last}"
        raise _bad_field(blob, at, trailer, "index_offset", expected)


def _read_index(
    blob: Blob, trailer: format.Header, target: Target | None
) -> _core.Segments:
    raw = bytearray()
    size = trailer.index_size * ENTRY_SIZE
    blob.want(trailer.index_offset, size)
    while len(raw) < size:
        at = trailer.index_offset + len(raw)
        raw += blob.pread(at, min(_STEP, size - len(raw)))
    try:
        return _core.Segments.unpack(
            raw,
            name=blob.name,
            offset=trailer.index_offset,
            disk_sectors=trailer.virtual_size // SECTOR,
            data_start=format.SLOT // SECTOR,
            data_end=trailer.index_offset // SECTOR,
            target_sectors=target.size // SECTOR if target else None,
        )
    except BadIndex as error:
        raise BadIndex(
            error.name,
            blob.in_stream(error.what),
            offset=error.offset,
            expected=error.expected,
            found=error.found,
        ) from error


def _uuid(blob: Blob, ends: _Ends, field: str) -> str | None:
    text = _text(getattr(ends.trailer, field)).lower()
    if text in ("", format.NO_UUID):
        return None
    if not _UUID.fullmatch(text):
        raise BadHeader(
            blob.name,
            blob.in_stream(f"{field} in the trailer"),
            offset=ends.trailer_offset + format.OFFSETS[field],
            expected="36 characters, hexadecimal and dashes",
            found=repr(text),
        )
    return text


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


def _role(at: int) -> str:
    return "trailer" if at else "header"


def _bad_field(
    blob: Blob, at: int, header: format.Header, field: str, expected: object
) -> BadHeader:
    return BadHeader(
        blob.name,
        blob.in_stream(f"{field} in the {_role(at)}"),
        offset=at + format.OFFSETS[field],
        expected=expected,
        found=getattr(header, field),
    )


def _unsupported(
    blob: Blob, at: int, header: format.Header, what: str, hint: str | None = None
) -> Unsupported:
    return Unsupported(
        blob.name,
        blob.in_stream(what),
        offset=at + format.OFFSETS["flags"],
        found=f"flags {header.flags:#x}",
        hint=hint,
    )
