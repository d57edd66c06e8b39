# SPDX-License-Identifier: Apache-2.0
"""
writer - a committed layer: header, dense data in the disk's order, index, trailer.

Data of a TurboOCI layer may be left where it is, in the layer's target.

Runs come in order and are joined where they touch. The index never gets
longer than the readers of the format accept. Where the stream goes, and
whether it is compressed, is the blob's business.
"""

from __future__ import annotations

import uuid as uuids
from array import array
from typing import NamedTuple

from obdengine.blob import StreamWriter
from obdengine.errors import LimitError, UsageError
from obdengine.layer import format
from obdengine.segment import MAX_ENTRIES, PADDING_START
from obdengine.units import SECTOR, human_size, round_up

__all__ = ["MAX_RUN", "LayerWriter", "Totals"]

# Sectors in one entry: below 16383, as overlaybd joins runs, and a multiple
# of 4 KiB, so that a cut does not leave the rest of a long run unaligned.
MAX_RUN = 16376


# Kinds of a run, as the bits of an entry: the zeroed bit, and tag 1.
_DATA, _ZERO, _TARGET = 0, 1 << 55, 1 << 56


class Totals(NamedTuple):
    """What a finished layer has.

    Attributes:
        entries: of its index, without padding.
        data_size: bytes of the disk that it holds the data of itself.
        zero_size: bytes of the disk that it says are zero.
        stream_size: bytes of the whole layer, before compression.
        target_size: bytes of the disk whose data is in the target.
    """

    entries: int
    data_size: int
    zero_size: int
    stream_size: int
    target_size: int = 0


class LayerWriter:
    """Writes one layer into a StreamWriter, which it finishes.

    Attributes:
        limit: the most entries that the index may get.
    """

    def __init__(
        self,
        out: StreamWriter,
        *,
        virtual_size: int,
        uuid: str | None = None,
        parent_uuid: str | None = None,
        message: str = "",
        limit: int = format.WRITER_MAX_ENTRIES,
    ) -> None:
        """Write the header.

        virtual_size is in bytes, whole sectors; limit is the most entries
        that the index may get. Raises UsageError when a value does not fit
        into the header.
        """
        if virtual_size % SECTOR or not 0 <= virtual_size <= format.MAX_VIRTUAL_SIZE:
            raise UsageError(f"a layer cannot be of {virtual_size} bytes")
        self.limit = limit
        self._out = out
        self._words = format.Header(
            virtual_size=virtual_size,
            uuid=_uuid_field(uuid),
            parent_uuid=_uuid_field(parent_uuid),
            user_tag=_message_field(message),
        )
        # Pairs of words, as on disk: 16 bytes an entry, 16 MiB at the most.
        self._index = array("Q")
        self._start = self._length = 0
        self._kind = _DATA
        self._target_sector = 0
        self._target_length = 0
        self._data_end = format.SLOT // SECTOR
        self._zero_length = 0
        flags = format.HEADER | format.DATA | format.SEALED
        out.write(format.pack_header(self._words._replace(flags=flags)))

    @property
    def entries(self) -> int:
        """Entries so far, the one that may still grow included."""
        return len(self._index) // 2 + (self._length > 0)

    def data(self, start: int, payload: bytes | bytearray | memoryview) -> None:
        """Store payload, whole sectors, at sector start of the disk.

        Raises LimitError for more entries than readers accept, UsageError
        when it is not behind everything before, and what the stream raises.
        """
        length, odd = divmod(len(payload), SECTOR)
        if odd:
            raise UsageError(f"{len(payload)} bytes are not whole sectors")
        self._out.write(payload)
        self._add(start, length, _DATA)

    def zero(self, start: int, length: int) -> None:
        """Say that length sectors from start read as zeros; raises as data()."""
        self._add(start, length, _ZERO)
        self._zero_length += length

    def target(self, start: int, length: int, sector: int) -> None:
        """Say that length sectors from start are those of the target from sector.

        Makes it a TurboOCI layer. Raises as data().
        """
        if self._length and self._target_sector + self._length != sector:
            self._flush()
        if not self._length or self._kind != _TARGET:
            self._flush()
            self._target_sector = sector
        self._add(start, length, _TARGET)
        self._target_length += length

    def finish(self) -> Totals:
        """Write index and trailer and finish the stream."""
        self._flush()
        entries = len(self._index) // 2
        # TurboOCI layers have no padding: its tag would count.
        group = 1 if self._target_length else format.INDEX_GROUP
        padded = round_up(entries, group)
        self._index.extend([PADDING_START, 0] * (padded - entries))
        self._out.write(memoryview(self._index).cast("B"))
        trailer = self._words._replace(
            flags=format.DATA | format.SEALED,
            index_offset=self._data_end * SECTOR,
            index_size=padded,
        )
        self._out.write(format.pack_header(trailer))
        self._out.finish()
        return Totals(
            entries,
            self._data_end * SECTOR - format.SLOT,
            self._zero_length * SECTOR,
            self._data_end * SECTOR + 16 * padded + format.SLOT,
            self._target_length * SECTOR,
        )

    def _add(self, start: int, length: int, kind: int) -> None:
        """Add a run to the index, cut into entries or joined to the last."""
        end = self._start + self._length
        if start < end or (start + length) * SECTOR > self._words.virtual_size:
            raise UsageError(
                f"sectors {start} to {start + length} come after sector {end} of a "
                f"disk of {human_size(self._words.virtual_size)}"
            )
        while length:
            if start != end or kind != self._kind or self._length == MAX_RUN:
                self._flush()
                self._start, self._length, self._kind = start, 0, kind
            part = min(length, MAX_RUN - self._length)
            self._length += part
            start, length = start + part, length - part
            end = start
            if kind == _DATA:
                self._data_end += part

    def _flush(self) -> None:
        """Put the run that is still growing into the index."""
        if not self._length:
            return
        if len(self._index) // 2 >= self.limit:
            raise LimitError(
                f"the layer needs more than {self.limit} index entries, and readers "
                f"of the format accept {MAX_ENTRIES} with padding"
            )
        # A zeroed entry takes no room; it points at the end of the data.
        moffset = self._data_end - (self._length if self._kind == _DATA else 0)
        if self._kind == _TARGET:
            moffset = self._target_sector
            self._target_sector += self._length
        self._index.append(self._start | self._length << 50)
        self._index.append(moffset | self._kind)
        self._start += self._length
        self._length = 0


def _uuid_field(text: str | None) -> bytes:
    """Return text as overlaybd writes it: in upper case."""
    if text is None:
        return format.NO_UUID.encode()
    try:
        return str(uuids.UUID(text)).upper().encode()
    except ValueError as error:
        raise UsageError(f"{text!r} is not a uuid") from error


def _message_field(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > format.MAX_MESSAGE or b"\0" in raw:
        raise UsageError(
            f"a message of {len(raw)} bytes",
            hint=f"at most {format.MAX_MESSAGE} bytes of UTF-8, no NUL",
        )
    return raw
