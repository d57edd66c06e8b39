# SPDX-License-Identifier: Apache-2.0
"""
reader - a blob opened: the stream of one layer, unwrapped and inflated.

tar, then ZFile; each may be missing. What the stream holds is the layer's
business. Reading is the core's; this finds what the core needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from obdengine import _core
from obdengine.blob import format, tar, zfile
from obdengine.blob.pool import cpus, ordered_map
from obdengine.blob.request import Request
from obdengine.errors import BadHeader, Closed, FormatError
from obdengine.source import Remote, Resident, Source, resident_of
from obdengine.units import KIB, MIB

__all__ = ["Blob", "Packing", "Progress", "open_blob"]

# Called with the bytes done and the bytes there are.
Progress = Callable[[int, int], None]

_Result = TypeVar("_Result")

# Bytes at both ends of a remote blob that are fetched together, because header,
# table and index are in them: all of these, for a layer of up to some 100 MiB.
_HEAD = 4 * KIB
_TAIL = 64 * KIB

# Inflated bytes that check() hands to a thread at once.
_CHECK_SPAN = 4 * MIB

# What header and trailer must agree in when both have the final values.
_FINAL_FIELDS = (
    "index_offset",
    "index_size",
    "original_size",
    "index_crc",
    "block_size",
    "algo",
    "use_dict",
    "dict_size",
    "verify",
)


class Packing(NamedTuple):
    """How the payload is packed; values is None when it is not a ZFile."""

    wrapping: tar.Wrapping
    payload: zfile.Payload
    values: format.ZHeader | None = None
    header_rewritten: bool = False


class Blob:
    """The stream of one layer, from wherever it lies and however it is packed.

    Attributes:
        name: of the source, for errors.
        source: where the stored bytes come from.
        resident: the descriptor behind core, and how to fetch what it lacks.
        wrapper: "tar-pax", "tar-plain" or None.
        codec: "lz4", "zstd" or None.
        block_size: bytes that a block inflates to, None without a codec.
        verify: whether blocks have a crc.
        header_rewritten: whether the ZFile header has the final values.
        payload_offset: where in the source the ZFile or stream starts, bytes.
        payload_size: bytes of it.
        size: bytes of the stream.
        blocks: number of blocks, 0 without a codec.
        core: the `_core.Blob`, for a device.
    """

    def __init__(
        self, resident: Resident | Remote, core: _core.Blob, packing: Packing
    ) -> None:
        """Put the parts together; open_blob() finds them."""
        wrapping, values = packing.wrapping, packing.values
        self.resident = resident
        self.source: Source = resident.source
        self.core = core
        self.name = self.source.name
        self.size: int = core.size
        self.wrapper = f"tar-{wrapping.kind}" if wrapping.kind else None
        self.payload_offset = wrapping.offset
        self.payload_size = wrapping.size
        self.codec = format.ALGORITHMS[values.algo] if values else None
        self.block_size = values.block_size if values else None
        self.blocks = values.index_size if values else 0
        self.verify = bool(values and values.verify)
        self.header_rewritten = packing.header_rewritten
        self._packing = packing
        self._open = True
        # Last, because nobody reads by resident alone from now on.
        resident.attach(core)

    def in_stream(self, what: str) -> str:
        """Return what, for an error whose offset counts in the stream."""
        packed = self.wrapper or self.codec
        return f"{what} (offset in the unpacked layer)" if packed else what

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset of the stream.

        Raises OutOfRange, FormatError for a damaged block, SourceError, Closed.
        """
        return self._with_bytes(lambda: self.core.pread(offset, size))

    def check(
        self, progress: Progress | None = None, *, threads: int | None = None
    ) -> Iterator[FormatError]:
        """Yield everything that is wrong with the blob, in the file's order.

        Every block is read, verified and inflated. progress counts bytes of
        the stream. What was verified to open the blob is not verified again:
        bytes of a local file that change meanwhile are found by the next open.
        """
        yield from self._check_header()
        step = _CHECK_SPAN // (self.block_size or _CHECK_SPAN)
        spans = range(0, max(self.blocks, 1), step)
        found = ordered_map(
            lambda first: self._damaged(first, step), spans, threads or cpus()
        )
        for span, errors in enumerate(found, 1):
            yield from errors
            if progress:
                progress(min(span * _CHECK_SPAN, self.size), self.size)
        if progress and not self.codec:
            progress(self.size, self.size)
        yield from self._check_tail()

    def close(self) -> None:
        """Close the source. No read may be running; a second time does nothing."""
        self._open = False
        self.resident.close()

    def want(self, offset: int, size: int) -> None:
        """Bring a range of the stream near, which will be read in steps."""
        size = min(size, self.size - offset)
        if size > 0:
            self.resident.want([self.core.stored(offset, size)])

    def _with_bytes(self, call: Callable[[], _Result]) -> _Result:
        """Return call(), fetching what it says is absent as often as it says."""
        request = Request([self])
        while True:
            if not self._open:
                raise Closed(f"{self.name}: read after close")
            try:
                return call()
            except (_core.Absent, _core.Damaged) as stop:
                lacking = stop.lacking
            request.get(lacking)

    def fetch(self, offset: int, size: int) -> None:
        """Make size bytes at offset of the source resident, and tell the core."""
        self.resident.fetch(offset, size)

    def remote_at(self, offset: int) -> tuple[Remote | None, int]:
        """Return what an offset that the core misses is in, and where there."""
        return (self.resident if isinstance(self.resident, Remote) else None), offset

    def renew(self, block: int, elsewhere: int) -> None:
        """Fetch a block again that turned out to be wrong."""
        at = block * (self.block_size or 1)
        stored = self.core.stored(at, min(self.block_size or 1, self.size - at))
        if isinstance(self.resident, Remote):
            self.resident.renew(*stored, elsewhere)

    def _damaged(self, first: int, count: int) -> list[FormatError]:
        """Return the damage in count blocks from first, one error per block."""
        try:
            self._with_bytes(lambda: self.core.check(first, count))
        except FormatError as error:
            if not self.codec or count == 1:
                return [error]
            blocks = range(first, min(first + count, self.blocks))
            return [error for block in blocks for error in self._damaged(block, 1)]
        return []

    def _check_header(self) -> Iterator[FormatError]:
        """Yield where the trailer disagrees with a header that was believed."""
        values, payload = self._packing.values, self._packing.payload
        if values is None or not self.header_rewritten:
            return
        at = payload.size - format.SLOT
        try:
            trailer = zfile.read_slot(payload, at)
        except FormatError as error:
            yield error
            return
        for field in _FINAL_FIELDS:
            expected, found = getattr(values, field), getattr(trailer, field)
            if found != expected:
                yield BadHeader(
                    self.name,
                    f"{field} in the ZFile trailer",
                    offset=payload.offset + at + format.OFFSETS[field],
                    expected=f"{expected} as the header",
                    found=found,
                )

    def _check_tail(self) -> Iterator[FormatError]:
        """Yield what is wrong behind the payload of a tar with a pax header."""
        if self.wrapper != "tar-pax":
            return
        at = self.payload_offset + self.payload_size
        expected = tar.tail(self.payload_size)
        found = self.source.pread(at, min(len(expected), self.source.size - at))
        if found != expected:
            yield BadHeader(
                self.name,
                "the end of the tar",
                offset=at,
                expected=f"{len(expected)} zero bytes",
                found=f"{len(found)} bytes" + (", not all zero" if any(found) else ""),
            )


