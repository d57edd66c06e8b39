# SPDX-License-Identifier: Apache-2.0
"""
settings - how registries are spoken to, as one object and as a service file has it.

The service file is overlaybd's overlaybd.json; ours is its key "obdengine",
object "registry".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from obdengine.errors import ConfigError
from obdengine.oci.credentials import Credentials, DockerConfig, Service, usual_files
from obdengine.source.hosts import CERTIFICATE_FOLDERS, HttpSettings, judge_url
from obdengine.units import MIB

__all__ = ["RegistrySettings"]

_TEXT, _NUMBER, _LIST, _OBJECT = str, (int, float), list, dict


@dataclass(frozen=True)
class RegistrySettings:
    """How registries are spoken to.

    Attributes:
        http: times, TLS, proxies, mirrors.
        credentials: where names and passwords are.
        parallel: blobs that are sent or fetched at once.
        chunk: bytes of an upload that are sent at once.
    """

    http: HttpSettings = field(default_factory=HttpSettings)
    credentials: Credentials = field(default_factory=usual_files)
    parallel: int = 4
    chunk: int = 16 * MIB

    @classmethod
    def from_service(
        cls, found: Mapping[str, Any], name: str = "service"
    ) -> RegistrySettings:
        """Return what a service file says; name is for errors.

        Raises ConfigError where a key that matters is wrong.
        """
        file = _File(name)
        own = file.object(file.object(found, "obdengine"), "registry")
        http = _http(file, found, own)
        return cls(
            http=http,
            credentials=_credentials(file, found, http),
            parallel=int(file.number(own, "parallel", 4)),
        )


@dataclass(frozen=True)
class _File:
    """Takes keys out of objects and judges them; name is for errors."""

    name: str

    def of(self, found: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
        value = found.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is _NUMBER and value is True):
            raise ConfigError(
                f"{self.name}: {key}: {value!r:.60} is not what it must be"
            )
        return value

    def text(self, found: Mapping[str, Any], key: str) -> str:
        return str(self.of(found, key, _TEXT, ""))

    def path(self, found: Mapping[str, Any], key: str) -> Path | None:
        text = self.text(found, key)
        return Path(text) if text else None

    def number(self, found: Mapping[str, Any], key: str, default: float) -> float:
        value = float(self.of(found, key, _NUMBER, default))
        if value <= 0:
            raise ConfigError(f"{self.name}: {key}: must be more than nothing")
        return value

    def object(self, found: Mapping[str, Any], key: str) -> Any:
        return self.of(found, key, _OBJECT, {})

    def texts(self, found: Mapping[str, Any], key: str) -> list[str]:
        values = self.of(found, key, _LIST, [])
        if not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{self.name}: {key}: must be a list of texts")
        return list(values)


def _http(
    file: _File, found: Mapping[str, Any], own: Mapping[str, Any]
) -> HttpSettings:
    certificate = file.object(found, "certConfig")
    peer = file.object(found, "p2pConfig")
    proxy = file.text(own, "proxy")
    usual = HttpSettings()
    attempts = own.get("attempts")
    folder = file.path(own, "certDir")
    return HttpSettings(
        connect_timeout=file.number(own, "connectTimeout", usual.connect_timeout),
        silence=file.number(own, "silence", usual.silence),
        deadline=file.number(own, "deadline", usual.deadline),
        attempts=int(file.number(own, "attempts", 1)) if attempts else None,
        connections=int(file.number(own, "connections", usual.connections)),
        user_agent=file.text(found, "userAgent") or usual.user_agent,
        ca_file=file.path(own, "caFile"),
        client_cert=file.path(certificate, "certFile"),
        client_key=file.path(certificate, "keyFile"),
        cert_folders=(folder, *CERTIFICATE_FOLDERS) if folder else CERTIFICATE_FOLDERS,
        insecure=frozenset(file.texts(own, "insecure")),
        plain_http=frozenset(file.texts(own, "plainHttp")),
        proxies={"all": proxy} if proxy else None,
        mirrors=_mirrors(file, own),
        via=judge_url(file.text(peer, "address")) if peer.get("enable") else "",
    )


def _mirrors(file: _File, own: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = file.object(own, "mirrors")
    return {
        host: tuple(judge_url(url) for url in file.texts(found, host)) for host in found
    }


def _credentials(
    file: _File, found: Mapping[str, Any], http: HttpSettings
) -> Credentials:
    row = file.object(found, "credentialConfig")
    mode, path = file.text(row, "mode"), file.text(row, "path")
    if not mode:
        legacy = file.path(found, "credentialFilePath")
        return DockerConfig(legacy, needed=True) if legacy else usual_files()
    if not path:
        raise ConfigError(f"{file.name}: credentialConfig.path: not given")
    seconds = file.number(row, "timeout", 5)
    if mode == "file":
        return DockerConfig(Path(path), needed=True)
    plain = replace(http, mirrors={}, via="", attempts=3)
    if mode == "http":
        return Service(judge_url(path), plain, seconds)
    if mode == "https":
        secure = replace(
            plain,
            ca_file=file.path(row, "server_ca_path") or http.ca_file,
            client_cert=file.path(row, "client_cert_path"),
            client_key=file.path(row, "client_key_path"),
        )
        return Service(judge_url(path), secure, seconds)
    if mode == "uds":
        return Service(f"http+unix://{quote(path, safe='')}/auth", plain, seconds)
    raise ConfigError(
        f"{file.name}: credentialConfig.mode: {mode!r:.60} is not known",
        hint="known are file, http, https and uds",
    )
