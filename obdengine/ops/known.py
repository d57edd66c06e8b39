# SPDX-License-Identifier: Apache-2.0
"""
known - layers that were converted before: a small database on this machine.

    key  ->  facts of the layer     of what, over what, with which options
    digest  ->  paths               where it was put

It holds no layers. What it says is believed when the file is there and has
the digest, and not before: anybody may have moved, changed or removed it. A
database that is damaged is begun anew; without one everything works, and
takes longer.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from obdengine.errors import ObdError
from obdengine.oci.digest import DigestReader, digest_of
from obdengine.oci.manifest import canonical
from obdengine.source import FileSource
from obdengine.source.stream import SourceStream

__all__ = ["KnownLayers", "default_folder", "key_of"]

_NAME = "layers.sqlite3"
_SCHEMA = """
create table if not exists layers (key text primary key, digest text, facts text);
create table if not exists places (
    digest text, path text, primary key (digest, path)
);
"""
_PATIENCE = 30.0  # seconds that one process waits for another's transaction

_Result = TypeVar("_Result")


def default_folder() -> Path:
    """Return where the database of this user is."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The specification says that relative paths are to be ignored.
    folder = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return folder / "obdengine"


def key_of(words: Mapping[str, Any]) -> str:
    """Return the key of all that the bytes of a layer depend on."""
    return digest_of(canonical(words))


class KnownLayers:
    """The database; may be used by many processes at the same time.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: Path) -> None:
        """Use the database in folder, which is made when it is first written."""
        self.path = folder / _NAME

    def facts(self, key: str) -> dict[str, Any] | None:
        """Return what was noted of a layer, its digest among it; None: nothing."""
        rows = self._ask("select facts from layers where key = ?", key)
        with suppress(ValueError):
            found = json.loads(rows[0][0]) if rows else None
            return found if isinstance(found, dict) else None
        return None

    def file(self, digest: str, size: int) -> Path | None:
        """Return a file that is this layer: all of it was read just now."""
        for (path,) in self._ask("select path from places where digest = ?", digest):
            if _is_it(Path(path), digest, size):
                return Path(path)
            self._forget(digest, path)
        return None

    def note(
        self, key: str, facts: Mapping[str, Any], places: Mapping[str, Path]
    ) -> None:
        """Remember a layer, and where its files are; failing does not matter.

        places: of each file that stays on this machine, by its digest.
        """
        row = (key, facts["digest"], json.dumps(facts))
        found = [(digest, str(path.absolute())) for digest, path in places.items()]

        def write(database: sqlite3.Connection) -> None:
            database.execute("insert or replace into layers values (?, ?, ?)", row)
            database.executemany("insert or replace into places values (?, ?)", found)

        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._try(write, None)

    def _ask(self, question: str, word: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        return self._try(lambda d: d.execute(question, (word,)).fetchall(), [])

    def _forget(self, digest: str, path: str) -> None:
        gone = "delete from places where digest = ? and path = ?"
        self._try(lambda d: d.execute(gone, (digest, path)), None)

    def _try(
        self, work: Callable[[sqlite3.Connection], _Result], otherwise: _Result
    ) -> _Result:
        """Return what work returns; when the database is damaged, begin anew."""
        for _ in range(2):
            try:
                with self._opened() as database:
                    return work(database)
            except sqlite3.OperationalError:
                return otherwise  # busy, full, or not ours to write
            except sqlite3.DatabaseError:
                with suppress(OSError):
                    self.path.unlink()
        return otherwise

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as database:
            database.executescript(_SCHEMA)
            with database:
                yield database


def _is_it(path: Path, digest: str, size: int) -> bool:
    try:
        with SourceStream(FileSource(path)) as stream:
            DigestReader(stream, str(path), digest, size).finish()
    except ObdError:
        return False
    return True
