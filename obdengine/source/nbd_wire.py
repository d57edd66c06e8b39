# SPDX-License-Identifier: Apache-2.0
"""
nbd_wire - a connection to an NBD server: its bytes, and what is said first.

    fixed newstyle: [STRUCTURED_REPLY, SET_META_CONTEXT] GO

It sends no requests: the kernel's client wants sockets on which this was done,
and nbd.NbdClient goes on from here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from socket import socket
from typing import NamedTuple

from obdengine.errors import BadAnswer, SourceError, TimedOut
from obdengine.units import MIB

__all__ = ["LARGEST_ANSWER", "MULTI_CONN", "READ_ONLY", "Agreed", "Wire", "agree"]

# Among the flags of an export.
READ_ONLY, MULTI_CONN = 1 << 1, 1 << 8

LARGEST_ANSWER = 32 * MIB  # of anything but data: 4 million extents

_NBDMAGIC, _IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
_OPTION_REPLY = 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2

_OPT_GO, _OPT_STRUCTURED_REPLY, _OPT_SET_META_CONTEXT = 7, 8, 10
_REP_ACK, _REP_INFO, _REP_META_CONTEXT, _REP_ERROR = 1, 3, 4, 1 << 31
_INFO_EXPORT = 0


class Wire:
    """The bytes of a connection; what goes wrong is said of a disk's name.

    Attributes:
        socket: connected; whoever made it closes it.
        name: of the disk, for errors.
    """

    def __init__(self, socket: socket, name: str) -> None:
        self.socket = socket
        self.name = name

    def send(self, data: bytes | memoryview) -> None:
        """Send all of data; SourceError when the server has gone."""
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise self._gone() from error

    def receive(self, size: int) -> bytes:
        """Return the next size bytes; raises as receive_into()."""
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return bytes(data)

    def receive_into(self, buf: memoryview) -> None:
        """Fill buf; TimedOut when nothing comes, SourceError when it has gone."""
        while buf:
            try:
                got = self.socket.recv_into(buf)
            except TimeoutError as error:
                raise self._late() from error
            except OSError as error:
                raise self._gone() from error
            if not got:
                raise self._gone()
            buf = buf[got:]

    def words(self, form: str, raw: bytes) -> tuple[int, ...]:
        """Return the numbers at the beginning of raw; BadAnswer when it is short."""
        if len(raw) < struct.calcsize(form):
            raise self.bad(f"an answer has only {len(raw)} bytes")
        return struct.unpack_from(form, raw)

    def bad(self, what: str) -> BadAnswer:
        """Return the error that says what the server does wrong."""
        return BadAnswer(f"{self.name}: the NBD server is odd: {what}")

    def _gone(self) -> SourceError:
        return SourceError(f"{self.name}: the NBD server went away")

    def _late(self) -> TimedOut:
        seconds = self.socket.gettimeout()
        return TimedOut(f"{self.name}: no answer from the NBD server in {seconds:g} s")


class Agreed(NamedTuple):
    """What a server has said of an export.

    Attributes:
        size: of the disk in bytes.
        flags: READ_ONLY, MULTI_CONN, and the protocol's others.
        contexts: the number of each context that it has, of those asked for.
    """

    size: int
    flags: int
    contexts: Mapping[str, int]


def agree(wire: Wire, export: str = "", contexts: Sequence[str] = ()) -> Agreed:
    """Choose an export; requests can be sent afterwards.

    Raises SourceError when the server goes away, BadAnswer when it is none,
    or has no such export.
    """
    magic, style, flags = struct.unpack("!8s8sH", wire.receive(18))
    if (magic, style) != (_NBDMAGIC, _IHAVEOPT) or not flags & _FIXED_NEWSTYLE:
        raise wire.bad("what it says first is not NBD's")
    wire.send(struct.pack("!I", flags & (_FIXED_NEWSTYLE | _NO_ZEROES)))
    name = _counted(export)
    ids: dict[str, int] = {}
    if contexts:
        _option(wire, _OPT_STRUCTURED_REPLY, b"")
        queries = b"".join(map(_counted, contexts))
        data = name + struct.pack("!I", len(contexts)) + queries
        for raw in _option(wire, _OPT_SET_META_CONTEXT, data):
            ids[raw[4:].decode(errors="replace")] = wire.words("!I", raw)[0]
    for info in _option(wire, _OPT_GO, name + bytes(2)):
        if wire.words("!H", info)[0] == _INFO_EXPORT:
            _, size, flags = wire.words("!HQH", info)
            return Agreed(size, flags, ids)
    raise wire.bad("it does not say how large the disk is")


def _counted(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("!I", len(raw)) + raw


def _option(wire: Wire, option: int, data: bytes) -> list[bytes]:
    """Ask for an option; return what comes with the answers to it."""
    wire.send(_IHAVEOPT + struct.pack("!II", option, len(data)) + data)
    found: list[bytes] = []
    while True:
        magic, about, kind, size = struct.unpack("!QIII", wire.receive(20))
        if (magic, about) != (_OPTION_REPLY, option) or size > LARGEST_ANSWER:
            raise wire.bad(f"it answers option {option} with something else")
        raw = wire.receive(size)
        if kind == _REP_ACK:
            return found
        if kind & _REP_ERROR:
            raise wire.bad(
                f"it refuses option {option}: {raw.decode(errors='replace')}"
            )
        if kind in (_REP_INFO, _REP_META_CONTEXT):
            found.append(raw)
