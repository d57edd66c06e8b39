# SPDX-License-Identifier: Apache-2.0
"""
journal - a writable layer's journal: found, applied, made, ended.

It is a file beside the data file in append form, made when small flushes come
one after the other, and removed when the layer is closed. What counts in it,
and why, is at the top of `_core/journal.h`; here is where it lies, and when.
"""

from __future__ import annotations

import os
from pathlib import Path

from obdengine import _core
from obdengine.errors import ObdError, SourceError
from obdengine.source.output import Output
from obdengine.source.writable import WritableFile
from obdengine.units import KIB, MIB

__all__ = ["PATIENCE", "SIZE", "Journal", "journal_path"]

# Of the file. A checkpoint costs some three flushes, once in 450 of 4 KiB; twice
# as much is no faster that one could measure, and takes twice as long to make.
SIZE = 2 * MIB

# Small flushes, one after the other, until a journal is made.
PATIENCE = 16

_ZEROS = bytes(256 * KIB)


def journal_path(data: Path) -> Path:
    """Return where the journal of a data file is."""
    return data.with_name(data.name + ".journal")


class Journal:
    """What an open writable layer has for a journal, or may have.

    Attributes:
        path: where it is, or will be.
        found: what was in it at opening, and not yet in the two files if the
            layer is open for reading only.
        file: it, open, while it is used.
    """

    def __init__(self, core: _core.Upper, data: Path, uuid: bytes) -> None:
        """Know where it would be; uuid as in the header of the data file."""
        self.path = journal_path(data)
        self.found = _core.JournalFound(0, 0, _core.JournalState.EMPTY)
        self.file: WritableFile | None = None
        self._core = core
        self._uuid = uuid[: _core.JOURNAL_UUID].ljust(_core.JOURNAL_UUID, b"\0")

    @property
    def is_stray(self) -> bool:
        """Whether the file that is there is not this layer's: it is left alone."""
        return self.found.state is _core.JournalState.STRAY

    @property
    def is_past(self) -> bool:
        """Whether somebody wrote to the layer without it: nothing in it counts."""
        return self.found.state is _core.JournalState.PAST

    @property
    def kept(self) -> int:
        """Flushes that are in the journal and nowhere else."""
        keeps = self.found.state is _core.JournalState.KEEPS
        return self.found.entries if keeps else 0

    def recover(self, *, repair: bool) -> None:
        """Apply what is there, once the index file was replayed.

        With repair it is in the two files afterwards, durably, and the journal
        is gone; without, it is only counted.
        """
        if not self.path.exists():
            return
        file = WritableFile(self.path, readonly=not repair)
        try:
            self.found = self._core.recover(
                file.fileno(), file.size, self._uuid, repair=repair
            )
        finally:
            file.close()
        if repair and self.is_stray:
            self._core.end_journal(never=True)
        elif repair:
            self._remove()

    def make(self) -> None:
        """Make one if it would pay, and use it; without room for it, do not."""
        if not self._core.wants_journal():
            return
        try:
            with Output(self.path) as out:
                seed = int.from_bytes(os.urandom(8), "little")
                out.append(_core.journal_header(self._uuid, seed))
                while out.position < SIZE:
                    out.append(_ZEROS[: SIZE - out.position])
                out.commit()
            self.file = WritableFile(self.path)
            self._core.use_journal(self.file.fileno(), SIZE)
        except (ObdError, OSError):
            self._give_up()

    def _give_up(self) -> None:
        self._core.end_journal(never=True)
        self.close()
        self._remove()

    def end(self) -> None:
        """Bring everything into the two files, durably, and remove it."""
        self._core.end_journal(never=self.is_stray)
        if self.file:
            self.close()
            self._remove()

    def close(self) -> None:
        """Close the file and leave it there; twice does nothing."""
        file, self.file = self.file, None
        if file:
            file.close()

    def _remove(self) -> None:
        # It is empty: whether it is there after a crash makes no difference.
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            words = f"{self.path}: {error.strerror}"
            raise SourceError(words, errno=error.errno) from error
