# SPDX-License-Identifier: Apache-2.0
"""
http - a source that is a URL, and a URL read from its beginning to its end.

No answer is trusted. One counts if and only if:
  (1) its status is 206 and its Content-Range is the range asked for, or the
      beginning of it, of a file of the size that was known before; or it is
      200 with all of a file that is small or was asked for as a whole;
  (2) the body has just as many bytes as that;
  (3) nothing has changed: ETag and Last-Modified are those of the first answer
      of the same server, unless the URL has a digest that says so already;
  (4) nothing was done to the bytes (Content-Encoding), and it is no page.
A body that is cut goes on where it ended; what breaks a rule is asked for again
elsewhere, or a few times. It caches nothing.
"""

from __future__ import annotations

import io
import re
import threading
from typing import Any, NamedTuple

from obdengine.errors import BadAnswer, SourceChanged
from obdengine.source.contract import check_range, closed, ended_early
from obdengine.source.hosts import Place, decimal, judge_url, origin_of, shown
from obdengine.source.patience import Passing, Patience
from obdengine.source.transport import Answer, Auth, Transport
from obdengine.units import MIB

__all__ = ["HttpSource", "HttpStream"]

# A server that knows no ranges is put up with for a file of this size.
_MAX_WHOLE = 4 * MIB

# How often a wrong answer is asked for again.
_MAX_WRONG = 2

_PIECE = 256 * 1024

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})\s*")
_NO_RANGE = re.compile(r"bytes \*/(\d{1,19})\s*")


class _Version(NamedTuple):
    """What a server says of which version of a file it has."""

    etag: str
    modified: str


