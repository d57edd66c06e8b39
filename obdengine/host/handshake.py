# SPDX-License-Identifier: Apache-2.0
"""
handshake - connections to servers of this machine, on which requests can be sent.

The kernel's client wants such, and others only want to know the size.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from obdengine.errors import HostError, SourceError
from obdengine.source.nbd_wire import Wire, agree

__all__ = ["Negotiated", "negotiate"]

# A local server answers at once, or when it has opened the image.
_PATIENCE = 60.0


class Negotiated(NamedTuple):
    """A connection on which requests can be sent.

    Attributes:
        socket: connected; whoever has this closes it.
        size: of the disk in bytes.
        flags: NBD's transmission flags.
    """

    socket: socket.socket
    size: int
    flags: int


def negotiate(path: Path, export: str = "") -> Negotiated:
    """Connect to the server that listens at path, and choose an export.

    Raises HostError when nobody listens there, or says something else than NBD.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(_PATIENCE)
        made.connect(str(path))
        agreed = agree(Wire(made, str(path)), export)
        made.settimeout(None)
    except SourceError as error:
        made.close()
        raise HostError(str(error.args[0])) from error
    except OSError as error:
        made.close()
        raise HostError(f"{path}: {error.strerror or error}") from error
    return Negotiated(made, agreed.size, agreed.flags)
