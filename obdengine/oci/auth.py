# SPDX-License-Identifier: Apache-2.0
"""
auth - what to send a registry so that it lets us in: basic, or bearer tokens.

Nothing is sent until a registry asks. Then, of the ways that it offers:
  * basic: the name and the password;
  * bearer: a token, which a server that the registry names gives for them, for
    an identity token, or for nobody. It is renewed before it ends, and anew
    when the registry refuses it.
One token is fetched at a time, however many threads wait for it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlencode, urljoin

from obdengine.errors import AccessDenied, BadAnswer, SourceError
from obdengine.oci.credentials import Credential, Credentials
from obdengine.source.hosts import judge_answer, origin_of, shown, speaks_plain
from obdengine.source.transport import Transport

__all__ = ["Challenge", "RegistryAuth", "challenges_of"]

# Seconds that a token is good for when its server does not say.
_DEFAULT_LIFE = 60.0

# A token is renewed when less than this part of its life is left, at most so
# many seconds: a request that starts with it must still end with it.
_EARLY_PART, _EARLY_MOST = 0.25, 60.0

# Seconds until the next try, when that did not work.
_AGAIN = 2.0

_CLIENT = "obdengine"


class Challenge(NamedTuple):
    """One way in that a server offers: "bearer" and its parameters."""

    scheme: str
    parameters: dict[str, str]


def challenges_of(headers: Collection[str]) -> Iterator[Challenge]:
    """Yield what WWW-Authenticate headers offer.

    A header may have several, whose parameters are parted by commas as well:
    one with a space before its first "=" begins the next.
    """
    from urllib.request import parse_http_list  # slow to import

    current: Challenge | None = None
    for text in headers:
        for item in parse_http_list(text):
            name, equals, value = item.partition("=")
            scheme, space, first = name.strip().partition(" ")
            if space or not equals:
                if current:
                    yield current
                current, name = Challenge(scheme.lower(), {}), first
            if current and equals and name:
                value = value.strip()
                if value[:1] == value[-1:] == '"' and len(value) > 1:
                    value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
                current.parameters[name.strip().lower()] = value
    if current:
        yield current


@dataclass
class _Entry:
    """What is known of one server.

    Attributes:
        challenge: what it wants, None: nothing so far.
        header: what to send, None: nothing.
        renew: when to renew it, a time of time.monotonic().
        ends: when it is not good any more.
    """

    challenge: Challenge | None = None
    header: str | None = field(default=None, repr=False)
    renew: float = float("inf")
    ends: float = float("inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class RegistryAuth:
    """Lets us into one repository, wherever mirrors of it are (see Auth)."""

    def __init__(
        self, transport: Transport, credentials: Credentials, scopes: Collection[str]
    ) -> None:
        """Ask for scopes ("repository:NAME:pull,push") and what a server adds."""
        self._transport = transport
        self._credentials = credentials
        self._scopes = list(scopes)
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def header(self, url: str, end: float) -> str | None:
        """Return the Authorization for a request to url, or None."""
        entry = self._entry(url)
        if time.monotonic() < entry.renew:
            return entry.header
        with entry.lock:
            if time.monotonic() >= entry.renew and entry.challenge:
                self._renew_early(entry, url, end)
            return entry.header

    def challenged(
        self, url: str, challenges: Collection[str], sent: str | None, end: float
    ) -> bool:
        """Do what a 401 asks for; tell whether another try makes sense."""
        entry = self._entry(url)
        with entry.lock:
            if entry.header is not None and entry.header != sent:
                return True  # another thread has done it already
            offered = {one.scheme: one for one in challenges_of(challenges)}
            wanted = offered.get("bearer") or offered.get("basic")
            if wanted is None:
                return False
            entry.challenge = wanted
            self._renew(entry, url, end)
            return entry.header is not None and entry.header != sent

    def want(self, scope: str) -> None:
        """Ask for another scope too, from the next token on."""
        with self._lock:
            if scope in self._scopes:
                return
            self._scopes.append(scope)
            entries = list(self._entries.values())
        for entry in entries:
            if entry.challenge and entry.challenge.scheme == "bearer":
                entry.renew = entry.ends = 0.0

    def _entry(self, url: str) -> _Entry:
        with self._lock:
            return self._entries.setdefault(origin_of(url), _Entry())

    def _renew_early(self, entry: _Entry, url: str, end: float) -> None:
        """Renew what is still good: that it fails now does not matter yet."""
        try:
            self._renew(entry, url, end)
        except SourceError:
            if time.monotonic() >= entry.ends:
                raise
            entry.renew = min(time.monotonic() + _AGAIN, entry.ends)

    def _renew(self, entry: _Entry, url: str, end: float) -> None:
        credential = self._credentials.find(url) or Credential()
        assert entry.challenge is not None
        if entry.challenge.scheme == "basic":
            entry.header, entry.renew = credential.basic(), float("inf")
            return
        began = time.monotonic()
        token, life = self._token(entry.challenge, url, credential, end)
        entry.header = f"Bearer {token}"
        entry.ends = began + life
        entry.renew = entry.ends - min(life * _EARLY_PART, _EARLY_MOST)

    def _token(
        self, challenge: Challenge, url: str, credential: Credential, end: float
    ) -> tuple[str, float]:
        """Return a token and the seconds that it is good for."""
        realm = _judge_realm(challenge, url)
        scopes = list(self._scopes)
        scopes += [
            scope
            for scope in challenge.parameters.get("scope", "").split()
            if not any(_covers(known, scope) for known in scopes)
        ]
        service = challenge.parameters.get("service", "")
        if credential.identity_token:
            body = self._by_identity(realm, service, scopes, credential, end)
        else:
            body = self._by_name(realm, service, scopes, credential, end)
        return _read_token(shown(realm), body)

    def _by_name(
        self,
        realm: str,
        service: str,
        scopes: list[str],
        credential: Credential,
        end: float,
    ) -> bytes:
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if credential.user:
            query.append(("account", credential.user))
        glue = "&" if "?" in realm else "?"
        address = f"{realm}{glue}{urlencode(query, quote_via=quote, safe=':,/')}"
        auth = _Fixed(credential.basic())
        reply = self._transport.request(
            "GET", address, auth=auth, end=end, mirrors=False
        )
        return reply.body

    def _by_identity(
        self,
        realm: str,
        service: str,
        scopes: list[str],
        credential: Credential,
        end: float,
    ) -> bytes:
        if speaks_plain(realm):
            raise AccessDenied(f"{shown(realm)}: credentials are not sent without TLS")
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": credential.identity_token,
        }
        return self._transport.request(
            "POST",
            realm,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
            end=end,
        ).body


@dataclass(frozen=True)
class _Fixed:
    """Who we are for the one request that fetches a token."""

    secret: str | None = field(repr=False)

    def header(self, url: str, end: float) -> str | None:
        """Return it."""
        del url, end
        return self.secret

    def challenged(
        self, url: str, challenges: Collection[str], sent: str | None, end: float
    ) -> bool:
        """Know no better."""
        del url, challenges, sent, end
        return False


def _judge_realm(challenge: Challenge, url: str) -> str:
    """Return where the tokens are; raises BadAnswer when that is nowhere."""
    realm = challenge.parameters.get("realm", "")
    if not realm:
        raise BadAnswer(f"{shown(url)}: wants a token, and does not say from where")
    return judge_answer(url, urljoin(url, realm))


def _covers(known: str, scope: str) -> bool:
    """Tell whether who has the scope known needs no other for scope."""
    name, _, actions = known.rpartition(":")
    other, _, wanted = scope.rpartition(":")
    return name == other and set(wanted.split(",")) <= set(actions.split(","))


def _read_token(name: str, body: bytes) -> tuple[str, float]:
    try:
        found = json.loads(body)
        token = found.get("token") or found.get("access_token")
        life = float(found.get("expires_in") or _DEFAULT_LIFE)
    except (ValueError, TypeError, AttributeError, RecursionError):
        token, life = None, 0.0
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise BadAnswer(f"{name}: gave no token")
    return token, min(life, 86400.0) if life >= 1.0 else 1.0
