# SPDX-License-Identifier: Apache-2.0
"""failing - files of a writable layer that refuse on purpose, and note what they did.

Reading never fails here: it goes to the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

from obdengine import _core
from obdengine.units import SECTOR

# Is given (call, name of the file), returns an errno, or 0 to do it.
Policy = Callable[[str, str], int]


class FailingFiles:
    """Does what the core asks, or what policy says instead.

    Attributes:
        policy: None: nothing fails.
        done: what was done, as (call, name of the file).
        refused: what was not.
    """

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.done: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []

    def io(self) -> _core.Io:
        """Return what an upper takes."""
        return _core.Io(
            write=lambda fd, data, at: self._do("write", fd, self._write, data, at),
            sync=lambda fd: self._do("sync", fd, os.fdatasync),
            truncate=lambda fd, size: self._do("truncate", fd, os.ftruncate, size),
            punch=lambda fd, at, size: self._do("punch", fd, _core.punch, at, size),
        )

    def _do(self, name: str, fd: int, call: Callable[..., Any], *args: Any) -> int:
        what = (name, Path(f"/proc/self/fd/{fd}").readlink().name)
        error = self.policy(*what) if self.policy else 0
        if error:
            self.refused.append(what)
            if name == "write" and error == ENOSPC:
                # As a full disk does: a part is there, of whole sectors.
                data, offset = args
                end = (offset + len(data) // 2) // SECTOR * SECTOR
                self._write(fd, data[: max(0, end - offset)], offset)
            return error
        self.done.append(what)
        return call(fd, *args) or 0

    @staticmethod
    def _write(fd: int, data: bytes, offset: int) -> int:
        return 0 if os.pwrite(fd, data, offset) == len(data) else EIO
