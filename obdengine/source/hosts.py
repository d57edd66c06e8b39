# SPDX-License-Identifier: Apache-2.0
"""
hosts - how servers are to be talked to: time, TLS, proxies, mirrors, addresses.

Settings and words about URLs. Nothing here opens a connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from obdengine.errors import BadAnswer, ConfigError, UsageError
from obdengine.source.sockets import is_loopback, tls_context

__all__ = [
    "HttpSettings",
    "Place",
    "context_for",
    "decimal",
    "CERTIFICATE_FOLDERS",
    "is_plain_named",
    "judge_answer",
    "judge_url",
    "named",
    "origin_of",
    "places_of",
    "proxy_for",
    "shown",
    "speaks_plain",
    "unix_path",
]

# Where container tools keep the certificates of registries, as HOST[:PORT]/*.crt.
CERTIFICATE_FOLDERS = (
    Path("/etc/containers/certs.d"),
    Path("/etc/docker/certs.d"),
)

_SCHEMES = ("http", "https", "http+unix")


@dataclass(frozen=True)
class HttpSettings:
    """What a user can say about servers. Times are in seconds.

    Attributes:
        connect_timeout: for one connection.
        silence: longest wait for the next byte.
        deadline: for one request with all its tries.
        attempts: tries in a row that bring nothing; None: until the deadline.
        connections: at once, to each server.
        ca_file: certificates to trust, besides the system's.
        client_cert, client_key: who we are, for servers that ask by TLS.
        cert_folders: with a folder for each HOST[:PORT]: *.crt to trust, *.cert
            and *.key for who we are.
        insecure: hosts ("host", "host:port" or "*") whose certificate is not
            looked at.
        plain_http: hosts, besides loopback, to be spoken to without TLS.
        proxies: by scheme, and "no" with exceptions; None: of the environment.
        mirrors: by host[:port], addresses to ask before it.
        via: the address of a peer that fetches for us: VIA/URL.
    """

    connect_timeout: float = 5.0
    silence: float = 20.0
    deadline: float = 60.0
    attempts: int | None = 5
    connections: int = 32
    user_agent: str = "obdengine"
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    cert_folders: tuple[Path, ...] = CERTIFICATE_FOLDERS
    insecure: frozenset[str] = frozenset()
    plain_http: frozenset[str] = frozenset()
    proxies: Mapping[str, str] | None = None
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    via: str = ""


class Place(NamedTuple):
    """One of the addresses that something is to be had from.

    Attributes:
        url: what to ask for there.
        meant: the address that it stands for, which credentials are for.
    """

    url: str
    meant: str


def judge_url(url: str) -> str:
    """Return url; raises UsageError unless it is one that can be asked for."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url}: not an address: {error}") from error
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise UsageError(f"{url}: not an address of http: or https:")
    if parts.username is not None:
        raise UsageError(
            f"{shown(url)}: an address must not hold a password",
            hint="put it into the file of credentials",
        )
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise UsageError(f"{url!r}: white space in an address")
    return url


def judge_answer(url: str, target: str) -> str:
    """Return target, which an answer from url has named; raises BadAnswer."""
    try:
        return judge_url(target)
    except UsageError as error:
        raise BadAnswer(f"{shown(url)}: sends us to nowhere: {error}") from error


def decimal(text: str) -> int | None:
    """Return a number of bytes that a header says, None when it is none."""
    value = int(text) if text.isdecimal() and len(text) < 20 else -1
    return value if 0 <= value < 2**62 else None


def origin_of(url: str) -> str:
    """Return scheme://host:port, with the port said, of a url."""
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return f"http+unix://{parts.netloc}"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def shown(url: str) -> str:
    """Return url without what may be secret: a query, a user, a password."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )


def speaks_plain(url: str) -> bool:
    """Tell whether what is sent to url can be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def named(hosts: frozenset[str], netloc: str) -> bool:
    """Tell whether a setting's hosts name host[:port]."""
    host = netloc.rpartition(":")[0] if not netloc.endswith("]") else netloc
    return "*" in hosts or netloc in hosts or (bool(host) and host in hosts)


def is_plain_named(settings: HttpSettings, netloc: str) -> bool:
    """Tell whether the settings say that host[:port] is spoken to without TLS."""
    return named(settings.plain_http, netloc)


def places_of(
    settings: HttpSettings, url: str, *, peer: bool = True, mirrors: bool = True
) -> list[Place]:
    """Return where url is to be had: the peer, the mirrors, and itself."""
    parts = urlsplit(url)
    rest = urlunsplit(("", "", parts.path, parts.query, ""))
    found = []
    if settings.via and peer:
        found.append(Place(f"{settings.via.rstrip('/')}/{url}", url))
    for base in settings.mirrors.get(parts.netloc, ()) if mirrors else ():
        address = base.rstrip("/") + rest
        found.append(Place(address, address))
    return [*found, Place(url, url)]


def proxy_for(settings: HttpSettings, url: str) -> str | None:
    """Return the proxy to ask for url, or None.

    What the environment says does not hold for this machine itself.
    """
    # It takes longer to import than most commands run.
    from urllib.request import getproxies_environment, proxy_bypass

    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return None
    proxies = settings.proxies
    if proxies is None:
        if is_loopback(parts.hostname or ""):
            return None
        proxies = getproxies_environment()
    if proxy_bypass(parts.netloc, dict(proxies)):
        return None
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"


def context_for(settings: HttpSettings, netloc: str) -> ssl.SSLContext:
    """Return how TLS is spoken with host[:port].

    Raises ConfigError for certificates that cannot be used.
    """
    context = tls_context()
    if named(settings.insecure, netloc):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.ca_file:
        _trust(context, settings.ca_file)
    for folder in settings.cert_folders:
        _read_folder(context, folder / netloc)
    if settings.client_cert:
        _present(context, settings.client_cert, settings.client_key)
    return context


def unix_path(url: str) -> str:
    """Return the path of the socket in http+unix://%2Frun%2Fsocket/..."""
    return unquote(urlsplit(url).netloc)


def _read_folder(context: ssl.SSLContext, folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.crt")):
        _trust(context, path)
    for path in sorted(folder.glob("*.cert")):
        _present(context, path, path.with_suffix(".key"))


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{path}: no certificates to trust: {error}") from error


def _present(context: ssl.SSLContext, path: Path, key: Path | None) -> None:
    def no_password() -> str:
        raise ConfigError(f"{key or path}: the key is encrypted")

    try:
        context.load_cert_chain(path, key, no_password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{path}: not a certificate with its key: {error}") from error
