# SPDX-License-Identifier: Apache-2.0
"""
facts - all that there is to know of a tree: what tests/nbd/tree.py has, and more.

It is run as a script in the mount namespace that sees the tree:
`python facts.py FOLDER` prints JSON.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from tests.nbd import tree

__all__ = ["walk"]


def walk(root: Path) -> dict[str, dict[str, Any]]:
    """Return the facts about root and everything below it, by path."""
    names = {os.fsdecode(path): path for path in [root, *root.rglob("*")]}
    inodes: dict[int, list[str]] = {}
    found = {}
    for path in names.values():
        name, status = str(path.relative_to(root)), path.lstat()
        if name == "lost+found":
            continue
        one = found[name] = tree.facts(path)
        one["mtime"] = status.st_mtime_ns
        if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
            one["rdev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        if stat.S_ISDIR(status.st_mode):
            # Not every file system counts the folders in a folder.
            del one["nlink"]
        elif status.st_nlink > 1:
            inodes.setdefault(status.st_ino, []).append(name)
    for same in inodes.values():
        for name in same:
            found[name]["same"] = sorted(same)
    return found


if __name__ == "__main__":
    json.dump(walk(Path(sys.argv[1])), sys.stdout)
