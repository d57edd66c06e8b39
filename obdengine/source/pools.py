# SPDX-License-Identifier: Apache-2.0
"""
pools - urllib3's connections, made of our sockets.

The only room of urllib3's classes: it is imported when the first request is
sent, so that who reads local files needs neither its time nor itself.
"""

from __future__ import annotations

import socket
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
)

from obdengine.source.hosts import HttpSettings, context_for, proxy_for, unix_path
from obdengine.source.sockets import connect, connect_unix

__all__ = ["Pool", "make_pool"]

# Sends requests to one server.
Pool = urllib3.PoolManager | HTTPConnectionPool


def make_pool(settings: HttpSettings, url: str) -> Pool:
    """Return what sends requests to the server of url, directly or by a proxy."""
    parts = urlsplit(url)
    more: dict[str, Any] = {"maxsize": settings.connections, "block": True}
    if parts.scheme == "http+unix":
        return _UnixPool(unix_path(url), **more)
    if parts.scheme == "https":
        more["ssl_context"] = context_for(settings, parts.netloc)
    proxy = proxy_for(settings, url)
    if proxy is None:
        manager = urllib3.PoolManager(**more)
    else:
        manager = _through(proxy, settings, more)
    manager.pool_classes_by_scheme = _POOLS
    return manager


def _through(
    proxy: str, settings: HttpSettings, more: dict[str, Any]
) -> urllib3.PoolManager:
    parts = urlsplit(proxy)
    secret = None
    if parts.username is not None:
        name, password = unquote(parts.username), unquote(parts.password or "")
        secret = urllib3.make_headers(proxy_basic_auth=f"{name}:{password}")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    if parts.scheme == "https":
        more["proxy_ssl_context"] = context_for(settings, address.netloc)
    return urllib3.ProxyManager(address.geturl(), proxy_headers=secret, **more)


class _Connecting:
    """How both kinds of connection make their socket."""

    def _new_conn(self: Any) -> socket.socket:
        longest = self.timeout if isinstance(self.timeout, (int, float)) else 60.0
        try:
            return connect(self._dns_host, self.port, longest)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error.strerror or error)) from error


class _PlainConnection(_Connecting, HTTPConnection):
    pass


class _TlsConnection(_Connecting, HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        # Where nothing is verified somebody has asked for that: no warning.
        self.is_verified = True


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


# What a PoolManager makes its pools of.
_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _PlainPool, "https": _TlsPool}


class _UnixConnection(HTTPConnection):
    path: ClassVar[str]

    def _new_conn(self) -> socket.socket:
        try:
            return connect_unix(self.path)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error.strerror or error)) from error


class _UnixPool(HTTPConnectionPool):
    """HTTP over a unix socket of this machine."""

    def __init__(self, path: str, **more: Any) -> None:
        """Connect to path when something is asked for."""
        self.ConnectionCls = type("_Here", (_UnixConnection,), {"path": path})
        super().__init__("localhost", **more)
