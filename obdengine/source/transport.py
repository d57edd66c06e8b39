# SPDX-License-Identifier: Apache-2.0
"""
transport - requests over HTTP: one try, many tries, and where to try next.

urllib3 keeps the connections. Ours is what to do with an answer: redirects (so
that credentials go to no other host, and a signed address is used again until
it ends), one answer to "401", mirrors, and tries until a deadline. Who we are
is known by an Auth; what the bytes mean is known above.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs, urljoin, urlsplit

from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    Closed,
    SourceError,
    TimedOut,
)
from obdengine.source.hosts import (
    HttpSettings,
    Place,
    decimal,
    judge_answer,
    judge_url,
    named,
    origin_of,
    places_of,
    shown,
    speaks_plain,
)
from obdengine.source.patience import Passing, Patience
from obdengine.source.refusal import reason, refusal
from obdengine.source.sockets import time_limit
from obdengine.units import KIB, MIB

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["Answer", "Auth", "Body", "Reply", "Transport"]

_Result = TypeVar("_Result")

# A body is made anew for each try.
Body = bytes | Callable[[], Iterable[bytes]] | None

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HOPS = 8

# What a signed address answers once its time is over.
_EXPIRED = (400, 401, 403, 404, 410)

# Seconds that a redirect is used again when its address does not say how long,
# and how many are kept.
_REUSE = 300.0
_MAX_MOVED = 10_000

# Seconds for which a place that failed is asked last.
_SHUNNED = 30.0

_DAY = 86400.0

# Nothing is to be done to the bytes.
_PLAIN = {"Accept-Encoding": "identity"}

# What urllib3 is to leave to us.
_ONLY_SEND = {
    "redirect": False,
    "retries": False,
    "preload_content": False,
    "decode_content": False,
}

# Bytes of an error's text that are read.
_MAX_REASON = 8 * KIB


class Auth(Protocol):
    """Who we are, for the servers that one image is on."""

    def header(self, url: str, end: float) -> str | None:
        """Return the Authorization to send with a request for url, or None."""

    def challenged(
        self, url: str, challenges: Collection[str], sent: str | None, end: float
    ) -> bool:
        """Take in a 401 to a request for url; tell whether to ask once more.

        challenges are its WWW-Authenticate, sent is the header that was sent.
        """


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Answer:
    """An answer whose body is still to be read; close it.

    Attributes:
        status, headers: what was answered; the names of headers in any case.
        url: who answered, after redirects.
        end: until when to wait for the body, a time of time.monotonic().
    """

    def __init__(
        self, raw: BaseHTTPResponse, url: str, end: float, silence: float
    ) -> None:
        """Take over a response of urllib3."""
        self.status = raw.status
        self.headers = raw.headers
        self.url = url
        self.end = end
        self._raw = raw
        self._silence = silence

    @property
    def length(self) -> int | None:
        """The bytes of the body as the header has them, or None."""
        return decimal(self.headers.get("Content-Length", ""))

    def read(self, size: int) -> bytes:
        """Return up to size bytes of the body, b"" at its end.

        Raises Passing when the connection is lost or silent for too long.
        """
        from obdengine.source.lost import FAILURES, lost

        try:
            with time_limit(self.end, self._silence):
                return self._raw.read(size)
        except FAILURES as error:
            raise lost(self.url, error) from error

    def close(self) -> None:
        """Give the connection back when the body was read, else end it."""
        with contextlib.suppress(Exception):
            self._raw.close()
        self._raw.release_conn()

    def __enter__(self) -> Answer:
        """Return the answer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class Transport:
    """Connections to servers, shared by any number of threads.

    A process that forks must make it afterwards.
    """

    def __init__(self, settings: HttpSettings | None = None) -> None:
        """Open nothing yet."""
        self.settings = settings or HttpSettings()
        self._lock = threading.Lock()
        self._managers: dict[str, Any] | None = {}
        self._moved: dict[str, tuple[str, float]] = {}
        self._shunned: dict[str, float] = {}

    def end(self, seconds: float | None = None) -> float:
        """Return the deadline of a request that begins now."""
        return time.monotonic() + (seconds or self.settings.deadline)

    def close(self) -> None:
        """Close every connection that is not in use; a second time does nothing."""
        with self._lock:
            managers, self._managers = self._managers, None
        for manager in (managers or {}).values():
            # One server has a pool, with a proxy there is a manager of some.
            (getattr(manager, "clear", None) or manager.close)()

    # -- Many tries

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        auth: Auth | None = None,
        end: float | None = None,
        expect: Collection[int] = (200,),
        limit: int = 4 * MIB,
        mirrors: bool = True,
    ) -> Reply:
        """Return the answer to a request that may be sent more than once.

        mirrors: whether a GET may be answered by one; a peer is never asked.
        Raises BadAnswer when it has more than limit bytes, and what
        exchange() raises when it cannot be had before the deadline.
        """
        until = end or self.end()
        how: dict[str, Any] = {"headers": headers, "body": body, "auth": auth}
        how |= {"end": until, "expect": expect}

        def ask(place: Place) -> Reply:
            with self.exchange(method, place, **how) as answer:
                whole = _whole(answer, limit)
                return Reply(answer.status, answer.headers, whole, answer.url)

        mirrors = mirrors and method in ("GET", "HEAD")
        patience = Patience(until, self.settings.attempts)
        return self.persist(url, ask, patience, peer=False, mirrors=mirrors)

    def persist(
        self,
        url: str,
        ask: Callable[[Place], _Result],
        patience: Patience,
        *,
        peer: bool = True,
        mirrors: bool = True,
        first: int = 0,
    ) -> _Result:
        """Return ask(place) of the first place of url where it works.

        ask raises Passing for what may pass and SourceError for what will
        not. The next place is tried at once; after the last one comes a pause.
        peer, mirrors: whether those are asked; first: how many places to
        leave for the end.
        """
        while True:
            passing, final = None, None
            for place in self._places(url, peer, mirrors, first):
                try:
                    return ask(place)
                except Passing as failure:
                    passing = failure
                except SourceError as error:
                    # What the place itself says counts more than a mirror.
                    final = error if place.url == url or final is None else final
                self._shun(place, url)
                if time.monotonic() >= patience.end:
                    break
            if passing is None:
                raise final or TimedOut(f"{shown(url)}: no answer in time")
            patience.pause(passing)

    def _places(self, url: str, peer: bool, mirrors: bool, first: int) -> list[Place]:
        found = places_of(self.settings, url, peer=peer, mirrors=mirrors)
        if len(found) > 1:
            now = time.monotonic()
            first %= len(found)
            found = found[first:] + found[:first]
            found.sort(
                key=lambda place: self._shunned.get(origin_of(place.url), 0) > now
            )
        return found

    def _is_shunned(self, place: Place) -> bool:
        until = self._shunned.get(origin_of(place.url), 0.0)
        return until > time.monotonic()

    def _shun(self, place: Place, url: str) -> None:
        if place.url != url:
            self._shunned[origin_of(place.url)] = time.monotonic() + _SHUNNED

    # -- One try

    def exchange(
        self,
        method: str,
        place: Place,
        *,
        end: float,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        auth: Auth | None = None,
        expect: Collection[int] = (200,),
    ) -> Answer:
        """Send a request once and return the answer, whose status is expected.

        Redirects of a GET are followed; a 401 is answered once. Raises Passing
        for what may pass, SourceMissing for 404, AccessDenied for 401 and 403,
        BadAnswer for another status, SourceError for TLS that fails.
        """
        url = known = self._known(method, place)
        challenged = False
        for _ in range(_MAX_HOPS):
            own = origin_of(url) == origin_of(place.url)
            sent = self._secret(place, url, auth, end) if own else None
            answer = self._send(method, url, end, headers, body, sent)
            if answer.status in expect:
                return answer
            with answer:
                if url == known != place.url and answer.status in _EXPIRED:
                    self._moved.pop(place.url, None)
                    url, known = place.url, ""
                elif answer.status in _REDIRECTS and method in ("GET", "HEAD"):
                    url = self._follow(method, place, url, answer)
                elif not challenged and self._challenged(place, auth, answer, sent):
                    challenged = True
                else:
                    raise _refused(answer)
        raise BadAnswer(f"{shown(place.url)}: redirected too often")

    def _known(self, method: str, place: Place) -> str:
        """Return where a place has sent us the last time, or itself."""
        target, until = self._moved.get(place.url, ("", 0.0))
        if method == "GET" and until > time.time():
            return target
        return judge_url(place.url)

    def _secret(
        self, place: Place, url: str, auth: Auth | None, end: float
    ) -> str | None:
        if auth is None:
            return None
        header = auth.header(place.meant if url == place.url else url, end)
        if header and speaks_plain(url):
            raise AccessDenied(
                f"{shown(url)}: credentials are not sent without TLS",
                hint="use https:, or no credentials",
            )
        return header

    def _challenged(
        self, place: Place, auth: Auth | None, answer: Answer, sent: str | None
    ) -> bool:
        own = origin_of(answer.url) == origin_of(place.url)
        if auth is None or answer.status != 401 or not own:
            return False
        challenges = answer.headers.getlist("WWW-Authenticate")
        return auth.challenged(place.meant, challenges, sent, answer.end)

    def _follow(self, method: str, place: Place, url: str, answer: Answer) -> str:
        """Return where an answer sends us, and keep it for the next time."""
        location = answer.headers.get("Location", "")
        target = judge_answer(url, urljoin(url, location))
        host = urlsplit(target).netloc
        allowed = named(self.settings.plain_http, host) or not url.startswith("https:")
        if speaks_plain(target) and not allowed:
            raise BadAnswer(f"{shown(url)}: redirected to {shown(target)}, without TLS")
        if method == "GET":
            if len(self._moved) >= _MAX_MOVED:
                self._moved.clear()
            self._moved[place.url] = (target, time.time() + _good_for(target))
        return target

    def _send(
        self,
        method: str,
        url: str,
        end: float,
        headers: Mapping[str, str] | None,
        body: Body,
        secret: str | None,
    ) -> Answer:
        settings = self.settings
        left = end - time.monotonic()
        if left <= 0:
            raise Passing(TimedOut(f"{shown(url)}: no answer in time"))
        fields = {"User-Agent": settings.user_agent, **_PLAIN, **(headers or {})}
        fields |= {"Authorization": secret} if secret else {}
        manager = self._manager(url)
        from obdengine.source.lost import FAILURES, lost

        try:
            with time_limit(end, settings.silence):
                raw = manager.urlopen(
                    *(method, _target(url)),
                    body=body() if callable(body) else body,
                    headers=fields,
                    timeout=min(settings.connect_timeout, left),
                    **{"pool_timeout": left, **_ONLY_SEND},
                )
        except FAILURES as error:
            raise lost(url, error) from error
        return Answer(raw, url, end, settings.silence)

    # -- Connections

    def _manager(self, url: str) -> Any:
        origin = origin_of(url)
        with self._lock:
            if self._managers is None:
                raise Closed(f"{shown(url)}: asked for after close")
            if origin not in self._managers:
                self._managers[origin] = _pools().make_pool(self.settings, url)
            return self._managers[origin]


