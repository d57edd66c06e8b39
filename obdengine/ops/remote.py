# SPDX-License-Identifier: Apache-2.0
"""
remote - layers that only a registry or another server has, opened by the cache.

A process has one cache per folder and one set of connections per service,
which live while somebody has a blob open: what forks does that before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from obdengine.config import LayerFile
from obdengine.errors import (
    AccessDenied,
    ConfigError,
    FormatError,
    SourceError,
    SourceMissing,
    Unsupported,
)
from obdengine.oci import Client
from obdengine.service import Service
from obdengine.source import Remote
from obdengine.source.cache import Cache, CacheOptions, key_of
from obdengine.source.fetcher import Origin
from obdengine.source.writable import WritableFile

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
    return _opened(_place(file, service), service)


def open_with(
    file: LayerFile, service: Service, opener: Callable[[Remote], _Result]
) -> _Result:
    """Return what opener makes of a blob, which it takes over.

    What makes no sense is dropped and fetched again, from elsewhere.
    """
    place = _place(file, service)
    held = _opened(place, service)
    try:
        for attempt in range(_TRIES):
            remote = _opened(place, service)
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


class _Place(NamedTuple):
    """What the cache calls a blob, and how to get at it."""

    key: str
    name: str
    size: int
    connect: Callable[[], Origin]


def _opened(place: _Place, service: Service) -> Remote:
    return cache_of(service).open(*place)


def _place(file: LayerFile, service: Service) -> _Place:
    if not file.url:
        return _Place(key_of(file.digest), file.name, file.size, _nowhere(file))
    connect = _connector(file, service)
    if file.digest:
        return _Place(key_of(file.digest), file.url, file.size, connect)
    address = urlsplit(file.url)._replace(query="", fragment="").geturl()
    memo = service.cache.folder / "urls" / key_of("", address)
    try:
        with closing(_Connected(file, service)) as found:
            key, size = key_of("", address, f"{found.version} {found.size}"), found.size
    except (AccessDenied, SourceMissing):
        raise
    except SourceError:
        # What it was when it was asked for last, if it ever was.
        with suppress(OSError, ValueError):
            key, size = json.loads(memo.read_text())
            return _Place(str(key), address, int(size), connect)
        raise
    with suppress(OSError, SourceError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        WritableFile.create(memo, json.dumps([key, size]).encode())
    return _Place(key, address, size, connect)


def _connector(file: LayerFile, service: Service) -> Callable[[], Origin]:
    def connect() -> Origin:
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
        if service.offline:
            raise SourceError(f"{file.name}: not on this machine, and we are offline")
        self._service = service
        client = _clients.take(service)
        try:
            self._source = client.source(file.url, size=file.size or None)
        except BaseException:
            _clients.give(service)
            raise
        self.name, self.size = self._source.name, self._source.size

    @property
    def version(self) -> str:
        return self._source.version

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        return self._source.read(offset, size, end=end, elsewhere=elsewhere)

    def close(self) -> None:
        self._source.close()
        _clients.give(self._service)
