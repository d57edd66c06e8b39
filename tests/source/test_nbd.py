# SPDX-License-Identifier: Apache-2.0
"""test_nbd - the NBD client against nbdkit, and against servers that lie."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from obdengine.errors import BadAnswer, OutOfRange, SourceError, TimedOut
from obdengine.source.nbd import ALLOCATION, DEPTH, ZERO, NbdClient, Status
from tests.running import Export, start_nbdkit
from tests.tools import requires

MIB = 1 << 20
KIB = 1 << 10

DISK = Random(3).randbytes(3 * MIB + 512)


def connected(export: Export, *contexts: str) -> NbdClient:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(export.socket))
    return NbdClient(connection, "disk", contexts=contexts)


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[Export]:
    export = start_nbdkit(folder, plugin=words)
    try:
        yield export
    finally:
        export.stop()


@requires("nbdkit")
@pytest.mark.parametrize("contexts", [(), (ALLOCATION,)], ids=["simple", "structured"])
def test_reads_and_writes(tmp_path: Path, contexts: tuple[str, ...]) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    model = bytearray(DISK)
    chance = Random(4)
    with serving(tmp_path, "file", str(path)) as export:
        client = connected(export, *contexts)
        assert (client.size, client.read_only) == (len(DISK), False)
        assert client.contexts == contexts
        for _ in range(60):
            offset = chance.randrange(len(DISK))
            size = min(chance.choice([1, 512, 70000, 2 * MIB]), len(DISK) - offset)
            kind = chance.randrange(3)
            if kind == 0:
                assert client.pread(offset, size) == model[offset : offset + size]
            elif kind == 1:
                model[offset : offset + size] = data = chance.randbytes(size)
                client.pwrite(offset, data)
            else:
                model[offset : offset + size] = bytes(size)
                client.write_zeroes(offset, size)
        client.flush()
        assert path.read_bytes() == model
        client.close()


def test_changes_that_overlap_wait_for_each_other() -> None:
    """Servers do what is under way in any order: nbdkit, with many threads."""

    def ask(client: NbdClient) -> None:
        client.pwrite(0, b"a" * 512)
        client.write_zeroes(512, 512)  # nor does that wait for an answer
        for overlapping in (
            lambda: client.pwrite(511, b"b"),
            lambda: client.write_zeroes(1023, 4096),
        ):
            with pytest.raises(SourceError, match="went away"):
                overlapping()

    talk(AGREED, ask, 20)


@requires("nbdkit")
def test_status(tmp_path: Path) -> None:
    with serving(
        tmp_path, "data", "@1048576 (1)*65536 @1310720 (2)*131072 @3145728 0"
    ) as export:
        client = connected(export, ALLOCATION, DEPTH)
        assert client.contexts == (ALLOCATION,)  # the other one is qemu's
        found = list(client.status(0, client.size))
        assert found[0].offset == 0
        assert found[-1].end == client.size
        assert all(a.end == b.offset for a, b in pairwise(found))
        data = [run for run in found if not run.flags[0] & ZERO]
        assert data
        for run in found:
            if run.flags[0] & ZERO:
                assert not any(client.pread(run.offset, run.end - run.offset))
        client.close()


@requires("nbdkit")
def test_threads_take_turns(tmp_path: Path) -> None:
    """Reads of many threads, while another asks what is where."""
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    with serving(tmp_path, "file", str(path)) as export:
        client = connected(export, ALLOCATION)
        places = [n * 70_000 for n in range(len(DISK) // 70_000)]
        with ThreadPoolExecutor(5) as pool:
            found = [pool.submit(client.pread, at, 70_000) for at in places]
            assert list(client.status(0, client.size))[-1].end == client.size
            assert b"".join(one.result() for one in found) == DISK[: places[-1] + 70000]
        client.close()


@requires("nbdkit")
def test_first_error_is_that_of_all_who_come_later(tmp_path: Path) -> None:
    """What it left unanswered would be taken for an answer to them."""
    (tmp_path / "script").write_text(
        "case $1 in get_size) echo 4M;; open) ;;\n"
        "pread) echo EIO no luck >&2; exit 1;; *) exit 2;; esac\n"
    )
    (tmp_path / "script").chmod(0o755)
    with serving(tmp_path, "sh", str(tmp_path / "script")) as export:
        client = connected(export)
        with pytest.raises(SourceError) as first:
            client.pread(0, MIB)
        with pytest.raises(SourceError) as second:
            client.pread(MIB, MIB)
        assert first.value is second.value
        client.close()


@requires("nbdkit")
def test_range(tmp_path: Path) -> None:
    with serving(tmp_path, "memory", "1M") as export:
        client = connected(export)
        for ask in (
            lambda: client.pread(MIB - 1, 2),
            lambda: client.pread(-1, 2),
            lambda: client.pwrite(MIB, b"x"),
            lambda: client.write_zeroes(5, MIB),
            lambda: list(client.status(0, MIB + 1)),
        ):
            with pytest.raises(OutOfRange):
                ask()
        client.close()


@requires("nbdkit")
def test_errors_of_the_server(tmp_path: Path) -> None:
    words = ("sh", str(tmp_path / "script"))
    (tmp_path / "script").write_text(
        "case $1 in get_size) echo 1M;; can_write|can_flush) ;; open) ;;\n"
        "pread) echo EIO no luck >&2; exit 1;; pwrite) echo ENOSPC >&2; exit 1;;\n"
        "flush) ;; *) exit 2;; esac\n"
    )
    (tmp_path / "script").chmod(0o755)
    with serving(tmp_path, *words) as export:
        client = connected(export, ALLOCATION)
        with pytest.raises(SourceError) as caught:
            client.pread(0, 512)
        assert caught.value.errno == errno.EIO
        client.close()
        client = connected(export)
        client.pwrite(0, b"x" * 512)  # answered later
        with pytest.raises(SourceError) as caught:
            client.flush()
        assert caught.value.errno == errno.ENOSPC
        client.close()


@requires("nbdkit")
def test_server_that_goes_away(tmp_path: Path) -> None:
    with serving(tmp_path, "memory", "64M") as export:
        client = connected(export)
        export.kill()
        with pytest.raises(SourceError, match="went away"):
            client.pread(0, 64 * MIB)
        client.close()


# -- Servers that lie


HELLO = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack("!H", 3)


def option(number: int, kind: int, data: bytes = b"") -> bytes:
    head = struct.pack("!QIII", 0x3E889045565A9, number, kind, len(data))
    return head + data


GO = option(7, 3, struct.pack("!HQH", 0, MIB, 1)) + option(7, 1)
STRUCTURED = option(8, 1)
META = option(10, 4, struct.pack("!I", 9) + ALLOCATION.encode()) + option(10, 1)
AGREED = HELLO + STRUCTURED + META + GO


def part(kind: int, data: bytes, *, handle: int = 1, done: int = 1) -> bytes:
    head = struct.pack("!IHHQI", 0x668E33EF, done, kind, handle, len(data))
    return head + data


def talk(says: bytes, ask: Callable[[NbdClient], object], patience: float) -> None:
    """Connect to a server that says this and then hangs up; do ask."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, suppress(OSError):
            theirs.sendall(says)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(4096):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours:
            client = NbdClient(ours, "disk", contexts=[ALLOCATION], patience=patience)
            ask(client)
    finally:
        thread.join()