def _pools() -> ModuleType:
    """Return what needs urllib3: who reads local files does without."""
    try:
        from obdengine.source import pools
    except ImportError as error:
        raise SourceError(
            "this Python has no urllib3, or one before version 2",
            hint="it is needed for everything that is not on this machine",
        ) from error
    return pools


def _target(url: str) -> str:
    """Return what urllib3 is to be asked for: of a unix socket, the path only."""
    parts = urlsplit(url)
    if parts.scheme != "http+unix":
        return url
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _refused(answer: Answer) -> Exception:
    kind = answer.headers.get("Content-Type", "")
    try:
        said = reason(answer.read(_MAX_REASON), kind)
    except Passing:
        said = ""
    retry = answer.headers.get("Retry-After")
    return refusal(answer.url, answer.status, said, retry)


def _whole(answer: Answer, limit: int) -> bytes:
    pieces, size = [], 0
    while piece := answer.read(min(limit + 1 - size, MIB)):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise BadAnswer(f"{shown(answer.url)}: more than {limit} bytes")
    return b"".join(pieces)


def _good_for(url: str) -> float:
    """Return the seconds for which a redirect's target may be used again."""
    query = {k.lower(): v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    with contextlib.suppress(ValueError, KeyError):
        left = _signed_until(query) - time.time()
        return min(left * 0.9, _DAY)
    return _REUSE


def _signed_until(query: Mapping[str, str]) -> float:
    """Return when a signed address ends; raises KeyError when it does not say."""
    for store in ("x-amz", "x-goog"):
        if f"{store}-date" in query:
            began = datetime.strptime(query[f"{store}-date"], "%Y%m%dT%H%M%S%z")
            return began.timestamp() + float(query[f"{store}-expires"])
    if "se" in query:
        return datetime.fromisoformat(query["se"]).timestamp()
    return float(query["expires"])
