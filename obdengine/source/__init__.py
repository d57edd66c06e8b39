# SPDX-License-Identifier: Apache-2.0
"""
source - bytes at an offset, from wherever they live.

A source has no position. Reads say where, fill the caller's buffer
completely or raise, and may run from any thread at the same time. What the
bytes mean is none of its business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from obdengine.errors import UsageError
from obdengine.source.contract import Source
from obdengine.source.file import FileSource
from obdengine.source.memory import MemorySource
from obdengine.source.remote import Remote, bring
from obdengine.source.resident import Resident, resident_of

__all__ = [
    "FileSource",
    "MemorySource",
    "Remote",
    "Resident",
    "Source",
    "bring",
    "open",
    "resident_of",
]


def open(where: str | os.PathLike[str]) -> Source:
    """Open a path or a URL; only plain paths and file: are known.

    Raises UsageError for another scheme, and what the source itself raises.
    """
    text = os.fspath(where)
    scheme, separator, _ = text.partition(":")
    # A path may hold a colon: only scheme:// is taken for a URL, and file:.
    if not separator or (scheme != "file" and "://" not in text):
        return FileSource(where)
    try:
        opener = _openers[scheme]
    except KeyError:
        raise UsageError(
            f"{text}: cannot read from {scheme}:",
            hint="known are paths and file: URLs",
        ) from None
    return opener(text)


def _open_file_url(url: str) -> Source:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{url}: a file: URL of another host")
    return FileSource(unquote(parts.path))


_openers: dict[str, Callable[[str], Source]] = {"file": _open_file_url}
