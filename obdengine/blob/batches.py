# SPDX-License-Identifier: Apache-2.0
"""
batches - a stream cut into pieces that threads work on, taken in order.

    write -> batch -> [ work ] x threads -> take, one at a time -> used again

Who writes goes on reading while batches are worked on and taken. What fails
anywhere is raised by the next write() or by finish(), and nothing is taken
after it. Nothing here knows what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from obdengine.units import MIB

__all__ = ["BATCH_SIZE", "Batch", "Batches"]

# 1 MiB: long enough that handing it to a thread costs nothing beside
# compressing it, short enough that a few of them per thread are no memory.
BATCH_SIZE = MIB


class Batch:
    """A piece of the stream, and room for what is made of it.

    Both buffers are used again: fresh memory for each batch costs as much as
    a sixth of compressing it with lz4.

    Attributes:
        room: BATCH_SIZE bytes.
        size: bytes of room that are filled.
        made: for the work, which may make it as long as it needs.
        stored: bytes of made that count.
        lengths: of the parts of them.
    """

    def __init__(self) -> None:
        """Make an empty one."""
        self.room = memoryview(bytearray(BATCH_SIZE))
        self.size = 0
        self.made = bytearray()
        self.stored = 0
        self.lengths: list[int] = []

    @property
    def data(self) -> memoryview:
        """The bytes of the stream."""
        return self.room[: self.size]


class Batches:
    """A stream on its way; close() must be called, whatever happens."""

    def __init__(
        self,
        work: Callable[[Batch], None],
        take: Callable[[Batch], None],
        threads: int,
    ) -> None:
        """Let threads do the work, and one more take what is done, in order.

        At most two batches per thread, and one more, are in memory.
        """
        self._work = work
        self._take = take
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="obd-work")
        self._taker = ThreadPoolExecutor(1, thread_name_prefix="obd-take")
        self._room = threading.Semaphore(2 * threads)
        self._spare: list[Batch] = []
        self._batch = Batch()
        self._last: Future[None] | None = None
        self._error: BaseException | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add data, which may change afterwards; raises what work and take raise."""
        view = memoryview(data)
        while view:
            batch = self._batch
            part = view[: BATCH_SIZE - batch.size]
            batch.room[batch.size : batch.size + len(part)] = part
            batch.size += len(part)
            view = view[len(part) :]
            if batch.size == BATCH_SIZE:
                self._submit()

    def finish(self) -> None:
        """Wait until all is taken; raises as write() does."""
        if self._batch.size:
            self._submit()
        if self._last:
            self._last.result()
        self._judge()

    def close(self) -> None:
        """Drop what is not begun, and end the threads; twice does nothing."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._taker.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        self._room.acquire()
        self._judge()
        worked = self._workers.submit(self._work, self._batch)
        self._last = self._taker.submit(self._taken, worked, self._batch)
        self._batch = self._spare.pop() if self._spare else Batch()
        self._batch.size = 0

    def _taken(self, worked: Future[None], batch: Batch) -> None:
        """Take a batch when it is done, on the thread for that."""
        try:
            if self._error is None:
                worked.result()
                self._take(batch)
        except BaseException as error:  # whatever it is, the writer gets it
            self._error = error
        self._spare.append(batch)
        self._room.release()

    def _judge(self) -> None:
        if self._error is not None:
            raise self._error
