# SPDX-License-Identifier: Apache-2.0
"""
binding - the compiled module over libext2fs, and why it may be missing.

The only importer of the compiled module. It is the one part of obdengine
that may not have been built: everything else works without libext2fs.
"""

from __future__ import annotations

import errno
from typing import Any

from obdengine.errors import CoreError

ffi: Any = None
lib: Any = None
_why: ImportError | None = None
try:
    from obdengine.ext4._ext4 import ffi, lib
except ImportError as missing:
    _why = missing

__all__ = ["ffi", "lib", "require"]

_VERSION = 1


def require() -> None:
    """Raise CoreError unless file systems can be worked on here."""
    if lib is None:
        raise CoreError(
            f"this obdengine cannot work on file systems: {_why}",
            errno=errno.ENOSYS,
            hint="install libext2fs-dev, then build it again with `make setup`",
        ) from _why
    if lib.OBD_EXT4_VERSION != _VERSION:
        raise CoreError(
            f"the file-system part of obdengine is version {lib.OBD_EXT4_VERSION}, "
            f"this is for {_VERSION}",
            hint="build it again with `make setup`",
        )
