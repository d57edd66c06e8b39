# SPDX-License-Identifier: Apache-2.0
"""
negotiation - NBD from the greeting to the first request, for a server.

Newstyle-fixed only. It believes nothing that a client says: what is too long,
out of order or no option of ours ends in a refusal, or in the end of the
connection. There is no TLS here, and who asks for it is told so.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from obdengine.errors import ObdError
from obdengine.nbd.exports import Export, Exports
from obdengine.nbd.words import (
    ALLOCATION,
    GREETING,
    LAYER,
    OPTION_MAGIC,
    REPLY_MAGIC,
    Handshake,
    Info,
    Option,
    Reply,
)

__all__ = ["Agreement", "ClientGone", "negotiate"]

# No option has so much to say: a name has 4096 bytes at most.
_MAX_OPTION = 64 << 10
_MAX_NAME = 4096
_MAX_OPTIONS = 1000

_CONTEXTS = {ALLOCATION: 1, LAYER: 2}


class ClientGone(Exception):
    """The client has gone, or speaks no NBD: nobody is left to be told."""


class Agreement(NamedTuple):
    """What a client and we have agreed on.

    Attributes:
        contexts: numbers of the metadata contexts that it wants, by name.
    """

    export: Export
    structured: bool
    contexts: dict[str, int]


class _Refused(Exception):
    """An option that gets an error for a reply."""

    def __init__(self, reply: Reply, why: str) -> None:
        super().__init__(why)
        self.reply = reply


class _Words:
    """The data of an option, read from its beginning; raises _Refused."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise _Refused(Reply.ERR_INVALID, "the option ends early")
        self._at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        size = self.number(4)
        if size > _MAX_NAME:
            raise _Refused(Reply.ERR_TOO_BIG, "a name is at most 4096 bytes long")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise _Refused(Reply.ERR_INVALID, "a name is not UTF-8") from error

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refused(Reply.ERR_INVALID, "the option goes on after its end")


def negotiate(client: socket.socket, exports: Exports) -> Agreement | None:
    """Talk to a client until it wants to begin; None when it does not.

    Raises ClientGone, and OSError as the socket does.
    """
    flags = Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES
    client.sendall(GREETING + struct.pack(">H", flags))
    said = int.from_bytes(_receive(client, 4), "big")
    if said & ~flags:
        raise ClientGone(f"unknown flags {said:#x}")
    talk = _Talk(client, exports, bool(said & Handshake.NO_ZEROES))
    for _ in range(_MAX_OPTIONS):
        agreement = talk.next()
        if agreement or talk.is_over:
            return agreement
    raise ClientGone("it negotiates without end")


