# SPDX-License-Identifier: Apache-2.0
"""
device - a stack of layers as one disk.

A read or write is one call into C. Only when the core says that bytes are
absent are they fetched here, and the same call made again. Without an upper
writes are refused.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple, NoReturn, Protocol

from obdengine import _core
from obdengine.blob import Request
from obdengine.device.extents import Extent, walk
from obdengine.device.recorder import Recorder
from obdengine.device.trace import Read
from obdengine.errors import Closed, ObdError, OutOfRange, ReadOnly, UsageError
from obdengine.index import Table, table_of
from obdengine.layer import Layer, Upper
from obdengine.units import MIB

__all__ = ["Companion", "Device"]

# What cache() brings at once: the core tells of so many ranges in one call.
_CACHE_STEP = MIB


class Companion(Protocol):
    """Something that works for a device while that is open."""

    def close(self) -> None:
        """End; the device is closed next."""


class _Stack(NamedTuple):
    """Layers and upper on top of each other, ready for use."""

    layers: tuple[Layer, ...]
    upper: Upper | None
    size: int
    table: Table
    core: _core.Device


class Device:
    """A disk made of layers, bottom first, and an upper, which it takes over.

    Every method may be called from any thread at the same time, close()
    included: requests that are running end as they would have.

    Attributes:
        name: what errors call it.
        layers: the read-only layers, bottom first.
        upper: the writable layer, or None.
        size: bytes of the disk: that of the topmost layer that has one.
        port: where native code enters it, whatever becomes of layers and upper.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        name: str,
        upper: Upper | None = None,
        *,
        size: int | None = None,
    ) -> None:
        """Fold the layers' indexes.

        size: bytes of the disk, where it shall not be what the layers say.
        Raises LimitError for more than 255 layers, UsageError for none and no
        upper.
        """
        self.name = name
        self.port = _core.Port()
        self._recorder: Recorder | None = None
        self._companions: list[Companion] = []
        # How many cores use a part.
        self._users: Counter[Layer | Upper] = Counter()
        self._use(self._pile(layers, upper, size))

    def _pile(
        self, layers: Sequence[Layer], upper: Upper | None, size: int | None = None
    ) -> _Stack:
        """Put layers and upper on top of each other."""
        if not layers and not upper:
            raise UsageError("an image needs at least one layer")
        table = table_of([layer.segments for layer in layers])
        if size is None:
            size = upper.virtual_size if upper else _size_of(layers)
        blobs = [layer.core for layer in layers]
        core = _core.Device(blobs, table.segmap, size, upper.core if upper else None)
        # Each request holds the core while it runs, so what only the old core
        # used is closed when the last request that can read it ends: counting
        # requests would cost every read a lock.
        parts: list[Layer | Upper] = [*layers, *([upper] if upper else [])]
        self._users.update(parts)
        weakref.finalize(core, _release, self._users, parts)
        return _Stack(tuple(layers), upper, size, table, core)

    def _use(self, stack: _Stack) -> None:
        """Be this from now on; it cannot fail."""
        # Afterwards no native request is in the old core, which may go then.
        self._open_port(stack.core, stack.upper)
        self.layers, self.upper, self.size, self._table, core = stack
        self._core: _core.Device | None = core

    def _open_port(self, core: _core.Device | None, upper: Upper | None) -> None:
        """Let native code serve from core, unless what it reads is to be noted."""
        writable = upper is not None and not upper.readonly
        self.port.use(None if self._recorder else core, writable=writable)

    @property
    def native(self) -> int:
        """Address of what serves requests without Python; see _core/native.h.

        Good for as long as the device is referred to, or that is held. What
        cannot be done there is asked for here again.
        """
        return self.port.address

    @property
    def readonly(self) -> bool:
        """Whether writes are refused."""
        return self.upper is None or self.upper.readonly

    # -- Reading

    def pread(self, offset: int, length: int) -> bytes:
        """Return length bytes at offset, of any alignment.

        Raises OutOfRange past the end, FormatError for damaged bytes,
        SourceError for bytes that cannot be had, Closed.
        """
        self._check_range(offset, length)
        buffer = bytearray(length)
        self.pread_into(offset, buffer)
        return bytes(buffer)

    def pread_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill buffer, a writable buffer of bytes, with the bytes at offset.

        Raises as pread() does; the buffer is unspecified then.
        """
        self._check_range(offset, memoryview(buffer).nbytes)
        core = self._core or self._closed()
        if self._recorder:
            self._recorder.note(core, offset, memoryview(buffer).nbytes)
        try:
            return core.pread_into(offset, buffer)
        except (_core.Absent, _core.Damaged) as stop:
            lacking = stop.lacking
        # Not above: an error must not hold what holds the caller's buffer.
        return self._again(lacking, lambda: core.pread_into(offset, buffer))

    def cache(self, offset: int, length: int) -> None:
        """Bring the bytes that a range is made from to this machine."""
        self._check_range(offset, length)
        core = self._core or self._closed()
        step = _CACHE_STEP
        for at in range(offset, offset + length, step):
            size = min(step, offset + length - at)
            request = Request(self.layers)
            while missing := core.ranges(at, size, absent_only=True):
                request.bring(missing)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield what [offset, offset + length) is made of, without gaps.

        length None: up to the end of the disk.
        """
        if length is None:
            length = max(self.size - offset, 0)
        self._check_range(offset, length)
        return walk(self._core or self._closed(), offset, length)

    # -- Writing

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data at offset, of any alignment; durable after flush().

        Each sector has its old content or its new one, whatever happens.
        Raises OutOfRange, ReadOnly, Closed; SourceError with ENOSPC where
        there is no room, else with the errno of the kernel.
        """
        self._check_range(offset, memoryview(data).nbytes)
        self._write(lambda core: core.pwrite(offset, data))

    def discard(self, offset: int, length: int) -> None:
        """Make the whole sectors of a range read as zeros; raises as pwrite()."""
        self._check_range(offset, length)
        self._write(lambda core: core.discard(offset, length))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range read as zeros without storing them; raises as pwrite()."""
        self._check_range(offset, length)
        self._write(lambda core: core.zero(offset, length))

    def flush(self) -> None:
        """Make every write durable that returned before; raises SourceError."""
        with self.port:
            self._core or self._closed()
            upper = self.upper
            if upper and not upper.readonly:
                upper.flush()
                upper.upkeep()

    def compact_index(self) -> None:
        """Write the upper's index file anew; reads and writes go on meanwhile.

        Raises ReadOnly, SourceError, Closed.
        """
        with self.port:
            self._core or self._closed()
            if self.upper is None or self.readonly:
                raise self._read_only()
            self.upper.flush()
            self.upper.compact_index()

    def _write(self, call: Callable[[_core.Device], None]) -> None:
        with self.port:
            core = self._core or self._closed()
            if self.readonly:
                raise self._read_only()
            try:
                return call(core)
            except (_core.Absent, _core.Damaged) as stop:
                lacking = stop.lacking
            return self._again(lacking, lambda: call(core))

    # -- What goes along with it

    @property
    def recorder(self) -> Recorder | None:
        """What notes the reads, or None; set it to begin, or to end that."""
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        with self.port.shut():
            self._recorder = recorder
            self._open_port(self._core, self.upper)

    def reads(self, offset: int, length: int) -> list[Read]:
        """Return the parts of layers that a read of the disk is made from."""
        self._check_range(offset, length)
        core = self._core or self._closed()
        return [Read(*part) for part in core.streams(offset, length)]

    def accompany(self, companion: Companion) -> None:
        """Have something work for the device, until it is closed."""
        self._companions.append(companion)

    # -- The device itself

    @contextmanager
    def lent(self, *, writing: bool) -> Iterator[_core.Device]:
        """Give the core to other C code for the length of the block.

        What is absent it must fetch with cache(). For writing, close() and
        exchange() wait until the block has ended. Raises ReadOnly, Closed.
        """
        with self.port if writing else nullcontext():
            core = self._core or self._closed()
            if writing and self.readonly:
                raise self._read_only()
            yield core

    def exchange(
        self,
        change: Callable[
            [], AbstractContextManager[tuple[Sequence[Layer], Upper | None]]
        ],
    ) -> None:
        """Go on with other layers, or another upper, that read the same.

        change is a context that has them. It ends when they are ready for
        use, and may fail then too; it then leaves everything as it was. No
        write and no flush runs meanwhile, reads go on. Raises Closed, and what
        change raises.
        """
        with self.port.shut():
            self._core or self._closed()
            with change() as (layers, upper):
                stack = self._pile(layers, upper, None if upper else self.size)
            self._use(stack)

    def resize(self, size: int, judge: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """Give the disk size bytes.

        judge is called when no write and no flush runs: it returns (offset,
        size) of what must read as zeros past the old end, and raises when
        there is something past the new one. Raises ReadOnly, Closed,
        SourceError, and what judge raises; the disk is as it was then.
        """
        with self.port.shut():
            self._core or self._closed()
            if self.upper is None or self.readonly:
                raise self._read_only()
            self.upper.resize(size, judge())
            self._use(self._pile(self.layers, self.upper))

    @property
    def entries(self) -> int:
        """Number of segments in the merged index."""
        return len(self._table)

    @property
    def memory(self) -> int:
        """Bytes of memory of the merged index and the layers' block tables."""
        blobs = sum(layer.core.memory for layer in self.layers)
        return self._table.memory + blobs

    def check(self) -> None:
        """Assert what must always hold. O(entries); tests call it."""
        self._table.check()
        for segment in self._table:
            assert 0 <= segment.layer < len(self.layers), segment

    def close(self) -> None:
        """Close the layers, once no request runs; twice does nothing.

        What was written is made durable first; raises what flush() raises.
        """
        while self._companions:
            self._companions.pop().close()
        with self.port.shut():
            core, self._core = self._core, None
            upper, self.upper, self.layers = self.upper, None, ()
            self.port.use(None, writable=False)
        if core and upper and not upper.readonly:
            upper.settle()

    def __enter__(self) -> Device:
        """Return the device, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # -- Below

    def _again(self, lacking: _core.Lacking, call: Callable[[], None]) -> None:
        """Get what call() lacked, and call again, as often as that helps."""
        request = Request(self.layers)
        found: _core.Lacking | None = lacking
        while found is not None:
            request.get(found)
            try:
                call()
                found = None
            except (_core.Absent, _core.Damaged) as next_one:
                found = next_one.lacking

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OutOfRange(
                f"{self.name}: {length} bytes at offset {offset} are not on a disk "
                f"of {self.size} bytes"
            )

    def _closed(self) -> NoReturn:
        raise Closed(f"{self.name}: used after close")

    def _read_only(self) -> ReadOnly:
        return ReadOnly(f"{self.name}: the image has no writable layer")


def _size_of(layers: Sequence[Layer]) -> int:
    for layer in reversed(layers):
        if layer.virtual_size:
            return layer.virtual_size
    raise UsageError("no layer of the image says how large the disk is")


def _release(users: Counter[Layer | Upper], parts: Sequence[Layer | Upper]) -> None:
    for part in parts:
        users[part] -= 1
        if not users[part]:
            # Nobody hears of it here, and Device.close() has flushed before.
            with suppress(ObdError):
                part.close()
