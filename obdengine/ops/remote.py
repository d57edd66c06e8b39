# SPDX-License-Identifier: Apache-2.0
"""
remote - layers that only a registry or another server has, opened by the cache.

A process has one cache per folder and one set of connections per service,
which live while somebody has a blob open: what forks does that before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from obdengine.config import LayerFile
from obdengine.errors import ConfigError, FormatError, SourceError, Unsupported
from obdengine.oci import Client
from obdengine.service import Service
from obdengine.source import Remote
from obdengine.source.cache import Cache, CacheOptions, key_of
from obdengine.source.fetcher import Origin

__all__ = ["cache_of", "open_remote", "open_with"]

_Result = TypeVar("_Result")

# How often an image is opened whose headers make no sense: what came may have
# been something else.
_TRIES = 3

_lock = threading.Lock()
_caches: dict[tuple[Path, CacheOptions], Cache] = {}


def cache_of(service: Service) -> Cache:
    """Return the cache of a service; the same one for all of this process."""
    key = (service.cache.folder.absolute(), service.cache)
    with _lock:
        if key not in _caches:
            _caches[key] = Cache(service.cache)
        return _caches[key]


def open_remote(file: LayerFile, service: Service) -> Remote:
    """Open the blob of a layer that is not on this machine, by the cache.

    Raises ConfigError when nothing says where it is, SourceError when it is
    needed to know its size and cannot be had.
    """
    cache = cache_of(service)
    key = key_of(file.digest, file.url)
    connect = _connector(file, service) if file.url else _nowhere(file)
    return cache.open(key, file.name, file.size, connect)


def open_with(
    file: LayerFile, service: Service, opener: Callable[[Remote], _Result]
) -> _Result:
    """Return what opener makes of a blob, which it takes over.

    What makes no sense is dropped and fetched again, from elsewhere.
    """
    held = open_remote(file, service)
    try:
        for attempt in range(_TRIES):
            remote = open_remote(file, service)
            remote.elsewhere = attempt
            try:
                return opener(remote)
            except Unsupported:
                raise
            except FormatError:
                if attempt == _TRIES - 1 or not file.url or service.offline:
                    raise
                held.fetcher.drop(0, held.fetcher.units)
        raise AssertionError("not reached")
    finally:
        held.close()


def _connector(file: LayerFile, service: Service) -> Callable[[], Origin]:
    def connect() -> Origin:
        if service.offline:
            raise SourceError(f"{file.url}: not on this machine, and we are offline")
        return _Connected(file, service)

    return connect


def _nowhere(file: LayerFile) -> Callable[[], Origin]:
    def connect() -> Origin:
        raise ConfigError(
            f"{file.where}: {file.digest or 'the layer'} is not on this machine",
            hint="the configuration has no repoBlobUrl",
        )

    return connect


class _Clients:
    """One client per service, while somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Service, Client, int]] = {}

    def take(self, service: Service) -> Client:
        with self._lock:
            _, client, users = self._held.get(id(service)) or (
                service,
                Client(service.registry),
                0,
            )
            self._held[id(service)] = (service, client, users + 1)
            return client

    def give(self, service: Service) -> None:
        with self._lock:
            _, client, users = self._held.pop(id(service))
            if users > 1:
                self._held[id(service)] = (service, client, users - 1)
                return
        client.close()


_clients = _Clients()


class _Connected:
    """A source of a client, which is used as long as this is open."""

    def __init__(self, file: LayerFile, service: Service) -> None:
        self._service = service
        client = _clients.take(service)
        try:
            self._source = client.source(file.url, size=file.size or None)
        except BaseException:
            _clients.give(service)
            raise
        self.name, self.size = self._source.name, self._source.size

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        return self._source.read(offset, size, end=end, elsewhere=elsewhere)

    def close(self) -> None:
        self._source.close()
        _clients.give(self._service)
