# SPDX-License-Identifier: Apache-2.0
"""
netlink - generic netlink, as much as the kernel's NBD client is told with it.

A message is a header, a command and attributes; an attribute is its length,
its number and its value, and may hold others. The numbers are those of
linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from types import TracebackType

from obdengine.errors import HostError

__all__ = ["Attribute", "Command", "Netlink", "attribute", "attributes", "u32", "u64"]


class Command(IntEnum):
    """What the NBD client can be told."""

    CONNECT = 1
    DISCONNECT = 2
    RECONFIGURE = 3
    STATUS = 5


class Attribute(IntEnum):
    """What goes with it."""

    INDEX = 1
    SIZE_BYTES = 2
    BLOCK_SIZE_BYTES = 3
    TIMEOUT = 4
    SERVER_FLAGS = 5
    CLIENT_FLAGS = 6
    SOCKETS = 7
    DEAD_CONN_TIMEOUT = 8
    DEVICE_LIST = 9
    BACKEND_IDENTIFIER = 10


_MESSAGE = struct.Struct("=IHHII")  # length, kind, flags, number, sender
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # length, number

_GENERIC_FAMILY = 16  # the number of the protocol on a netlink socket
_CONTROLLER, _GET_FAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2

_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR = 2
_NUMBER = 0x3FFF  # without the bits that say how the value is made

_BUFFER = 1 << 16
_PATIENCE = 60.0


class Netlink:
    """A socket to one family of generic netlink."""

    def __init__(self, family: str) -> None:
        """Open it; HostError when this kernel has no such family."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC_FAMILY
            )
        except OSError as error:
            raise HostError(f"netlink: {error.strerror}") from error
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.bind((0, 0))
            name = attribute(_FAMILY_NAME, family.encode() + b"\0")
            found = self._ask(_CONTROLLER, _GET_FAMILY, name)
            (self._family,) = struct.unpack("=H", found[_FAMILY_ID][:2])
        except (OSError, KeyError) as error:
            self._socket.close()
            raise HostError(f"the kernel has no {family}") from error

    def __enter__(self) -> Netlink:
        """Return it, to be closed at the end of the block."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._socket.close()

    def ask(self, command: Command, values: bytes) -> dict[int, bytes]:
        """Give a command, and return the attributes of the reply.

        Raises OSError with the kernel's errno when it refuses.
        """
        return self._ask(self._family, command, values)

    def _ask(self, family: int, command: int, values: bytes) -> dict[int, bytes]:
        body = _GENERIC.pack(command, 1, 0) + values
        header = _MESSAGE.pack(
            _MESSAGE.size + len(body), family, _REQUEST | _ACKNOWLEDGE, 1, 0
        )
        self._socket.send(header + body)
        found: dict[int, bytes] = {}
        while True:
            for kind, text in _messages(self._socket.recv(_BUFFER)):
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", text)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return found
                if kind == family:
                    found |= dict(attributes(text[_GENERIC.size :]))


def attribute(number: int, value: bytes) -> bytes:
    """Return an attribute, padded as the next one wants it."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, number) + value + bytes(-length % 4)


def u32(number: int, value: int) -> bytes:
    """Return an attribute that is a number of 32 bits."""
    return attribute(number, struct.pack("=I", value))


def u64(number: int, value: int) -> bytes:
    """Return an attribute that is a number of 64 bits."""
    return attribute(number, struct.pack("=Q", value))


def attributes(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes in text: the number and the value of each."""
    at = 0
    while at + _ATTRIBUTE.size <= len(text):
        length, number = _ATTRIBUTE.unpack_from(text, at)
        if length < _ATTRIBUTE.size:
            return
        yield number & _NUMBER, text[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def _messages(text: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(text):
        length, kind, _, _, _ = _MESSAGE.unpack_from(text, at)
        if length < _MESSAGE.size:
            return
        yield kind, text[at + _MESSAGE.size : at + length]
        at += length + -length % 4
