# SPDX-License-Identifier: Apache-2.0
"""
service - what is the same for all images of a host: overlaybd's overlaybd.json.

Where the cache is and how large, how much is fetched ahead and afterwards, and
how registries are spoken to (that part is read by room oci). Keys that this
release does not know are overlaybd's, and left alone. Nothing else is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import ConfigError, SourceError, SourceMissing
from obdengine.oci import RegistrySettings
from obdengine.source.cache import CacheOptions, default_folder
from obdengine.units import GIB, KIB, MIB

__all__ = ["Download", "Service", "download_of", "using", "usual_service"]

_MAX_SIZE = 4 * MIB

# So that 20 layers can be opened at once, each by its two ends.
_CONNECTIONS = 48

_chosen: ContextVar[Service | None] = ContextVar("service", default=None)


class Download(NamedTuple):
    """How an image is brought here in the background.

    Attributes:
        enable: whether it is.
        delay, delay_extra: seconds until it begins, and how many more at most,
            by chance, so that a thousand hosts do not begin at once.
        max_mbps: MiB per second, 0 for no bound.
        try_count: how often a layer is tried.
        block_size: bytes of one request.
    """

    enable: bool = False
    delay: float = 300.0
    delay_extra: float = 30.0
    max_mbps: float = 100.0
    try_count: int = 5
    block_size: int = 256 * KIB


@dataclass(frozen=True)
class Service:
    """What is the same for all images.

    Attributes:
        cache: where blobs are kept, and how.
        registry: how registries are spoken to.
        download: the background download, where an image says nothing else.
        prefetch: how many requests replay a trace at once; 0: none.
        offline: whether nothing may be asked of anybody.
        raw: the file as it was read.
    """

    cache: CacheOptions = field(default_factory=lambda: CacheOptions(default_folder()))
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    download: Download = field(default_factory=Download)
    prefetch: int = 16
    offline: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Service:
        """Read a service file; raises SourceError, ConfigError."""
        return cls.from_json(_read(Path(path)), str(path))

    @classmethod
    def from_json(cls, found: Mapping[str, Any], name: str = "service") -> Service:
        """Return what a parsed service file says; name is for errors."""
        own = _object(found, "obdengine", name)
        registry = RegistrySettings.from_service(found, name)
        said = _object(own, "registry", name)
        http = registry.http
        # A disk waits until the deadline, however many tries that are.
        attempts = http.attempts if said.get("attempts") else None
        connections = http.connections if said.get("connections") else _CONNECTIONS
        http = replace(http, attempts=attempts, connections=connections)
        registry = replace(registry, http=http)
        return cls(
            cache=_cache(found, name, registry),
            registry=registry,
            download=download_of(_object(found, "download", name), name),
            prefetch=_prefetch(found, name),
            offline=bool(own.get("offline")) or _offline(),
            raw=found,
        )

    @property
    def notes(self) -> list[str]:
        """What is asked for in overlaybd's words and done otherwise, as sentences."""
        said = self.raw.get("gzipCacheConfig")
        if isinstance(said, Mapping) and said.get("enable"):
            return [
                "gzipCacheConfig has no effect: what is read of compressed layers is "
                "kept as it came, by cacheConfig, and inflated in memory"
            ]
        return []


@contextmanager
def using(service: Service | str | os.PathLike[str] | None) -> Iterator[Service]:
    """Make a service the usual one for the block, in this thread; None: as it is.

    Raises what Service.load() raises for a path.
    """
    if service is not None and not isinstance(service, Service):
        service = Service.load(service)
    found = service or usual_service()
    token = _chosen.set(found)
    try:
        yield found
    finally:
        _chosen.reset(token)


def usual_service() -> Service:
    """Return the service that is used(), else that of the file OBD_SERVICE.

    OBD_OFFLINE=1 forbids to ask anybody for anything.
    """
    chosen = _chosen.get()
    if chosen:
        return chosen
    names = ("OBD_SERVICE", "OBD_CACHE", "OBD_OFFLINE", "DOCKER_CONFIG")
    return _usual(tuple(os.environ.get(name, "") for name in names))


@lru_cache(maxsize=4)
def _usual(words: tuple[str, ...]) -> Service:
    return Service.load(words[0]) if words[0] else Service.from_json({})


def download_of(
    found: Mapping[str, Any], name: str, usual: Download | None = None
) -> Download:
    """Return what an object `download` says; usual: where it says nothing."""
    usual = usual or Download()
    enable = found.get("enable", usual.enable)
    if not isinstance(enable, bool):
        raise ConfigError(f"{name}: download.enable: must be true or false")
    number = _Numbers(found, f"{name}: download")
    return Download(
        enable=enable,
        delay=number.get("delay", usual.delay),
        delay_extra=number.get("delayExtra", usual.delay_extra),
        max_mbps=number.get("maxMBps", usual.max_mbps),
        try_count=max(int(number.get("tryCnt", usual.try_count)), 1),
        block_size=max(int(number.get("blockSize", usual.block_size)), 4096),
    )


class _Numbers(NamedTuple):
    """Takes numbers that are not negative out of an object."""

    found: Mapping[str, Any]
    name: str

    def get(self, key: str, usual: float) -> float:
        value = self.found.get(key)
        if value is None:
            return usual
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < 2**53:
            raise ConfigError(f"{self.name}.{key}: {value!r:.60} is not a number")
        return float(value)


def _cache(
    found: Mapping[str, Any], name: str, registry: RegistrySettings
) -> CacheOptions:
    row = _object(found, "cacheConfig", name)
    number = _Numbers(row, f"{name}: cacheConfig")
    folder = row.get("cacheDir") or found.get("registryCacheDir") or ""
    if not isinstance(folder, str):
        raise ConfigError(f"{name}: cacheConfig.cacheDir: must be a text")
    older = _Numbers(found, name).get("registryCacheSizeGB", 4)
    usual = CacheOptions(Path(folder) if folder else default_folder())
    return usual._replace(
        limit=int(number.get("cacheSizeGB", older) * GIB),
        refill=max(int(number.get("refillSize", usual.refill)), 4096),
        connections=max(registry.http.connections, 2),
        prefetches=max(_prefetch(found, name), 1),
        deadline=registry.http.deadline,
    )


def _prefetch(found: Mapping[str, Any], name: str) -> int:
    row = _object(found, "prefetchConfig", name)
    return int(_Numbers(row, f"{name}: prefetchConfig").get("concurrency", 16))


def _object(found: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {key}: must be an object")
    return value


def _offline() -> bool:
    return os.environ.get("OBD_OFFLINE", "") not in ("", "0")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as opened:
            raw = opened.read(_MAX_SIZE + 1)
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    try:
        found = json.loads(raw[:_MAX_SIZE])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return found