class HttpSource:
    """The bytes behind a URL, by range requests from any number of threads.

    Attributes:
        url: what is asked for.
        name: the url without what may be secret.
        size: in bytes.
        transport: what asks.
    """

    def __init__(
        self,
        url: str,
        transport: Transport,
        *,
        size: int | None = None,
        auth: Auth | None = None,
        name: str | None = None,
        fixed: bool = False,
        end: float | None = None,
    ) -> None:
        """Ask how long it is; nothing is asked for when size says so.

        transport stays the caller's. fixed: no other bytes can ever be there.
        end is the deadline of the question.
        Raises UsageError for a url that is none, and what read() raises.
        """
        self.url = judge_url(url)
        self.name = name or shown(url)
        self.transport = transport
        self._auth = auth
        self._fixed = fixed
        self._versions: dict[str, _Version] = {}
        self._lock = threading.Lock()
        self._open = True
        self.size = self._measure(end) if size is None else size

    @property
    def version(self) -> str:
        """What servers have said so far of which version it is."""
        with self._lock:
            found = sorted({" ".join(known) for known in self._versions.values()})
        return "\n".join(found)

    def read(
        self, offset: int, size: int, *, end: float | None = None, elsewhere: int = 0
    ) -> bytes:
        """Return size bytes at offset.

        end is the deadline, a time of time.monotonic(); None: that of the
        settings. elsewhere counts how often what came was no good: so many
        places are asked last.

        Raises OutOfRange; SourceMissing and AccessDenied when the server says
        so; SourceChanged when it has another file now; BadAnswer when it does
        not give what was asked for; TimedOut when the deadline comes first;
        SourceError when it cannot be reached in so many tries; Closed.
        """
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer), end=end, elsewhere=elsewhere)
        return bytes(buffer)

    def read_into(
        self,
        offset: int,
        buf: memoryview,
        *,
        end: float | None = None,
        elsewhere: int = 0,
    ) -> None:
        """Fill buf with the bytes at offset; as read()."""
        if not self._open:
            raise closed(self.name)
        check_range(self, offset, len(buf))
        transport = self.transport
        until = end or transport.end()
        patience = Patience(until, transport.settings.attempts)
        done, wrong = 0, _Wrong()

        def ask(place: Place) -> None:
            nonlocal done
            while done < len(buf):
                left = len(buf) - done
                with wrong, self.answer(place, offset + done, left, until) as pieces:
                    while piece := pieces.next(until):
                        buf[done : done + len(piece)] = piece
                        done += len(piece)
                        patience.progress()

        if buf:
            transport.persist(self.url, ask, patience, first=elsewhere)

    def pread_into(self, offset: int, buf: memoryview) -> None:
        """Fill buf with the bytes at offset, or raise (see Source, and read)."""
        self.read_into(offset, buf)

    def pread(self, offset: int, size: int) -> bytes:
        """Return size bytes at offset, or raise (see Source, and read)."""
        return self.read(offset, size)

    def fileno(self) -> int | None:
        """Return None: there is no descriptor."""
        return None

    def close(self) -> None:
        """Allow no more reads; the transport stays open."""
        self._open = False

    def __repr__(self) -> str:
        """Name the source, for a person who debugs."""
        return f"HttpSource({self.name!r}, {self.size} bytes)"

    # -- One answer

    def _measure(self, end: float | None) -> int:
        """Return the size, from the answer to a request for the first byte.

        Not by HEAD: an address that was signed is good for GET only.
        """
        settings = self.transport.settings
        patience = Patience(end or self.transport.end(), settings.attempts)
        wrong = _Wrong()

        def ask(place: Place) -> int:
            with wrong, self._asked(place, 0, 1, patience.end) as answer:
                if answer.status == 206:
                    size = decimal(str(_range_of(answer, self.name)[2]))
                else:
                    size = _empty(answer) if answer.status == 416 else answer.length
                if size is None:
                    raise BadAnswer(f"{self.name}: does not say how long it is")
                return size

        return self.transport.persist(self.url, ask, patience)

    def answer(self, place: Place, offset: int, size: int, end: float) -> _Pieces:
        """Ask for a range once; return what comes, whose header is right.

        For HttpStream; raises Passing too.
        """
        answer = self._asked(place, offset, size, end)
        try:
            return self._judged(answer, offset, size)
        except BaseException:
            answer.close()
            raise

    def _asked(self, place: Place, offset: int, size: int, end: float) -> Answer:
        answer = self.transport.exchange(
            "GET",
            place,
            end=end,
            headers={"Range": f"bytes={offset}-{offset + size - 1}"},
            auth=self._auth,
            expect=(200, 206, 416),
        )
        try:
            self._judge_kind(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _judge_kind(self, answer: Answer) -> None:
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            raise BadAnswer(f"{self.name}: the bytes came encoded as {coding:.40}")
        if answer.status == 200 and "html" in answer.headers.get("Content-Type", ""):
            raise BadAnswer(
                f"{self.name}: a page for people came in place of the bytes",
                hint="is there something on the way that wants a login?",
            )
        if answer.status == 416 or self._fixed:
            return
        found = _version_of(answer)
        with self._lock:
            known = self._versions.setdefault(origin_of(answer.url), found)
        if _differ(found, known):
            raise SourceChanged(f"{self.name}: it was changed on the server")

    def _judged(self, answer: Answer, offset: int, size: int) -> _Pieces:
        if answer.status == 416:
            raise SourceChanged(f"{self.name}: has no byte {offset}")
        if answer.status == 206:
            start, end, total = _range_of(answer, self.name)
            self._judge_size(total)
            if start != offset or not offset < end <= offset + size:
                raise BadAnswer(
                    f"{self.name}: bytes {offset} to {offset + size - 1} were asked "
                    f"for, {start} to {end - 1} came"
                )
            return _Pieces(self.name, answer, 0, end - start, end - start)
        if answer.length is not None:
            self._judge_size(answer.length)
        if self.size > max(size, _MAX_WHOLE):
            raise BadAnswer(
                f"{self.name}: the server gives whole files only, no ranges of them"
            )
        return _Pieces(self.name, answer, offset, size, self.size)

    def _judge_size(self, found: int) -> None:
        if found != self.size:
            raise SourceChanged(f"{self.name}: has {found} bytes and not {self.size}")


class HttpStream(io.RawIOBase):
    """The bytes of a source from its beginning to its end, for one thread.

    A connection that is lost is made anew and goes on where it was. Each read
    has the deadline of the settings. Raises as HttpSource.read() does.
    """

    def __init__(self, source: HttpSource) -> None:
        """Ask for nothing yet."""
        super().__init__()
        self._source = source
        self._position = 0
        self._pieces: _Pieces | None = None
        self._rest = memoryview(b"")
        self._wrong = _Wrong()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of buffer; return how much, 0 at the end."""
        if not self._rest:
            self._rest = memoryview(self._next())
            self._position += len(self._rest)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._rest))
        view[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        """Drop the connection unless it was read to its end."""
        self._drop()
        super().close()

    def _next(self) -> bytes:
        if self._position == self._source.size:
            self._drop()
            return b""
        transport = self._source.transport
        patience = Patience(transport.end(), transport.settings.attempts)

        def ask(place: Place) -> bytes:
            try:
                with self._wrong:
                    return self._piece(place, patience.end)
            except BaseException:
                self._drop()
                raise

        return transport.persist(self._source.url, ask, patience)

    def _piece(self, place: Place, end: float) -> bytes:
        if self._pieces is None:
            rest = self._source.size - self._position
            self._pieces = self._source.answer(place, self._position, rest, end)
        piece = self._pieces.next(end)
        if not piece:  # the server gave less than all: ask for the rest
            self._drop()
            return self._piece(place, end)
        return piece

    def _drop(self) -> None:
        if self._pieces:
            self._pieces.close()
        self._pieces = None


class _Pieces:
    """The bytes of one answer, checked to be just as many as they must be."""

    def __init__(
        self, name: str, answer: Answer, skip: int, size: int, total: int
    ) -> None:
        """Give size bytes after skip ones of a body that must have total."""
        if answer.length not in (None, total):
            raise BadAnswer(f"{name}: {answer.length} bytes come in place of {total}")
        self._name, self._answer = name, answer
        self._from, self._to, self._total = skip, skip + size, total
        self._position = 0

    def next(self, end: float) -> bytes:
        """Return the next bytes, b"" after the last; end is the deadline."""
        self._answer.end = end
        while self._position < self._total:
            start = self._position
            piece = self._answer.read(min(_PIECE, self._total - start))
            if not piece:
                missing = self._total - start
                raise Passing(ended_early(self._name, start, missing), at_once=True)
            self._position += len(piece)
            if self._position == self._total and self._answer.read(1):
                raise BadAnswer(f"{self._name}: more than {self._total} bytes come")
            piece = piece[max(self._from - start, 0) : max(self._to - start, 0)]
            if piece:
                return piece
        return b""

    def close(self) -> None:
        """Give the connection back, or end it."""
        self._answer.close()

    def __enter__(self) -> _Pieces:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class _Wrong:
    """Lets a wrong answer pass, as often as one may be asked for again."""

    def __init__(self) -> None:
        self._count = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, BadAnswer) and self._count < _MAX_WRONG:
            self._count += 1
            raise Passing(error) from error


def _range_of(answer: Answer, name: str) -> tuple[int, int, int]:
    """Return (offset, end, size of all) that an answer says it has."""
    text = answer.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(text)
    if found is None:
        raise BadAnswer(f"{name}: a part came that does not say which: {text!r:.60}")
    return int(found[1]), int(found[2]) + 1, int(found[3])


def _empty(answer: Answer) -> int | None:
    """Return the size that an answer says when it has no first byte."""
    found = _NO_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return 0 if found and int(found[1]) == 0 else None


def _version_of(answer: Answer) -> _Version:
    etag = answer.headers.get("ETag", "").removeprefix("W/")
    return _Version(etag, answer.headers.get("Last-Modified", ""))


def _differ(one: _Version, other: _Version) -> bool:
    if one.etag and other.etag:
        return one.etag != other.etag
    return bool(one.modified and other.modified and one.modified != other.modified)