def open_blob(source: Source) -> Blob:
    """Return the blob in source, which it takes over, also when it fails.

    Raises FormatError when wrapper, header or table are wrong; blocks are
    judged when they are read.
    """
    resident = resident_of(source)
    try:
        resident.want([(0, _HEAD), (source.size - min(_TAIL, source.size), _TAIL)])
        wrapping = tar.unwrap(source)
        payload = zfile.Payload(source, wrapping.offset, wrapping.size)
        packing = Packing(wrapping, payload)
        if zfile.is_zfile(payload):
            packing = Packing(wrapping, payload, *zfile.read_values(payload))
            resident.want(_next_parts(packing))
        return Blob(resident, _core_blob(resident, packing), packing)
    except BaseException:
        resident.close()
        raise


def _next_parts(packing: Packing) -> list[tuple[int, int]]:
    """Return the ranges that are read next, as far as they can be known.

    The table of blocks, and what is before it: a layer has its index there.
    The first block: a layer has its header there.
    """
    payload, values = packing.payload, packing.values
    assert values
    start = max(values.index_offset - _TAIL // 2, 0)
    end = values.index_offset + format.TABLE_ENTRY_SIZE * values.index_size
    first = format.SLOT + values.block_size + values.block_size // 8
    return [
        (payload.offset + start, end - start),
        (payload.offset, min(first, values.index_offset)),
    ]


def _core_blob(resident: Resident | Remote, packing: Packing) -> _core.Blob:
    payload, values = packing.payload, packing.values
    name = payload.source.name
    absent = None if resident.complete else payload.source.size
    if values is None:
        return _core.Blob.plain(
            resident.fd,
            payload.offset,
            payload.size,
            name=name,
            track=absent,
        )
    return _core.Blob.zfile(
        resident.fd,
        payload.offset,
        zfile.read_table(payload, values),
        name=name,
        track=absent,
    )
