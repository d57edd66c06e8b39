# SPDX-License-Identifier: Apache-2.0
"""
disk - an nbdkit plugin: a disk whose power can be cut, and that records its life.

It answers from a file in which everything is at once, so it never lies while
it has power. recording.py says what would be left. Keys:

    file=IMAGE    what it holds
    log=PATH      the record; mark in it are the lines of the diary
    diary=PATH    a file to which programs add lines while they use the disk
    off=PATH      the power is off from when this file is there
    last=N        or when N writes and flushes were recorded
"""

from __future__ import annotations

import errno
import os
from typing import Any

import nbdkit

from tests.power_fs.recording import DISCARD, FLUSH, FUA, MARK, SECTOR, Recorder

API_VERSION = 2

_settings: dict[str, str] = {"last": "0"}


class _Disk:
    """The file, the record, and how far the diary is in it."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.fd = os.open(settings["file"], os.O_RDWR)
        self._diary = os.open(settings["diary"], os.O_RDONLY | os.O_CREAT, 0o644)
        self._read = 0
        self._off = settings["off"]
        self._left = int(settings["last"]) or -1
        self._log = Recorder(settings["log"])

    def wake(self) -> None:
        """Note what was said meanwhile; fail when the power is off."""
        raw = os.pread(self._diary, 1 << 20, self._read)
        raw = raw[: raw.rfind(b"\n") + 1]
        self._read += len(raw)
        for word in raw.split():
            self._log.add(MARK, data=word)
        if self._left == 0 or os.path.exists(self._off):  # noqa: PTH110
            nbdkit.set_error(errno.EIO)
            raise OSError(errno.EIO, "the power is off")

    def record(self, flags: int, offset: int, size: int, data: bytes = b"") -> None:
        self._log.add(flags, offset // SECTOR, size // SECTOR, data)
        self._left -= 1


_disk: _Disk


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS)


def config(key: str, value: str) -> None:
    _settings[key] = value


def get_ready() -> None:
    global _disk
    _disk = _Disk(_settings)


def open(readonly: bool) -> object:
    return _disk


def get_size(_: object) -> int:
    return os.fstat(_disk.fd).st_size


def block_size(_: object) -> tuple[int, int, int]:
    return SECTOR, 4096, 32 << 20


def can_fua(_: object) -> int:
    return int(nbdkit.FUA_NATIVE)


def can_flush(_: object) -> bool:
    return True


def can_trim(_: object) -> bool:
    return True


def can_zero(_: object) -> bool:
    return True


def pread(_: object, buffer: Any, offset: int, flags: int) -> None:
    _disk.wake()
    buffer[:] = os.pread(_disk.fd, len(buffer), offset)


def pwrite(_: object, buffer: Any, offset: int, flags: int) -> None:
    _disk.wake()
    data = bytes(buffer)
    _disk.record(_fua(flags), offset, len(data), data)
    os.pwrite(_disk.fd, data, offset)


def flush(_: object, flags: int) -> None:
    _disk.wake()
    _disk.record(FLUSH, 0, 0)


def zero(_: object, count: int, offset: int, flags: int) -> None:
    _disk.wake()
    _disk.record(DISCARD | _fua(flags), offset, count)
    os.pwrite(_disk.fd, bytes(count), offset)


trim = zero


def _fua(flags: int) -> int:
    return FUA if flags & nbdkit.FLAG_FUA else 0
