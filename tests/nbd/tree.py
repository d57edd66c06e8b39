# SPDX-License-Identifier: Apache-2.0
"""
tree - a mounted file system as facts: mode, owner, links, content, attributes.

It is also run as a script, inside the mount namespace that sees the tree, and
needs nothing but Python: `python tree.py FOLDER` prints JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any


def walk(root: Path) -> list[dict[str, Any]]:
    """Return the facts about everything below root, sorted by path."""
    return [
        {"path": str(path.relative_to(root)), **facts(path)}
        for path in sorted(root.rglob("*"))
    ]


def facts(path: Path) -> dict[str, Any]:
    """Return what there is to know about one file."""
    status = path.lstat()
    found: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "nlink": status.st_nlink,
    }
    if stat.S_ISLNK(status.st_mode):
        found["link"] = str(path.readlink())
    if stat.S_ISREG(status.st_mode):
        found["size"] = status.st_size
        found["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    names = os.listxattr(path, follow_symlinks=False)
    if names:
        found["xattr"] = {
            name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names
        }
    return found


if __name__ == "__main__":
    json.dump(walk(Path(sys.argv[1])), sys.stdout)
