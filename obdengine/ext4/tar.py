# SPDX-License-Identifier: Apache-2.0
"""
tar - the members of a layer's tar, one after the other.

Reads what container tools write: ustar, GNU and PAX headers, sparse files of
all four kinds, extended attributes. A member counts if and only if
  (1) its header has the checksum of its own bytes;
  (2) every number in it is one, and not more than it can be;
  (3) the archive goes on to the end of the member's data.
What does not count is an error; nothing is taken for the end of the archive
but two blocks of zeros or the end of the stream. Python's own tarfile ends,
without a word, at the first header that is damaged.

It knows nothing of whiteouts and resolves no path.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Protocol
from urllib.parse import unquote_to_bytes

from obdengine.errors import BadTar
from obdengine.ext4.acl import from_text
from obdengine.units import KIB, MIB

__all__ = ["Member", "Stream", "TarReader"]

_BLOCK = 512

# Data goes on in pieces of at most this; a header's records must fit.
_BUFFER = MIB

# The most that records of a PAX header, or a GNU name, may take. Values of
# extended attributes are at most 64 KiB each, so nothing real comes near.
_MAX_RECORDS = MIB - 4 * KIB

# Pieces of a sparse file: a tar of 1 GiB that is all map has no more.
_MAX_PIECES = 1 << 20

_MAX_SIZE = 1 << 62
_BILLION = 10**9
_MAX_TIME = 10**18 * _BILLION
_DECIMAL = re.compile(rb"(-?)(\d{1,18})(?:\.(\d*))?")

# Types whose header may say a size and that have no data all the same.
_NO_DATA = frozenset(b"123456")
_REGULAR = frozenset(b"07\0")


class Stream(Protocol):
    """Where a tar comes from."""

    def read(self, size: int, /) -> bytes:
        """Return up to size bytes, none at the end."""


@dataclass(slots=True)
class Member:
    """One member of a tar.

    Attributes:
        name: as it is written, bytes.
        kind: "file", "link" (to another name), "symlink", "char", "block",
            "directory" or "fifo".
        offset: of its header, bytes of the archive.
        size: of the file, bytes; 0 for what is no file.
        mtime: nanoseconds since 1970, as atime and ctime, which may be None.
        target: of a link.
        pieces: (offset in the file, bytes) of the data, where it is sparse.
        data_offset: where the first byte of the data is in the archive.
    """

    name: bytes
    kind: str
    offset: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    atime: int | None = None
    ctime: int | None = None
    target: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[tuple[int, int]] | None = None
    data_offset: int = 0


_KINDS = {
    ord("1"): "link",
    ord("2"): "symlink",
    ord("3"): "char",
    ord("4"): "block",
    ord("5"): "directory",
    ord("6"): "fifo",
}


class TarReader:
    """Reads the members of a tar from a stream, in order.

    Between two members, data() yields the data of the first.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        """Read from stream, which errors call name."""
        self.name = name
        self._stream = stream
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._base = 0  # where in the archive the buffer starts
        self._left = self._padding = 0  # of the member's data
        self._about = name
        self._globals: dict[bytes, bytes] = {}

    @property
    def position(self) -> int:
        """Bytes of the archive that were used so far."""
        return self._base + self._start

    def __iter__(self) -> Iterator[Member]:
        """Yield the members; raises BadTar, and what the stream raises."""
        while (member := self._next()) is not None:
            yield member
        self._drain()

    def data(self, unit: int = 1) -> Iterator[memoryview]:
        """Yield the data of the member, in pieces that are valid until the next.

        All but the last are multiples of unit bytes.
        """
        while self._left:
            if self._end - self._start < min(self._left, _BUFFER // 2):
                self._fill(min(self._left, _BUFFER))
            n = min(self._left, self._end - self._start)
            if n < self._left:
                n -= n % unit
            start = self._start
            self._start += n
            self._left -= n
            yield self._view[start : start + n]

    # -- bytes

    def _fill(self, need: int) -> None:
        """Have at least need bytes, at most a buffer, or raise."""
        if self._end - self._start >= need:
            return
        if self._available(need) < need:
            self._bad("the archive ends in the middle")

    def _available(self, need: int) -> int:
        """Read on until there are need bytes, or the end; return how many."""
        if self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._view[self._start : self._end]
            self._base += self._start
            self._start, self._end = 0, rest
        while self._end < need:
            got = self._stream.read(_BUFFER - self._end)
            if not got:
                break
            self._view[self._end : self._end + len(got)] = got
            self._end += len(got)
        return self._end - self._start

    def _take(self, size: int) -> bytes:
        """Return the next size bytes, at most a buffer."""
        self._fill(size)
        self._start += size
        return bytes(self._view[self._start - size : self._start])

    def _skip(self, size: int) -> None:
        while size:
            if self._start == self._end:
                self._fill(1)
            n = min(size, self._end - self._start)
            self._start += n
            size -= n

    def _drain(self) -> None:
        """Read what is behind the end, so that the stream has been read whole."""
        self._start = self._end
        while self._available(_BUFFER):
            self._start = self._end

    def _bad(self, what: str, **more: object) -> NoReturn:
        raise BadTar(self._about, what, offset=self.position, **more)  # type: ignore[arg-type]

    # -- headers

    def _header(self) -> bytes | None:
        """Return the next header block, or None at the end of the archive."""
        self._about = self.name
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        zeros = 0
        while True:
            if self._end - self._start < _BLOCK and not self._available(_BLOCK):
                return None
            block = self._take(_BLOCK)
            if block[0] or any(block):
                break
            zeros += 1
            if zeros == 2:
                return None
        if zeros:
            self._start -= _BLOCK
            self._bad("a block of zeros, and then the archive goes on")
        self._check_sum(block)
        return block

    def _check_sum(self, block: bytes) -> None:
        rest = sum(block) - sum(block[148:156]) + 8 * 32
        try:
            stored = int(block[148:156].strip(b" \0") or b"0", 8)
        except ValueError:
            stored = -1
        if stored == rest:
            return
        # Some old tools have added up bytes with a sign.
        signed = rest - 256 * sum(b > 127 for b in block[:148] + block[156:])
        if stored != signed:
            self._start -= _BLOCK
            self._bad("checksum of a header", expected=rest, found=stored)

    def _next(self) -> Member | None:
        records: list[tuple[bytes, bytes]] = []
        name = target = None
        while (block := self._header()) is not None:
            offset = self.position - _BLOCK
            kind = block[156]
            if kind in b"xX":
                records = self._records(block)
            elif kind == ord("g"):
                self._globals.update(self._records(block))
                if sum(map(len, self._globals.values())) > _MAX_RECORDS:
                    self._bad("size of all global PAX records")
            elif kind == ord("L"):
                name = self._text(block)
            elif kind == ord("K"):
                target = self._text(block)
            elif kind == ord("V"):
                self._left = self._size(block)
                self._padding = -self._left % _BLOCK
            else:
                member = self._member(block, offset, name, target)
                self._finish(member, block, [*self._globals.items(), *records])
                return member
        if records or name is not None or target is not None:
            self._bad("the archive ends after a header that is about the next one")
        return None

    def _member(
        self, block: bytes, offset: int, name: bytes | None, target: bytes | None
    ) -> Member:
        """Make a member from its header block alone."""
        if name is None:
            name = _text(block[:100])
            if block[257:263] == b"ustar\0" and block[345]:
                name = _text(block[345:500]) + b"/" + name
        self._about = f"{self.name}: {_shown(name)}"
        member = Member(name, "", offset)
        member.target = _text(block[157:257]) if target is None else target
        member.mode = self._number(block[100:108], "mode") & 0o7777
        member.uid = self._number(block[108:116], "uid")
        member.gid = self._number(block[116:124], "gid")
        member.size = self._size(block)
        member.mtime = self._number(block[136:148], "mtime", signed=True) * _BILLION
        if block[156] in b"34":
            member.major = self._number(block[329:337], "devmajor")
            member.minor = self._number(block[337:345], "devminor")
        return member

    def _finish(
        self, member: Member, block: bytes, records: list[tuple[bytes, bytes]]
    ) -> None:
        """Add what records say, and find out what it is and where its data is."""
        kind = block[156]
        sparse = _Sparse()
        if records:
            self._apply(member, records, sparse)
        if kind == ord("S"):
            self._old_sparse(block, sparse)
        if kind in _KINDS:
            member.kind = _KINDS[kind]
        elif kind in _REGULAR or kind == ord("S"):
            member.kind = "directory" if member.name[-1:] == b"/" else "file"
        elif kind == ord("D"):
            member.kind = "directory"
        else:
            self._bad("type of a member", found=repr(chr(kind)))
        self._judge(member)
        stored = 0 if kind in _NO_DATA else member.size
        self._left, self._padding = stored, -stored % _BLOCK
        member.data_offset = self.position
        if sparse.used:
            self._map(member, sparse)
        if member.kind != "file":
            member.size = 0
            if self._left:
                self._skip(self._left + self._padding)
                self._left = self._padding = 0

    def _judge(self, member: Member) -> None:
        numbers = {
            "uid": member.uid,
            "gid": member.gid,
            "devmajor": member.major,
            "devminor": member.minor,
        }
        for word, value in numbers.items():
            if not 0 <= value <= 0xFFFFFFFF:
                self._bad(word, expected="32 bits", found=value)
        if abs(member.mtime) > _MAX_TIME:
            self._bad("mtime", found=member.mtime // _BILLION)
        if not 0 <= member.size < _MAX_SIZE:
            self._bad("size", found=member.size)
        if b"\0" in member.name or b"\0" in member.target:
            self._bad("a NUL in a name")
        if not member.name:
            self._bad("a member without a name")

    # -- numbers and texts

    def _number(self, raw: bytes, what: str, *, signed: bool = False) -> int:
        """Read a number: octal digits or, with the top bit set, base 256."""
        if raw[0] & 0x80:
            value = int.from_bytes(raw, "big")
            bits = 8 * len(raw)
            value = value - (1 << bits) if raw[0] & 0x40 else value - (1 << bits - 1)
        else:
            digits = raw.split(b"\0", 1)[0].strip(b" ")
            try:
                value = int(digits, 8) if digits else 0
            except ValueError:
                self._bad(what, expected="octal digits", found=repr(raw))
        if value < 0 and not signed:
            self._bad(what, found=value)
        return value

    def _size(self, block: bytes) -> int:
        size = self._number(block[124:136], "size")
        if size >= _MAX_SIZE:
            self._bad("size", found=size)
        return size

    def _text(self, block: bytes) -> bytes:
        """Read the long name that a GNU header announces."""
        size = self._size(block)
        if not 0 < size <= _MAX_RECORDS:
            self._bad("length of a name", found=size)
        raw = self._take(size)
        self._skip(-size % _BLOCK)
        return raw.split(b"\0", 1)[0]

    # -- PAX records

    def _records(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Read records: "length key=value" and a line feed."""
        size = self._size(block)
        if size > _MAX_RECORDS:
            self._bad("size of PAX records", found=size)
        raw, found, at = self._take(size), [], 0
        self._skip(-size % _BLOCK)
        while at < size and raw[at]:
            space = raw.find(b" ", at, at + 20)
            if space < 0 or not raw[at:space].isdigit():
                self._bad("a PAX record")
            end = at + int(raw[at:space])
            # Each is longer than its own length, so this comes to an end.
            if not space + 2 < end <= size or raw[end - 1] != ord("\n"):
                self._bad("a PAX record")
            key, equals, value = raw[space + 1 : end - 1].partition(b"=")
            if not equals:
                self._bad("a PAX record")
            found.append((key, value))
            at = end
        return found

    def _apply(
        self, member: Member, records: list[tuple[bytes, bytes]], sparse: _Sparse
    ) -> None:
        for key, value in records:
            if key.startswith(_SCHILY):
                member.xattrs[key[len(_SCHILY) :]] = value
            elif key.startswith(_LIBARCHIVE):
                name = unquote_to_bytes(key[len(_LIBARCHIVE) :])
                member.xattrs.setdefault(name, self._decoded(value))
            elif key.startswith(b"GNU.sparse."):
                self._sparse_record(key[11:], value, sparse)
            elif key in _ACLS:
                self._acl(member, key, value)
            elif setter := _SETTERS.get(key):
                setter(self, member, value)
        if sparse.name is not None:
            member.name = sparse.name

    def _acl(self, member: Member, key: bytes, value: bytes) -> None:
        found = from_text(value)
        if found is None:
            member.xattrs[key] = value  # for whoever puts it down to notice
        elif found:
            member.xattrs.setdefault(_ACLS[key], found)

    def _decoded(self, value: bytes) -> bytes:
        try:
            return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error:
            self._bad("an extended attribute that is not base64")

    def _whole(self, value: bytes, what: str) -> int:
        if not value.isdigit() or len(value) > 20:
            self._bad(what, expected="a number", found=repr(value[:40]))
        return int(value)

    def _time(self, value: bytes, what: str) -> int:
        """Return a decimal number of seconds in nanoseconds, rounded down."""
        found = _DECIMAL.fullmatch(value)
        if not found:
            self._bad(what, expected="seconds", found=repr(value[:40]))
        digits = found[3] or b""
        time = int(found[2]) * _BILLION + int(digits[:9].ljust(9, b"0"))
        if not found[1]:
            return time
        return -time - (1 if digits[9:].strip(b"0") else 0)

    def _set_name(self, member: Member, value: bytes) -> None:
        member.name = value

    def _set_target(self, member: Member, value: bytes) -> None:
        member.target = value

    def _set_size(self, member: Member, value: bytes) -> None:
        member.size = self._whole(value, "size")

    def _set_uid(self, member: Member, value: bytes) -> None:
        member.uid = self._whole(value, "uid")

    def _set_gid(self, member: Member, value: bytes) -> None:
        member.gid = self._whole(value, "gid")

    def _set_mtime(self, member: Member, value: bytes) -> None:
        member.mtime = self._time(value, "mtime")

    def _set_atime(self, member: Member, value: bytes) -> None:
        member.atime = self._time(value, "atime")

    def _set_ctime(self, member: Member, value: bytes) -> None:
        member.ctime = self._time(value, "ctime")

    def _set_major(self, member: Member, value: bytes) -> None:
        member.major = self._whole(value, "devmajor")

    def _set_minor(self, member: Member, value: bytes) -> None:
        member.minor = self._whole(value, "devminor")

    # -- sparse files

    def _sparse_record(self, key: bytes, value: bytes, sparse: _Sparse) -> None:
        if key in (b"major", b"minor", b"size", b"realsize", b"numblocks"):
            number = self._whole(value, f"GNU.sparse.{key.decode()}")
            sparse.numbers[key] = number
        elif key == b"name":
            sparse.name = value
        elif key in (b"offset", b"numbytes"):
            sparse.words.append(self._whole(value, "a sparse map"))
        elif key == b"map":
            sparse.words += [self._whole(w, "a sparse map") for w in value.split(b",")]
        if len(sparse.words) > 2 * _MAX_PIECES:
            self._bad("a sparse map of too many pieces")
        sparse.used = True

    def _old_sparse(self, block: bytes, sparse: _Sparse) -> None:
        """Read the map of a GNU header of type S, which may go on behind it."""
        sparse.used = True
        sparse.numbers[b"size"] = self._number(block[483:495], "size of a sparse file")
        start, count, more = 386, 4, block[482]
        while True:
            for at in range(start, start + count * 24, 24):
                if not block[at]:
                    break
                sparse.words.append(self._number(block[at : at + 12], "a sparse map"))
                length = self._number(block[at + 12 : at + 24], "a sparse map")
                sparse.words.append(length)
            if not more:
                return
            if len(sparse.words) > 2 * _MAX_PIECES:
                self._bad("a sparse map of too many pieces")
            block = self._take(_BLOCK)
            start, count, more = 0, 21, block[504]

    def _map(self, member: Member, sparse: _Sparse) -> None:
        """Judge the map of a sparse file, and put it into the member."""
        if sparse.numbers.get(b"major") == 1:
            self._read_map(sparse)
            member.data_offset = self.position
        stored, words = self._left, sparse.words
        size = sparse.numbers.get(b"realsize", sparse.numbers.get(b"size"))
        if size is None or size >= _MAX_SIZE or len(words) % 2:
            self._bad("the map of a sparse file")
        pieces, at = [], 0
        for offset, length in zip(words[::2], words[1::2], strict=True):
            if offset < at or offset + length > size:
                self._bad("the map of a sparse file", found=(offset, length))
            at = offset + length
            if length:
                pieces.append((offset, length))
        if sum(length for _, length in pieces) != stored:
            self._bad("the data of a sparse file", found=stored)
        member.pieces, member.size = pieces, size

    def _read_map(self, sparse: _Sparse) -> None:
        """Read a map in front of the data: decimal numbers, a line each."""
        total, used = self._left, 0

        def lines() -> Iterator[int]:
            nonlocal used
            rest = b""
            while True:
                if used + _BLOCK > total:
                    self._bad("the map of a sparse file does not end")
                rest += self._take(_BLOCK)
                used += _BLOCK
                *whole, rest = rest.split(b"\n")
                if not whole:
                    self._bad("the map of a sparse file")
                for line in whole:
                    yield self._whole(line, "a sparse map")

        number = lines()
        count = next(number)
        if count > _MAX_PIECES:
            self._bad("a sparse map of too many pieces", found=count)
        sparse.words = [next(number) for _ in range(2 * count)]
        self._left = total - used


@dataclass(slots=True)
class _Sparse:
    """What headers say of a sparse file, before it is judged."""

    used: bool = False
    name: bytes | None = None
    numbers: dict[bytes, int] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)


_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_ACLS = {
    b"SCHILY.acl.access": b"system.posix_acl_access",
    b"SCHILY.acl.default": b"system.posix_acl_default",
}
_SETTERS: dict[bytes, Callable[[TarReader, Member, bytes], None]] = {
    b"path": TarReader._set_name,
    b"linkpath": TarReader._set_target,
    b"size": TarReader._set_size,
    b"uid": TarReader._set_uid,
    b"gid": TarReader._set_gid,
    b"mtime": TarReader._set_mtime,
    b"atime": TarReader._set_atime,
    b"ctime": TarReader._set_ctime,
    b"SCHILY.devmajor": TarReader._set_major,
    b"SCHILY.devminor": TarReader._set_minor,
}


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _shown(name: bytes) -> str:
    text = name.decode(errors="backslashreplace")
    return text if text.isprintable() else repr(text)
