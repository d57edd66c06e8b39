# SPDX-License-Identifier: Apache-2.0
"""
handshake - what a client says to an NBD server until requests can be sent.

The kernel's client wants sockets on which that was done. Fixed newstyle and
NBD_OPT_GO only, on unix sockets; the words are those of the NBD protocol.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

from obdengine.errors import HostError

__all__ = ["Negotiated", "negotiate"]

_HELLO = struct.Struct(">8s8sH")  # NBDMAGIC, IHAVEOPT, handshake flags
_OPTION = struct.Struct(">8sII")  # IHAVEOPT, option, length of its data
_REPLY = struct.Struct(">QIII")  # magic, option, type, length of its data

_MAGIC, _I_HAVE_OPT = b"NBDMAGIC", b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_INFO_EXPORT = 0

# A local server answers at once, or when it has opened the image.
_PATIENCE = 60.0

# Names and descriptions of exports are short.
_MAX_REPLY = 1 << 16


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
        size, flags = _choose(made, export)
        made.settimeout(None)
    except OSError as error:
        made.close()
        raise HostError(f"{path}: {error.strerror or error}") from error
    except HostError as error:
        made.close()
        raise HostError(f"{path}: {error}") from error
    return Negotiated(made, size, flags)


def _choose(server: socket.socket, export: str) -> tuple[int, int]:
    magic, option, flags = _HELLO.unpack(_read(server, _HELLO.size))
    if magic != _MAGIC or option != _I_HAVE_OPT or not flags & _FIXED_NEWSTYLE:
        raise HostError("this is no NBD server of today's kind")
    mine = flags & (_FIXED_NEWSTYLE | _NO_ZEROES)
    name = export.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    header = _OPTION.pack(_I_HAVE_OPT, _OPT_GO, len(data))
    server.sendall(struct.pack(">I", mine) + header + data)
    found: tuple[int, int] | None = None
    while True:
        kind, body = _reply(server)
        if kind & _REP_ERROR:
            why = body.decode(errors="replace") or f"error {kind & ~_REP_ERROR}"
            raise HostError(f"export {export!r}: {why}")
        if kind == _REP_INFO and body[:2] == struct.pack(">H", _INFO_EXPORT):
            found = struct.unpack(">QH", body[2:12])
        if kind == _REP_ACK:
            if found is None:
                raise HostError("the server did not say how large the disk is")
            return found


def _reply(server: socket.socket) -> tuple[int, bytes]:
    magic, _option, kind, length = _REPLY.unpack(_read(server, _REPLY.size))
    if magic != _REPLY_MAGIC or length > _MAX_REPLY:
        raise HostError("the server's reply makes no sense")
    return kind, _read(server, length)


def _read(server: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = server.recv(size - len(found))
        if not more:
            raise HostError("the server hung up")
        found += more
    return found
