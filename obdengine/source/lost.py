# SPDX-License-Identifier: Apache-2.0
"""
lost - a connection that failed, as an error: what may pass, and what will not.

It knows how urllib3 puts errors into errors, and is imported with it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from urllib3.exceptions import (
    EmptyPoolError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NameResolutionError,
    ProtocolError,
    ProxyError,
)
from urllib3.exceptions import TimeoutError as HttpTimeoutError

from obdengine.errors import AccessDenied, ObdError, SourceError, UsageError
from obdengine.source.hosts import shown
from obdengine.source.patience import Passing

__all__ = ["FAILURES", "lost"]

# What a request may end with that is not our mistake.
FAILURES: tuple[type[Exception], ...] = (HTTPError, OSError, ValueError)

_MAX_WORDS = 300


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
