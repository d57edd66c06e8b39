# SPDX-License-Identifier: Apache-2.0
"""raw - NBD by hand: a client that can say what no library would."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

REPLY_MAGIC = 0x3E889045565A9
ERROR = 1 << 31

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED = 1, 2, 3, 5, 6, 7, 8
LIST_META, SET_META = 9, 10
READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
DF = 4

# Chunks of structured replies.
END, BYTES, HOLE, FAILED = 0, 1, 2, 0x8001


class Client:
    """A connection; as a context it is closed at the end."""

    def __init__(self, address: str) -> None:
        """Connect, and read the greeting."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(address)
        assert self.receive(16) == b"NBDMAGICIHAVEOPT"
        (self.flags,) = struct.unpack(">H", self.receive(2))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def receive(self, size: int) -> bytes:
        """Return so many bytes, or fewer at the end of the connection."""
        found = b""
        while len(found) < size:
            try:
                part = self.socket.recv(size - len(found))
            except ConnectionResetError:
                break
            if not part:
                break
            found += part
        return found

    def is_over(self) -> bool:
        """Tell whether the server has hung up."""
        return self.receive(1) == b""

    def begin(self, flags: int = 3) -> Client:
        self.socket.sendall(struct.pack(">I", flags))
        return self

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option and return its replies, (type, data) each."""
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        replies = []
        while not replies or not (replies[-1][0] == 1 or replies[-1][0] & ERROR):
            magic, asked, kind, size = struct.unpack(">QIII", self.receive(20))
            assert (magic, asked) == (REPLY_MAGIC, number)
            replies.append((kind, self.receive(size)))
        return replies

    def go(self, name: bytes = b"") -> Client:
        assert self.option(GO, text(name) + bytes(2))[-1][0] == 1
        return self

    def ask(
        self, kind: int, cookie: int, offset: int = 0, size: int = 0, flags: int = 0
    ) -> None:
        """Send a request."""
        head = struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, size)
        self.socket.sendall(head)

    def reply(self) -> tuple[int, int]:
        """Return (error, cookie) of a simple reply; its data is not read."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698
        return error, cookie

    def chunks(self, wanted: int) -> list[tuple[int, bytes]]:
        """Return the chunks, (type, payload) each, of a structured reply."""
        found, done = [], 0
        while not done:
            magic, done, kind, cookie, size = struct.unpack(">IHHQI", self.receive(20))
            assert (magic, cookie) == (0x668E33EF, wanted)
            found.append((kind, self.receive(size)))
        return found


def text(raw: bytes) -> bytes:
    """Return a string as options have them."""
    return struct.pack(">I", len(raw)) + raw
