# SPDX-License-Identifier: Apache-2.0
"""
nbd - an export of our own: a device for NBD clients, without nbdkit.

Python listens and negotiates; the requests are C's (_core/export.c). It decides
nothing about images.
"""

from __future__ import annotations

from obdengine.nbd.exports import Export, Exports
from obdengine.nbd.server import Server, listen_at_port, listen_at_socket

__all__ = ["Server", "Exports", "Export", "listen_at_port", "listen_at_socket"]
