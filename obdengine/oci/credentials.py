# SPDX-License-Identifier: Apache-2.0
"""
credentials - names and passwords for registries, from wherever they are kept.

    docker's config.json     auths, credHelpers, credsStore
    overlaybd's cred.json    the same auths
    a service                GET ADDRESS?remote_url=URL, over http, https or a
                             unix socket, which answers with such auths

An entry is for a host, or for a part of it: HOST[:PORT][/NAMESPACE...]; the
longest one that fits is taken. No secret is ever shown or logged.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from obdengine.errors import ConfigError, SourceError, SourceMissing
from obdengine.source.hosts import HttpSettings
from obdengine.source.transport import Transport

__all__ = [
    "Credential",
    "Credentials",
    "DockerConfig",
    "Given",
    "Several",
    "Service",
    "repository_of",
    "usual_files",
]

# Seconds for a helper program, which may ask a person.
_HELPER_TIMEOUT = 60

_MAX_FILE = 4 << 20
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_NOT_FOUND = b"credentials not found"

# The path that a blob has in a registry, and what the repository is called.
_V2 = re.compile(r"/v2/(?P<repository>.+)/(?:blobs|manifests|tags|referrers)/")


@dataclass(frozen=True)
class Credential:
    """Who we are for one registry.

    Attributes:
        user, password: as for HTTP's basic scheme.
        identity_token: to be changed for an access token; "" where there is none.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str | None:
        """Return the Authorization of HTTP's basic scheme, None without a name."""
        if not self.user:
            return None
        text = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(text).decode()}"


class Credentials(Protocol):
    """A place where credentials are kept."""

    def find(self, url: str) -> Credential | None:
        """Return those for a url of a registry, None when there are none.

        Raises ConfigError when they cannot be made out, SourceError when what
        has them does not answer.
        """


@dataclass(frozen=True)
class Given:
    """One credential, for one host."""

    host: str
    credential: Credential

    def find(self, url: str) -> Credential | None:
        """Return it if url is of the host (see Credentials)."""
        return self.credential if urlsplit(url).netloc == self.host else None


@dataclass(frozen=True)
class Several:
    """Places that are asked one after the other."""

    places: Sequence[Credentials]

    def find(self, url: str) -> Credential | None:
        """Return what the first has that has any (see Credentials)."""
        found = (place.find(url) for place in self.places)
        return next((credential for credential in found if credential), None)


@dataclass(frozen=True)
class DockerConfig:
    """docker's config.json, containers' auth.json, or overlaybd's cred.json.

    It is read whenever it is asked, so that a login counts at once.
    """

    path: Path
    needed: bool = False

    def find(self, url: str) -> Credential | None:
        """Return what the file, or a helper that it names, has for url."""
        found = self._read()
        host = urlsplit(url).netloc
        helper = _object(self.path, found, "credHelpers").get(host)
        if helper:
            return _ask_helper(self.path, helper, host)
        auths = _object(self.path, found, "auths")
        listed = _listed(str(self.path), auths, url)
        if listed or not found.get("credsStore"):
            return listed
        return _ask_helper(self.path, found["credsStore"], host)

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as opened:
                text = opened.read(_MAX_FILE)
            found = json.loads(text)
        except FileNotFoundError as error:
            if self.needed:
                raise SourceMissing(f"{self.path}: no such file") from error
            return {}
        except OSError as error:
            raise SourceError(
                f"{self.path}: cannot be read: {error.strerror}", errno=error.errno
            ) from error
        except (ValueError, RecursionError):
            # Not chained: the text of such an error has the text of the file.
            raise ConfigError(f"{self.path}: not JSON") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self.path}: not a JSON object")
        return found