def _receive(client: socket.socket, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = client.recv(left)
        if not part:
            raise ClientGone("the connection has ended")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Talk:
    """The options of one client, one after the other."""

    def __init__(self, client: socket.socket, exports: Exports, short: bool) -> None:
        self._client = client
        self._exports = exports
        self._short = short
        self._structured = False
        self._chosen: tuple[str, dict[str, int]] = ("", {})
        self.is_over = False

    def next(self) -> Agreement | None:
        """Answer one option; an agreement ends it."""
        magic, number, size = struct.unpack(">8sII", _receive(self._client, 16))
        if magic != OPTION_MAGIC or size > _MAX_OPTION:
            raise ClientGone("this is no option")
        words = _Words(_receive(self._client, size))
        if number == Option.EXPORT_NAME:
            return self._begin_as_of_old(words, size)
        try:
            if number not in _ANSWERS:
                raise _Refused(Reply.ERR_UNSUP, "unknown option")
            return _ANSWERS[number](self, words)
        except _Refused as refused:
            self._reply(number, refused.reply, str(refused).encode())
        except ObdError as error:
            self._reply(number, Reply.ERR_UNKNOWN, str(error).encode())
        return None

    def _reply(self, option: int, reply: Reply, data: bytes = b"") -> None:
        header = struct.pack(">QIII", REPLY_MAGIC, option, reply, len(data))
        self._client.sendall(header + data)

    def _begin_as_of_old(self, words: _Words, size: int) -> Agreement:
        """NBD_OPT_EXPORT_NAME: there is no way to refuse but to hang up."""
        try:
            export = self._exports.find(words.take(size).decode())
        except (ObdError, UnicodeDecodeError) as error:
            raise ClientGone(str(error)) from error
        facts = struct.pack(">QH", export.device.size, export.flags)
        self._client.sendall(facts + (b"" if self._short else bytes(124)))
        return self._agree(export)

    def _agree(self, export: Export) -> Agreement:
        name, contexts = self._chosen
        # What was chosen for one export says nothing of another.
        fits = self._exports.find(name) is export
        return Agreement(export, self._structured, contexts if fits else {})

    def abort(self, _words: _Words) -> None:
        self.is_over = True
        self._reply(Option.ABORT, Reply.ACK)

    def list(self, words: _Words) -> None:
        words.end()
        for name in self._exports.names():
            raw = name.encode()
            self._reply(Option.LIST, Reply.SERVER, struct.pack(">I", len(raw)) + raw)
        self._reply(Option.LIST, Reply.ACK)

    def start_tls(self, words: _Words) -> None:
        words.end()
        raise _Refused(Reply.ERR_POLICY, "this server has no TLS: use nbdkit's")

    def info(self, words: _Words) -> None:
        self._show(Option.INFO, words)

    def go(self, words: _Words) -> Agreement:
        return self._agree(self._show(Option.GO, words))

    def _show(self, option: Option, words: _Words) -> Export:
        name = words.text()
        wanted = {words.number(2) for _ in range(words.number(2))}
        words.end()
        export = self._exports.find(name)
        facts = {
            Info.EXPORT: struct.pack(">QH", export.device.size, export.flags),
            Info.NAME: export.name.encode() or name.encode(),
            Info.DESCRIPTION: export.description.encode(errors="replace")[:_MAX_NAME],
            Info.BLOCK_SIZE: struct.pack(">III", *export.block_sizes),
        }
        for kind, data in facts.items():
            if kind in wanted or kind in (Info.EXPORT, Info.BLOCK_SIZE):
                self._reply(option, Reply.INFO, struct.pack(">H", kind) + data)
        self._reply(option, Reply.ACK)
        return export

    def structured_reply(self, words: _Words) -> None:
        words.end()
        self._structured = True
        self._reply(Option.STRUCTURED_REPLY, Reply.ACK)

    def list_contexts(self, words: _Words) -> None:
        self._contexts(Option.LIST_META_CONTEXT, words)

    def set_contexts(self, words: _Words) -> None:
        self._chosen = ("", {})
        if not self._structured:
            raise _Refused(Reply.ERR_INVALID, "structured replies come first")
        self._chosen = self._contexts(Option.SET_META_CONTEXT, words)

    def _contexts(self, option: Option, words: _Words) -> tuple[str, dict[str, int]]:
        name = words.text()
        queries = [words.text() for _ in range(min(words.number(4), _MAX_OPTION))]
        words.end()
        self._exports.find(name)
        listing = option == Option.LIST_META_CONTEXT
        found = {
            context: number
            for context, number in _CONTEXTS.items()
            if any(_is_meant(query, context, listing) for query in queries)
            or (listing and not queries)
        }
        for context, number in found.items():
            data = struct.pack(">I", 0 if listing else number) + context.encode()
            self._reply(option, Reply.META_CONTEXT, data)
        self._reply(option, Reply.ACK)
        return name, found


def _is_meant(query: str, context: str, listing: bool) -> bool:
    """Tell whether a query asks for a context; a listing may name a family."""
    return query == context or (listing and query == context.partition(":")[0] + ":")


_ANSWERS = {
    Option.ABORT: _Talk.abort,
    Option.LIST: _Talk.list,
    Option.STARTTLS: _Talk.start_tls,
    Option.INFO: _Talk.info,
    Option.GO: _Talk.go,
    Option.STRUCTURED_REPLY: _Talk.structured_reply,
    Option.LIST_META_CONTEXT: _Talk.list_contexts,
    Option.SET_META_CONTEXT: _Talk.set_contexts,
}
