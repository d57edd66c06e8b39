# SPDX-License-Identifier: Apache-2.0
"""test_http - bytes of a URL from a server that does wrong: right ones, or an error."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    Closed,
    ObdError,
    OutOfRange,
    SourceChanged,
    SourceError,
    SourceMissing,
    TimedOut,
    UsageError,
)
from obdengine.source.hosts import HttpSettings
from obdengine.source.http import HttpSource, HttpStream
from obdengine.source.patience import Patience
from obdengine.source.transport import Transport
from tests.misbehaving import FAULTS, Misbehaving

DATA = Random(1).randbytes(1 << 20)
LARGE = Random(2).randbytes(5 << 20)

# Seconds: the most that a read may take that must fail; what a loaded machine
# may make of that, much less than the server would hold it up; and more than
# any read takes that must not fail.
DEADLINE, GRACE, PATIENCE = 1.5, 25.0, 120.0

Opened = tuple[Misbehaving, HttpSource]


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    with Misbehaving(files={"/layer": DATA, "/large": LARGE, "/empty": b""}) as found:
        yield found


def source(server: Misbehaving, path: str = "/layer", **more: Any) -> HttpSource:
    fixed = {"silence": PATIENCE, "deadline": PATIENCE, "attempts": None}
    settings = HttpSettings(**{**fixed, **more})
    end = time.monotonic() + PATIENCE
    return HttpSource(f"{server.url}{path}", Transport(settings), fixed=True, end=end)


def test_reads_what_is_there(server: Misbehaving) -> None:
    opened = source(server)
    assert opened.size == len(DATA)
    for offset, size in [(0, 1), (1000, 70_000), (len(DATA) - 5, 5), (7, 0)]:
        assert opened.pread(offset, size) == DATA[offset : offset + size]
    assert HttpStream(opened).read() == DATA
    with pytest.raises(OutOfRange):
        opened.pread(len(DATA) - 5, 6)
    opened.close()
    with pytest.raises(Closed):
        opened.pread(0, 1)


def test_size_that_is_known_is_not_asked_for(server: Misbehaving) -> None:
    HttpSource(f"{server.url}/layer", Transport(), size=len(DATA))
    assert server.requests == []


def test_empty_file(server: Misbehaving) -> None:
    opened = source(server, "/empty")
    assert opened.size == 0
    assert HttpStream(opened).read() == b""


# Faults that pass: the answer to the next request is right.
PASSING = [
    *(
        "cut",
        "reset",
        "lost",
        "stall",
        "silent",
        "slow",
        "short",
        "long",
        "long-chunked",
    ),
    *("chunked", "wrong-range", "no-range", "whole", "login", "encoded"),
    *("no-http", "408", "429", "500", "502", "503", "504"),
]


@pytest.mark.parametrize("fault", PASSING)
def test_one_fault_is_not_noticed(server: Misbehaving, fault: str) -> None:
    opened = source(server, silence=0.3)
    server.faults = [fault]
    assert opened.pread(4096, 100_000) == DATA[4096:104_096]


@pytest.mark.parametrize("fault", PASSING)
def test_one_fault_in_a_stream_is_not_noticed(server: Misbehaving, fault: str) -> None:
    opened = source(server, silence=0.3)
    server.faults = [fault]
    with HttpStream(opened) as stream:
        assert stream.read() == DATA


# What is raised when it never ends. A server of whole files only is put up
# with, and so is one that leaves out the length.
LASTING: dict[str, type[ObdError]] = {
    **dict.fromkeys(("reset", "silent", "header-drip", "stall"), TimedOut),
    **dict.fromkeys(("429", "429-long", "500", "503"), TimedOut),
    **dict.fromkeys(("long", "long-chunked", "wrong-range", "no-range"), BadAnswer),
    **dict.fromkeys(("login", "encoded", "short", "400"), BadAnswer),
    **dict.fromkeys(("401", "403"), AccessDenied),
    **dict.fromkeys(("wrong-total", "416"), SourceChanged),
    **dict.fromkeys(("drip", "no-http"), TimedOut),
    "404": SourceMissing,
}


@pytest.mark.parametrize("fault", LASTING)
def test_lasting_fault_is_an_error_in_time(server: Misbehaving, fault: str) -> None:
    ends = LASTING[fault] is TimedOut
    opened = source(server, silence=0.3, deadline=DEADLINE if ends else PATIENCE)
    server.always = fault
    began = time.monotonic()
    with pytest.raises(LASTING[fault]) as caught:
        opened.pread(4096, 100_000)
    assert time.monotonic() - began < DEADLINE + GRACE
    assert caught.value.errno
    assert server.host in str(caught.value)


def test_every_fault_is_tried() -> None:
    known = set(FAULTS) - {"", "garbage", "changed"}
    assert known - set(PASSING) - set(LASTING) == set()


def test_stream_that_stalls_ends_in_time(server: Misbehaving) -> None:
    opened = source(server, silence=0.3, deadline=DEADLINE)
    server.always = "silent"
    began = time.monotonic()
    with pytest.raises(TimedOut), HttpStream(opened) as stream:
        stream.read()
    assert time.monotonic() - began < DEADLINE + GRACE


def test_cut_again_and_again_goes_on_where_it_was(server: Misbehaving) -> None:
    opened = source(server)
    server.faults = ["cut"] * 4
    assert opened.pread(0, 64_000) == DATA[:64_000]
    starts = [int(asked[2][6:].split("-")[0]) for asked in server.requests[1:]]
    assert starts == sorted(starts)
    assert len(set(starts)) > 3


def test_large_file_without_ranges_is_refused(server: Misbehaving) -> None:
    opened = source(server, "/large")
    server.always = "whole"
    with pytest.raises(BadAnswer, match="whole files only"):
        opened.pread(4096, 4096)
    assert HttpStream(opened).read() == LARGE


def test_deadline_of_one_read(server: Misbehaving) -> None:
    opened = source(server)
    server.always = "silent"
    began = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        opened.read(0, 10, end=began + 0.3)
    assert time.monotonic() - began < 0.3 + GRACE
    assert caught.value.errno == errno.ETIMEDOUT


def test_server_that_is_away_for_less_than_the_deadline(server: Misbehaving) -> None:
    opened = source(server)
    server.always = "503"
    threading.Timer(1.0, setattr, [server, "always", ""]).start()
    assert opened.pread(0, 10) == DATA[:10]


def test_tries_are_counted(server: Misbehaving) -> None:
    opened = source(server, attempts=3)
    server.always = "503"
    before = len(server.requests)
    with pytest.raises(SourceError, match="503"):
        opened.pread(0, 10)
    assert len(server.requests) - before == 3


def test_retry_after_is_kept_to(server: Misbehaving) -> None:
    opened = source(server)
    server.faults = ["429"]
    began = time.monotonic()
    assert opened.pread(0, 10) == DATA[:10]
    assert 1.0 <= time.monotonic() - began < 1.0 + GRACE


def test_retry_after_the_deadline_is_not_waited_for(server: Misbehaving) -> None:
    opened = source(server)
    server.always = "429-long"
    began = time.monotonic()
    with pytest.raises(TimedOut, match="429"):
        opened.pread(0, 10)
    assert time.monotonic() - began < GRACE


def test_change_on_the_server_is_noticed(server: Misbehaving) -> None:
    server.always = "changed"
    opened = HttpSource(f"{server.url}/layer", Transport())
    with pytest.raises(SourceChanged) as caught:
        opened.pread(0, 10)
    assert caught.value.errno == errno.ESTALE


def test_server_that_is_not_there() -> None:
    with Misbehaving() as gone:
        url = f"{gone.url}/layer"
    with pytest.raises(SourceError, match="refused"):
        HttpSource(url, Transport(HttpSettings(attempts=2)))


def test_mirror_is_asked_first_and_left_when_it_fails(server: Misbehaving) -> None:
    with Misbehaving(files={"/sub/layer": DATA}) as mirror:
        mirrors = {server.host: (f"{mirror.url}/sub/",)}
        opened = source(server, mirrors=mirrors)
        assert opened.pread(0, 10) == DATA[:10]
        assert len(mirror.requests) == 2
        assert server.requests == []
        mirror.always = "404"
        assert opened.pread(10, 10) == DATA[10:20]
        assert len(server.requests) == 1
        mirror.always = ""
        opened.pread(10, 10)  # it has failed a moment ago: asked last
        assert len(mirror.requests) == 3


def test_asked_elsewhere_when_what_came_was_no_good(server: Misbehaving) -> None:
    with Misbehaving(files={"/layer": bytes(len(DATA))}) as mirror:
        opened = source(server, mirrors={server.host: (mirror.url,)})
        assert opened.read(0, 10) == bytes(10)
        assert opened.read(0, 10, elsewhere=1) == DATA[:10]
        assert opened.read(0, 10, elsewhere=2) == bytes(10)


def test_mirror_that_is_gone_costs_no_pause(
    server: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Misbehaving() as gone:
        pass
    monkeypatch.setattr(Patience, "pause", lambda *_: pytest.fail("a pause"))
    opened = source(server, mirrors={server.host: (gone.url,)})
    assert opened.pread(0, 10) == DATA[:10]


def test_many_threads_at_once(server: Misbehaving) -> None:
    opened = source(server, connections=4)
    server.faults = ["", "cut", "503", "", "reset"] * 8
    wrong = []

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(20):
            offset = random.randrange(len(DATA) - 20_000)
            size = random.randrange(20_000)
            if opened.pread(offset, size) != DATA[offset : offset + size]:
                wrong.append((offset, size))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "url", ["ftp://server/x", "http:/x", "https://", "http://a b/", "http://u:p@h/x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        HttpSource(url, Transport())
    assert "u:p" not in str(caught.value)


def test_query_is_not_shown(server: Misbehaving) -> None:
    server.always = "403"
    with pytest.raises(AccessDenied) as caught:
        HttpSource(f"{server.url}/layer?X-Amz-Signature=hush", Transport())
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": f"bytes 0-0/{10**18 * 9}"},
        {"Content-Range": f"bytes 0-0/{'9' * 5000}"},
        {"Content-Range": "bytes 0-0/*"},
        {"Content-Range": "bytes 5-0/10"},
        {"Content-Range": "lines 0-0/10"},
    ],
)
def test_sizes_that_make_no_sense(
    server: Misbehaving, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        FAULTS, "odd", lambda handler, _: handler.say(206, headers, b"x")
    )
    server.always = "odd"
    with pytest.raises((BadAnswer, SourceError)):
        source(server).pread(0, 1)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "0x10", "9" * 19])
def test_lengths_that_make_no_sense(
    server: Misbehaving, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Content-Length": length}
    monkeypatch.setitem(
        FAULTS, "odd", lambda handler, _: handler.say(200, headers, b"x")
    )
    server.always = "odd"
    with pytest.raises(SourceError):
        source(server, attempts=1).pread(0, 1)
