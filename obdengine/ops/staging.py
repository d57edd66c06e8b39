# SPDX-License-Identifier: Apache-2.0
"""
staging - several files that appear together, or not at all.

They are made in a folder of their own on the same file system, which goes away
with all that is still in it, however the work ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from obdengine.errors import SourceError, UsageError
from obdengine.ops.folder import CONFIG_NAME

__all__ = ["place_of", "publish", "publish_beside", "refuse_filled", "staging"]


def refuse_filled(folder: Path) -> None:
    """Raise UsageError unless folder is a new one, or an empty one."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty", hint="name a new folder")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is there and not a folder")


def place_of(dst: Path) -> Path:
    """Return where a file called dst shall be.

    A link at that place shall still be one afterwards. Raises UsageError when
    something is there that is not a regular file.
    """
    path = dst.resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{dst}: is there and not a regular file")
    return path


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder in folder, which is gone at the end of the block.

    Raises SourceError when none can be made.
    """
    path = folder / f".obd-{secrets.token_hex(6)}.tmp"
    try:
        path.mkdir()
    except OSError as error:
        raise SourceError(
            f"{folder}: nothing can be made in it: {error.strerror}", errno=error.errno
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(staged: Path, folder: Path) -> None:
    """Make all that is in staged the contents of folder, the configuration last."""
    if not folder.is_dir():
        _sync(staged, *staged.iterdir())
        staged.rename(folder)
        _sync(folder.parent)
        return
    names = sorted(staged.iterdir(), key=lambda path: path.name == CONFIG_NAME)
    _move(names, folder)


def publish_beside(staged: Path, dst: Path) -> None:
    """Move the file staged/NAME over dst, and others that it needs beside it.

    Raises UsageError when one of the others would overwrite something.
    """
    main = staged / dst.name
    others = sorted(path for path in staged.iterdir() if path != main)
    for path in others:
        if (dst.parent / path.name).exists():
            raise UsageError(f"{dst.parent / path.name}: is in the way")
    _move([*others, main], dst.parent)


def _move(files: Sequence[Path], folder: Path) -> None:
    _sync(*files)
    moved: list[Path] = []
    try:
        for path in files:
            moved.append(folder / path.name)
            path.rename(moved[-1])
    except BaseException:
        # The last one makes the rest mean something.
        for path in moved[:-1]:
            path.unlink(missing_ok=True)
        raise
    _sync(folder)


def _sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
