# SPDX-License-Identifier: Apache-2.0
"""
refusal - an answer that is not what was asked for, as an error.

Which of it may pass and which will not is decided here. No text shows what may
be secret: a query, a header, a password.
"""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime

from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    SourceError,
    SourceMissing,
)
from obdengine.source.hosts import shown
from obdengine.source.patience import Passing

__all__ = ["reason", "refusal", "seconds_of"]

# A server says with these that the same request may work in a moment.
_BUSY = (408, 425, 429, 500, 502, 503, 504)

# Characters of a server's own words that are shown.
_MAX_WORDS = 300


def refusal(url: str, status: int, said: str, retry_after: str | None) -> Exception:
    """Return the error of an answer that is not what was asked for."""
    text = f"{shown(url)}: {said}" if said else f"{shown(url)}"
    if status == 404:
        return SourceMissing(f"{text}: there is no such thing (404)")
    if status in (401, 407):
        return AccessDenied(
            f"{text}: wants other credentials ({status})",
            hint="log in with your container tools, or name the file of credentials",
        )
    if status == 403:
        return AccessDenied(f"{text}: not allowed (403)")
    if status in _BUSY:
        error = SourceError(f"{text}: the server is not able to ({status})")
        return Passing(error, seconds_of(retry_after))
    return BadAnswer(f"{text}: answered {status}")


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After means, None when there is none."""
    text = (retry_after or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return None


def reason(body: bytes, kind: str) -> str:
    """Return a server's own words about an error: of a registry, its message."""
    if "html" in kind.lower():
        return "answered with a page for people"
    try:
        found = json.loads(body)
        first = found["errors"][0]
        words = f"{first.get('code', '')}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        words = body.decode(errors="replace") if kind.startswith("text/plain") else ""
    return " ".join(words.split())[:_MAX_WORDS]
