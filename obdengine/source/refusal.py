# SPDX-License-Identifier: Apache-2.0
"""
refusal - what went wrong on the way to a server and back, as an error.

Which of it may pass and which will not is decided here. No text shows what may
be secret: a query, a header, a password.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from urllib3.exceptions import (
    EmptyPoolError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NameResolutionError,
    ProtocolError,
    ProxyError,
)
from urllib3.exceptions import (
    TimeoutError as HttpTimeoutError,
)

from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    ObdError,
    SourceError,
    SourceMissing,
    UsageError,
)
from obdengine.source.hosts import shown
from obdengine.source.patience import Passing

__all__ = ["lost", "reason", "refusal", "seconds_of"]

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


def lost(url: str, error: Exception) -> Exception:
    """Return what is to be raised when a connection failed."""
    name, causes = shown(url), list(_causes(error))
    for cause in causes:
        if isinstance(cause, ObdError):
            return cause
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return _tls(name, cause)
    if isinstance(error, LocationValueError):
        return UsageError(f"{name}: not an address")
    through = "through the proxy: " if isinstance(error, ProxyError) else ""
    words = f"{name}: {through}{_words(error, causes)}"
    return Passing(SourceError(words), at_once=isinstance(error, ProtocolError))


_NO_REASON = (HTTPError, TimeoutError)
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is inside it, as urllib3 nests them."""
    seen: set[int] = set()
    left: list[BaseException] = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = [*one.args, one.__cause__, getattr(one, "reason", None)]
        left += [item for item in inner if isinstance(item, BaseException)]


def _words(error: Exception, causes: list[BaseException]) -> str:
    if any(isinstance(cause, IncompleteRead) for cause in causes):
        return "the answer was cut"
    if isinstance(error, NameResolutionError):
        return "the name of the host is not known"
    if isinstance(error, EmptyPoolError):
        return "every connection was in use"
    for cause in causes:
        if isinstance(cause, OSError) and not isinstance(cause, _NO_REASON):
            return cause.strerror or str(cause) or type(cause).__name__
    if any(isinstance(cause, HttpTimeoutError | TimeoutError) for cause in causes):
        return "no answer in time"
    return "the connection failed: " + str(error).rpartition(": ")[2][:_MAX_WORDS]


def _tls(name: str, error: ssl.SSLError) -> SourceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceError(
            f"{name}: the certificate is not to be trusted: {error.verify_message}",
            hint="give the authority that signed it",
        )
    why = (error.reason or str(error)).replace("_", " ").lower()
    if "certificate required" in why or "handshake failure" in why:
        return AccessDenied(f"{name}: the server wants a certificate of ours: {why}")
    return SourceError(f"{name}: TLS failed: {why}")
