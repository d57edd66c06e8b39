# SPDX-License-Identifier: Apache-2.0
"""rigs - registries of every kind that we must get into, and how one gets in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from obdengine import oci
from obdengine.source.hosts import HttpSettings
from tests.certificates import Pair, make_authority, make_pair
from tests.registries import Nginx, Registry
from tests.token_server import PASSWORD, USER, TokenServer

__all__ = ["KINDS", "Rig", "Workshop", "open_rig"]

KINDS = ["open", "password", "tokens", "tls", "mtls"]


class Workshop(NamedTuple):
    """A folder, and who signs what."""

    folder: Path
    authority: Pair
    server: Pair
    client: Pair


class Rig(NamedTuple):
    """A registry that runs.

    Attributes:
        host: how it is reached: "127.0.0.1:PORT".
        settings: with which one gets in, to read and to write.
        tokens: its token server, if it has one.
        registry: the registry itself, behind whatever is before it.
    """

    host: str
    settings: oci.RegistrySettings
    tokens: TokenServer | None
    registry: Registry

    def without_login(self) -> Rig:
        """Return the same for nobody in particular."""
        nobody = oci.Given("", oci.Credential())
        return self._replace(settings=oci.RegistrySettings(self.settings.http, nobody))

    def store(self, name: str, **http: Any) -> oci.RegistryStore:
        """Return a repository of it."""
        settings = self.settings
        if http:
            changed = {**vars(settings.http), **http}
            settings = oci.RegistrySettings(
                HttpSettings(**changed), settings.credentials, chunk=settings.chunk
            )
        found = oci.open_store(
            oci.parse(f"docker://{self.host}/{name}"), settings=settings
        )
        assert isinstance(found, oci.RegistryStore)
        return found


def make_workshop(folder: Path) -> Workshop:
    """Make an authority, and a certificate for each side."""
    authority = make_authority(folder)
    sides = [make_pair(folder, authority, name) for name in ("server", "client")]
    return Workshop(folder, authority, *sides)


@contextlib.contextmanager
def open_rig(workshop: Workshop, kind: str) -> Iterator[Rig]:
    """Start a registry of one of KINDS."""
    folder, tls = workshop.folder / kind, None
    http: dict[str, Any] = {"attempts": 3, "cert_folders": ()}
    tokens = None
    with ExitStack() as stack:
        more: dict[str, Any] = {"password": kind == "password"}
        if kind == "tokens":
            tokens = TokenServer(workshop.authority)
            stack.callback(tokens.stop)
            more["tokens"] = (tokens, workshop.authority)
        if kind in ("tls", "mtls"):
            tls = workshop.server
            http["ca_file"] = workshop.authority.certificate
        registry = stack.enter_context(
            Registry(folder, tls=tls if kind == "tls" else None, **more)
        )
        host = registry.host
        if kind == "mtls":
            host = stack.enter_context(_before(workshop, registry)).host
            http["client_cert"], http["client_key"] = workshop.client
        who = oci.Given(host, oci.Credential(USER, PASSWORD))
        yield Rig(
            host, oci.RegistrySettings(HttpSettings(**http), who), tokens, registry
        )


def _before(workshop: Workshop, registry: Registry) -> Nginx:
    """Return an nginx that wants certificates from its clients."""
    body = (
        f"location / {{ proxy_pass {registry.url}; proxy_set_header Host $http_host; }}"
    )
    return Nginx(
        workshop.folder / "nginx",
        body,
        tls=workshop.server,
        clients=workshop.authority.certificate,
    )
