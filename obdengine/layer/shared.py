# SPDX-License-Identifier: Apache-2.0
"""
shared - layers that several disks of a process are made of, opened once.

A layer never changes, so whoever opens the same file gets the same index, block
table and descriptor. It is closed when the last of them has closed it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from obdengine.layer.reader import Layer, open_layer

__all__ = ["open_shared"]

# The name as it was given, because errors show it, and what tells a file from
# another, and from itself before it was written to.
_Key = tuple[str, int, int, int, int, int]


@dataclass
class _Held:
    layer: Layer
    users: int = 0


_lock = threading.Lock()
_held: dict[_Key, _Held] = {}


def open_shared(path: str | os.PathLike[str]) -> Layer:
    """Open the layer at path, or use it with those who have it open.

    It is closed as if it were the caller's own; raises as open_layer() does.
    """
    name = os.fspath(path)
    try:
        key = _key_of(name, os.stat(path))  # noqa: PTH116
    except (OSError, ValueError):
        return open_layer(path)  # which says what is wrong
    with _lock:
        if held := _held.get(key):
            return _lend(key, held)
    layer = open_layer(path)
    fd = layer.blob.source.fileno()
    if fd is None:
        return layer
    # It may be another file by now.
    key = _key_of(name, os.fstat(fd))
    with _lock:
        held = _held.setdefault(key, _Held(layer))
        lent = _lend(key, held)
    if held.layer is not layer:
        layer.close()
    return lent


def _key_of(name: str, found: os.stat_result) -> _Key:
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (name, found.st_dev, found.st_ino, found.st_size, *times)


def _lend(key: _Key, held: _Held) -> Layer:
    """Return the layer for one more user; the lock is held."""
    held.users += 1
    return held.layer.lend(lambda: _give_back(key, held))


def _give_back(key: _Key, held: _Held) -> None:
    with _lock:
        held.users -= 1
        last = held.users == 0
        if last:
            del _held[key]
    if last:
        held.layer.close()
