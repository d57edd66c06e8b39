# SPDX-License-Identifier: Apache-2.0
"""
client - connections and logins that everything of one image shares.

It knows how a registry is reached, and who we are there; what is asked for,
`registry` knows.
"""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from obdengine.oci.auth import RegistryAuth
from obdengine.oci.credentials import repository_of
from obdengine.oci.settings import RegistrySettings
from obdengine.source.hosts import is_plain_named
from obdengine.source.http import HttpSource
from obdengine.source.sockets import is_loopback, speaks_tls
from obdengine.source.transport import Transport

__all__ = ["PULL", "PUSH", "Client"]

PULL, PUSH = "pull", "pull,push"


class Client:
    """Speaks with registries, and with any server that has layers.

    May be used from many threads; a process that forks makes it afterwards.

    Attributes:
        settings: as given.
        transport: what sends requests.
        usually: the scheme of a host that cannot be asked for it now.
    """

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        """Open nothing yet."""
        self.settings = settings or RegistrySettings()
        self.transport = Transport(self.settings.http)
        self.usually: dict[str, str] = {}
        self._lock = threading.Lock()
        self._auths: dict[tuple[str, str, str], RegistryAuth] = {}
        self._schemes: dict[str, str] = {}

    def address(self, host: str) -> str:
        """Return scheme://host of a registry.

        Without TLS only when the settings say so, or on this machine when
        there is none.
        """
        with self._lock:
            scheme = self._schemes.get(host) or self._scheme(host)
            if scheme:
                self._schemes[host] = scheme
            return f"{scheme or self.usually.get(host, 'https')}://{host}"

    def _scheme(self, host: str) -> str:
        parts = urlsplit(f"//{host}")
        if is_plain_named(self.settings.http, host):
            return "http"
        name = parts.hostname or ""
        if not is_loopback(name):
            return "https"
        seconds = self.settings.http.connect_timeout
        found = speaks_tls(name, parts.port or 443, seconds)
        return "" if found is None else "https" if found else "http"

    def auth(self, url: str, repository: str, actions: str = PULL) -> RegistryAuth:
        """Return what lets us into a repository of the registry that url is of."""
        key = (urlsplit(url).netloc, repository, actions)
        with self._lock:
            if key not in self._auths:
                scope = f"repository:{repository}:{actions}"
                self._auths[key] = RegistryAuth(
                    self.transport,
                    self.settings.credentials,
                    [scope] if repository else [],
                )
            return self._auths[key]

    def source(
        self, url: str, *, size: int | None = None, name: str | None = None
    ) -> HttpSource:
        """Return the bytes of a url: a registry's blob, or a file anywhere.

        A blob that is named by its digest can never change. Asks for the size
        when it is not given; raises as HttpSource does.
        """
        repository = repository_of(url)
        return HttpSource(
            url,
            self.transport,
            size=size,
            auth=self.auth(url, repository),
            name=name,
            fixed=bool(repository) and "/blobs/" in url,
        )

    def close(self) -> None:
        """Close the connections; twice does nothing."""
        self.transport.close()

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
