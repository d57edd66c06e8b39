# SPDX-License-Identifier: Apache-2.0
"""
pool - work spread over threads, results in order, memory bounded.

The C core releases the interpreter lock while it inflates and compresses, so
threads are worth having. Nothing here knows what the work is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cpus", "ordered_map"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Generator[_Result, None, None]:
    """Yield work(item) for each item, in the order of items.

    At most two items per thread are under way or waiting to be taken. When
    the caller stops early, or work raises, what has not begun is dropped.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="obd")
    ahead: deque[Future[_Result]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