def read(client: NbdClient) -> bytes:
    return client.pread(0, 1024)


def status(client: NbdClient) -> list[Status]:
    return list(client.status(0, MIB))


AT = struct.pack("!Q", 0)

LIES: dict[str, tuple[bytes, Callable[[NbdClient], object]]] = {
    "another greeting": (b"SSH-2.0-OpenSSH\r\n".ljust(18), read),
    "old style": (b"NBDMAGIC" + bytes(10), read),
    "not fixed": (HELLO[:-2] + bytes(2), read),
    "answer to another option": (HELLO + option(7, 1), read),
    "endless answer to an option": (HELLO + option(8, 1)[:-4] + b"\xff" * 4, read),
    "refusal": (HELLO + option(8, 0x80000001, b"no"), read),
    "short context": (HELLO + STRUCTURED + option(10, 4, b"ab") + option(10, 1), read),
    "short export": (
        HELLO + STRUCTURED + META + option(7, 3, b"\0\0ab") + option(7, 1),
        read,
    ),
    "short info": (HELLO + STRUCTURED + META + option(7, 3, b"a") + option(7, 1), read),
    "context that is no text": (
        HELLO
        + STRUCTURED
        + option(10, 4, b"ab12\xff")
        + option(10, 1)
        + GO
        + bytes(16),
        read,
    ),
    "refusal that is no text": (HELLO + option(8, 0x80000001, b"\xff"), read),
    "short error": (AGREED + part(0x8001, b"abc"), read),
    "no magic": (AGREED + b"\0" * 16, read),
    "another handle": (AGREED + part(1, AT + bytes(1024), handle=7), read),
    "too much": (AGREED + part(1, AT + bytes(4096)), read),
    "before": (AGREED + part(1, b"\xff" * 8 + bytes(1024)), read),
    "behind": (AGREED + part(1, struct.pack("!Q", 512) + bytes(1024)), read),
    "hole behind": (AGREED + part(2, AT + struct.pack("!I", 2048)), read),
    "part of another kind": (AGREED + part(5, AT + bytes(8)), read),
    "short part": (AGREED + part(1, b"abc"), read),
    "no status": (AGREED + part(0, b""), status),
    "status of nothing": (AGREED + part(5, struct.pack("!III", 9, 0, 0)), status),
    "status of other context": (AGREED + part(5, struct.pack("!III", 8, 9, 0)), status),
    "torn status": (AGREED + part(5, struct.pack("!I", 9) + b"abc"), status),
    "endless status": (AGREED + part(5, b"")[:-4] + b"\xff" * 4, status),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str) -> None:
    says, ask = LIES[name]
    with pytest.raises(BadAnswer):
        talk(says, ask, 20)


@pytest.mark.parametrize("length", range(0, len(AGREED) + 60, 7))
def test_end_at_any_point(length: int) -> None:
    says = AGREED + part(1, AT + bytes(512), done=0) + part(0, b"")
    with suppress(IndexError), pytest.raises(SourceError):
        talk(says[: min(length, len(says) - 1)], read, 20)


def test_silence() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimedOut, match=r"0\.2 s"):
        NbdClient(ours, "disk", patience=0.2)


def test_status_is_cut_to_what_was_asked() -> None:
    runs = struct.pack("!IIIII", 9, 4096, 0, 1 << 30, 3)
    found: list[Status] = []
    talk(AGREED + part(5, runs), lambda client: found.extend(status(client)), 20)
    assert found == [Status(0, 4096, (0,)), Status(4096, MIB, (3,))]