class Service:
    """A service of overlaybd's credential modes http, https and uds."""

    def __init__(self, address: str, http: HttpSettings, seconds: float = 5.0) -> None:
        """Ask address, a URL without a query, for at most so many seconds."""
        self._address = address
        self._settings = http
        self._seconds = seconds

    def find(self, url: str) -> Credential | None:
        """Return what the service has for url (see Credentials)."""
        asked = f"{self._address}?remote_url={quote(url, safe=':/')}"
        transport = Transport(self._settings)
        try:
            end = transport.end(self._seconds)
            reply = transport.request("GET", asked, end=end)
        finally:
            transport.close()
        try:
            found = json.loads(reply.body)
            auths = found["data"]["auths"] if found["success"] else {}
        except (ValueError, LookupError, TypeError, RecursionError):
            raise SourceError(
                f"{self._address}: the answer is not one about credentials"
            ) from None
        if not isinstance(auths, dict):
            raise SourceError(f"{self._address}: auths: not an object")
        return _listed(self._address, auths, url)


def usual_files(environment: Mapping[str, str] | None = None) -> Several:
    """Return the files where docker, podman and skopeo keep credentials."""
    env = os.environ if environment is None else environment
    named = env.get("REGISTRY_AUTH_FILE")
    if named:
        return Several([DockerConfig(Path(named), needed=True)])
    home = Path(env.get("HOME") or "/root")
    docker = Path(env.get("DOCKER_CONFIG") or home / ".docker")
    runtime = env.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(f"/run/containers/{os.geteuid()}")
    files = [
        folder / "containers" / "auth.json" if runtime else folder / "auth.json",
        home / ".config" / "containers" / "auth.json",
        docker / "config.json",
    ]
    return Several([DockerConfig(path) for path in files])


def repository_of(url: str) -> str:
    """Return the repository in a registry's url of a blob, "" when it is none."""
    found = _V2.search(urlsplit(url).path + "/")
    return found["repository"] if found else ""


def _keys(url: str) -> Iterator[str]:
    """Yield what an entry for url may be called, the longest first."""
    host = urlsplit(url).netloc
    parts = [part for part in repository_of(url).split("/") if part]
    for count in range(len(parts), -1, -1):
        yield "/".join([host, *parts[:count]])


def _listed(where: str, auths: Mapping[str, Any], url: str) -> Credential | None:
    plain = {_host_part(key): key for key in reversed(list(auths))}
    for key in _keys(url):
        name = key if key in auths else plain.get(key)
        if name is not None:
            found = _credential(f"{where}: auths: {name}", auths[name])
            if found:
                return found
    return None


def _host_part(key: str) -> str:
    """Return the host of an entry as docker once wrote it: https://HOST/v1/."""
    return urlsplit(key).netloc if "://" in key else key


def _credential(where: str, row: Any) -> Credential | None:
    if not isinstance(row, dict) or not all(
        isinstance(row.get(key, ""), str)
        for key in ("auth", "username", "password", "identitytoken")
    ):
        raise ConfigError(f"{where}: not an object of texts")
    user, password = row.get("username", ""), row.get("password", "")
    if row.get("auth"):
        try:
            text = base64.b64decode(row["auth"]).decode()
        except (binascii.Error, ValueError):
            raise ConfigError(f"{where}: auth is not base64") from None
        user, colon, password = text.rstrip("\0").partition(":")
        if not colon:
            raise ConfigError(f"{where}: auth has no name and password")
    token = row.get("identitytoken", "")
    return Credential(user, password, token) if user or token else None


def _object(path: Path, found: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key}: not an object")
    return value


def _ask_helper(path: Path, name: Any, host: str) -> Credential | None:
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise ConfigError(f"{path}: {name!r:.60} is not the name of a helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=host.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT,
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {program} is not installed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{program}: does not work: {error}") from error
    if done.returncode:
        if _NOT_FOUND in done.stdout + done.stderr:
            return None
        raise SourceError(f"{program}: exit code {done.returncode} for {host}")
    try:
        found = json.loads(done.stdout)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, LookupError, TypeError):
        raise SourceError(f"{program}: its answer is not understood") from None
    if user == "<token>":
        return Credential(identity_token=str(secret))
    return Credential(str(user), str(secret)) if user else None
