# SPDX-License-Identifier: Apache-2.0
"""
blobs_at_once - the same work for many blobs, several at a time, and one progress.

When one fails the others stop at their next step, and its error is raised.
What the work is, is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import Progress

__all__ = ["Work", "for_all"]

# Does what is to be done with a blob, and tells how far it is.
Work = Callable[[Descriptor, Progress], None]


def for_all(
    blobs: Sequence[Descriptor],
    work: Work,
    *,
    parallel: int,
    progress: Progress | None = None,
) -> None:
    """Call work for every blob, so many at once; raises what it raises."""
    state = _State(sum(blob.size for blob in blobs), progress)
    pool = ThreadPoolExecutor(max(parallel, 1), "obd-blob")
    jobs = [pool.submit(state.do, work, blob) for blob in blobs]
    try:
        wait(jobs, return_when=FIRST_EXCEPTION)
    finally:
        # Also when a person wants it to end: nothing new is begun.
        state.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    _raise_first(jobs)


class _Stopped(Exception):
    """Another blob has failed."""


class _State:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.stop = threading.Event()
        self._total, self._progress = total, progress
        self._positions: dict[str, int] = {}
        self._lock = threading.Lock()

    def do(self, work: Work, blob: Descriptor) -> None:
        self._show(blob, 0)
        try:
            work(blob, lambda done, _total: self._show(blob, done))
        except _Stopped:
            return
        except BaseException:
            self.stop.set()
            raise
        with self._lock:
            self._positions[blob.digest] = blob.size
            self._tell()

    def _show(self, blob: Descriptor, done: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self._lock:
            self._positions[blob.digest] = done
            self._tell()

    def _tell(self) -> None:
        if self._progress:
            self._progress(sum(self._positions.values()), self._total)


def _raise_first(jobs: Iterable[Future[None]]) -> None:
    for job in jobs:
        failure = None if job.cancelled() else job.exception()
        if failure and not isinstance(failure, _Stopped):
            raise failure
