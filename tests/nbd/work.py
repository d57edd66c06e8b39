# SPDX-License-Identifier: Apache-2.0
"""
work - work on files, as much at once and as mixed as a busy machine's.

    python work.py FOLDER SEED STEPS    three processes, each in its own folder

It prints `kept PATH SHA256` for each file that was synced and is never touched
again: that must be there after a crash. When the file system fails it ends.
It is run inside the mount namespace that sees FOLDER, and needs only Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

KIB = 1 << 10


class Worker:
    """One process, and the files in its folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.names = 0
        folder.mkdir()

    def run(self, steps: int) -> None:
        """Do so many things."""
        ways: list[tuple[int, Callable[[], None]]] = [
            *((9, self.write), (4, self.overwrite), (4, self.append)),
            *((2, self.truncate), (3, self.remove), (2, self.rename)),
            *((1, self.link), (1, self.symlink), (1, self.folders)),
            *((1, self.attributes), (2, self.sync), (1, self.keep)),
        ]
        calls = self.chance.choices(
            [call for _, call in ways], [weight for weight, _ in ways], k=steps
        )
        for call in calls:
            # A file that is not there any more is no reason to stop.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                call()

    def _name(self) -> Path:
        self.names += 1
        parents = [
            p for p in self.folder.iterdir() if p.is_dir() and not p.is_symlink()
        ]
        return self.chance.choice([self.folder, *parents]) / f"f{self.names}"

    def _file(self) -> Path:
        found = [
            p for p in self.folder.rglob("f*") if p.is_file() and not p.is_symlink()
        ]
        return self.chance.choice(sorted(found)) if found else self._new()

    def _new(self) -> Path:
        path = self._name()
        path.write_bytes(self._bytes())
        return path

    def _bytes(self) -> bytes:
        size = self.chance.choice([0, 10, 4 * KIB, 20_000, 64 * KIB, 300_000])
        kind = self.chance.randrange(3)
        return bytes(size) if kind == 0 else self.chance.randbytes(size)

    def write(self) -> None:
        self._new()

    def overwrite(self) -> None:
        path = self._file()
        with path.open("r+b") as file:
            file.seek(self.chance.randrange(path.stat().st_size + 1))
            file.write(self._bytes())

    def append(self) -> None:
        with self._file().open("ab") as file:
            file.write(self._bytes())

    def truncate(self) -> None:
        os.truncate(self._file(), self.chance.randrange(500_000))

    def remove(self) -> None:
        self._file().unlink()

    def rename(self) -> None:
        self._file().replace(self._name())

    def link(self) -> None:
        self._name().hardlink_to(self._file())

    def symlink(self) -> None:
        self._name().with_suffix(".link").symlink_to(self._file())

    def folders(self) -> None:
        self._name().with_suffix(".d").mkdir()

    def attributes(self) -> None:
        path = self._file()
        path.chmod(self.chance.choice([0o600, 0o755, 0o4711]))
        os.setxattr(path, "user.seed", self.chance.randbytes(40))

    def sync(self) -> None:
        with self._file().open("rb") as file:
            self.chance.choice([os.fsync, os.fdatasync])(file.fileno())

    def keep(self) -> None:
        self.names += 1
        path, content = self.folder / f"kept{self.names}", self._bytes()
        with path.open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        line = f"kept {path.relative_to(self.folder.parent)} "
        # One write, so that the lines of three processes do not mix.
        os.write(1, f"{line}{hashlib.sha256(content).hexdigest()}\n".encode())


def main() -> None:
    """Let three processes work, and wait for them."""
    root, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                Worker(root / f"w{seed}-{number}", seed * 3 + number).run(steps)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
