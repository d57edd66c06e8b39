# SPDX-License-Identifier: Apache-2.0
"""test_native - the export of our own: negotiation, clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

import obdengine
from obdengine.device import Device
from obdengine.layer import open_layer
from obdengine.nbd import Exports, Server, listen_at_socket
from obdengine.source import FileSource
from tests.nbd import programs, raw
from tests.nbd.conftest import Serve
from tests.nbd.raw import Client, text
from tests.registries import free_port
from tests.running import PATIENCE, Ran
from tests.stacks import SIZE, Image
from tests.tools import requires

Obd = Callable[..., Ran]
TLS_IS_REFUSED = raw.ERROR | 2

# Bytes of a reply that no socket's buffers take, and that many threads can have.
STUCK = 256 << 10


@pytest.fixture
def device(image: Image) -> Iterator[Device]:
    with obdengine.open(image.layers) as device:
        yield device


def uri(path: str, name: str = "") -> str:
    return f"nbd+unix:///{name}?socket={path}"


# -- Negotiation.


def test_options(serve: Serve, device: Device) -> None:
    with Client(serve(device, "disk")) as client:
        assert client.flags == 3
        client.begin()
        assert client.option(raw.LIST) == [(2, text(b"disk")), (1, b"")]
        assert client.option(raw.LIST, b"x")[0][0] == raw.ERROR | 3
        assert client.option(raw.STARTTLS)[0][0] == TLS_IS_REFUSED
        assert client.option(99)[0][0] == raw.ERROR | 1
        assert client.option(raw.INFO, text(b"other") + bytes(2))[0][0] == raw.ERROR | 6
        assert client.option(raw.INFO, b"\0\0\0\xffshort")[0][0] == raw.ERROR | 3
        assert client.option(raw.INFO, text(b"\xff") + bytes(2))[0][0] == raw.ERROR | 3
        assert client.option(raw.INFO, text(b"x" * 5000))[0][0] == raw.ERROR | 9
        assert client.option(raw.SET_META, bytes(8))[0][0] == raw.ERROR | 3
        found = client.option(raw.INFO, text(b"disk") + struct.pack(">HHH", 2, 1, 2))
        kinds = {struct.unpack(">H", data[:2])[0]: data[2:] for _, data in found[:-1]}
        assert kinds[0][:8] == struct.pack(">Q", SIZE)
        assert kinds[1] == b"disk"
        assert b"3 layers" in kinds[2]
        assert client.option(raw.ABORT) == [(1, b"")]
        assert client.is_over()


def test_contexts(serve: Serve, device: Device) -> None:
    def names(replies: list[tuple[int, bytes]]) -> list[bytes]:
        return [data[4:] for kind, data in replies if kind == 4]

    both = [b"base:allocation", b"obd:layer"]
    with Client(serve(device)) as client:
        client.begin().option(raw.STRUCTURED)
        for number, queries, wanted in [
            (raw.LIST_META, [], both),
            (raw.LIST_META, [b"obd:"], both[1:]),
            (raw.SET_META, [b"obd:"], []),
            (raw.SET_META, [b"base:allocation", b"qemu:x", b"obd:layer"], both),
            (raw.SET_META, [b"obd:layer"], both[1:]),
            (raw.SET_META, [], []),
        ]:
            data = text(b"") + struct.pack(">I", len(queries))
            data += b"".join(map(text, queries))
            assert names(client.option(number, data)) == wanted


@pytest.mark.parametrize("short", [True, False])
def test_as_of_old(serve: Serve, device: Device, image: Image, short: bool) -> None:
    with Client(serve(device)) as client:
        client.begin(3 if short else 1)
        client.socket.sendall(b"IHAVEOPT" + struct.pack(">II", raw.EXPORT_NAME, 0))
        size, flags = struct.unpack(">QH", client.receive(10))
        assert size == SIZE
        assert flags & 3 == 3
        assert short or client.receive(124) == bytes(124)
        client.ask(raw.READ, 5, 512, 1000)
        assert client.reply() == (0, 5)
        assert client.receive(1000) == image.disk[512:1512]


def test_unknown_name_as_of_old(serve: Serve, device: Device) -> None:
    with Client(serve(device, "disk")) as client:
        client.begin()
        client.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 5) + b"other")
        assert client.is_over()


@pytest.mark.parametrize("seed", range(40))
def test_noise_for_negotiation(serve: Serve, device: Device, seed: int) -> None:
    """Whatever a client says, the next one is served."""
    chance, path = Random(seed), serve(device)
    with Client(path) as client:
        said = b"".join(
            b"IHAVEOPT" + struct.pack(">II", chance.randrange(12), len(data)) + data
            for data in [
                chance.randbytes(chance.choice([0, 4, 6, 30])).replace(b"\x07", b"\0")
                for _ in range(20)
            ]
        )
        begin = struct.pack(">I", chance.choice([3, 3, 1, 0, 77]))
        cut = chance.randrange(len(said))
        client.socket.sendall(begin + said[:cut] + chance.randbytes(seed))
        client.socket.shutdown(socket.SHUT_WR)
        while client.receive(65536):
            pass
    with Client(path) as client:
        client.begin().go()


# -- Transmission.


@requires("nbdinfo")
def test_contexts_say_the_truth(serve: Serve, device: Device, image: Image) -> None:
    words = ("--map=obd:layer", "--json", uri(serve(device)))
    found = json.loads(programs.output("nbdinfo", *words))
    layers = [e["type"] for e in found for _ in range(-(-e["length"] // 512))]
    mapped = [0 if e.layer is None else e.layer + 1 for e in device.extents()]
    sizes = [e.length for e in device.extents()]
    assert layers == [
        n for n, size in zip(mapped, sizes, strict=True) for _ in range(-(-size // 512))
    ]
    assert set(layers) <= {0, 1, 2, 3}


class Remote(FileSource):
    """A file that has to be fetched, and waits for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.waiting = 0

    def fileno(self) -> None:
        return None

    def pread_into(self, offset: int, buf: memoryview) -> None:
        self.waiting += 1
        assert self.may_go_on.wait(PATIENCE)
        super().pread_into(offset, buf)


@pytest.fixture
def remote(image: Image) -> Iterator[tuple[Device, Remote]]:
    source = Remote(image.layers[0])
    layers = [open_layer(source)]
    with Device(layers, "remote") as device:
        yield device, source


def test_misses_are_overtaken(serve: Serve, remote: tuple[Device, Remote]) -> None:
    device, source = remote
    at = next(e.offset for e in device.extents() if e.data and not e.present)
    gap = next(e.offset for e in device.extents() if e.zero)
    with Client(serve(device)) as client:
        client.begin().go()
        source.may_go_on.clear()
        for cookie in range(20):
            client.ask(raw.READ, cookie, at, 512)
        client.ask(raw.READ, 99, gap, 512)
        # What needs nothing comes first, past those that wait.
        assert client.reply() == (0, 99)
        assert client.receive(512) == bytes(512)
        source.may_go_on.set()
        seen = set()
        for _ in range(20):
            error, cookie = client.reply()
            assert error == 0
            assert client.receive(512) == device.pread(at, 512)
            seen.add(cookie)
        assert seen == set(range(20))


def test_stop_while_requests_wait(serve: Serve, remote: tuple[Device, Remote]) -> None:
    device, source = remote
    at = next(e.offset for e in device.extents() if e.data and not e.present)
    with Client(serve(device)) as client:
        client.begin().go()
        source.may_go_on.clear()
        client.ask(raw.READ, 1, at, 512)
        while not source.waiting:
            time.sleep(0.001)
        client.socket.close()
        source.may_go_on.set()


def test_whole_disk_through_misses(
    serve: Serve, remote: tuple[Device, Remote], image: Image
) -> None:
    device, _ = remote
    with obdengine.open([image.layers[0]]) as local:
        wanted = local.pread(0, local.size)
    words = ("--connections=4", "--requests=16", "--request-size=65536")
    found = programs.output("nbdcopy", *words, uri(serve(device)), "-")
    assert found == wanted


@pytest.mark.parametrize("count", [1, 40])
def test_clients_that_read_nothing(
    serve: Serve, device: Device, count: int, image: Image
) -> None:
    path = serve(device)
    stuck = [Client(path).begin().go() for _ in range(count)]
    for client in stuck:
        for cookie in range(64):
            client.ask(raw.READ, cookie, 0, STUCK)
    assert programs.output("nbdcopy", uri(path), "-") == image.disk
    for client in stuck:
        client.socket.close()


def test_client_that_says_nothing_does_not_keep_the_server(
    image: Image, tmp_path: Path
) -> None:
    with obdengine.open(image.layers) as device:
        path = tmp_path / "socket"
        server = Server([listen_at_socket(path)], Exports(device))
        server.start()
        with Client(str(path)), Client(str(path)) as other:
            other.begin().go()
            server.close(PATIENCE)
            assert other.is_over()


@pytest.mark.parametrize("seed", range(10))
def test_noise_for_requests(serve: Serve, device: Device, seed: int) -> None:
    chance, path = Random(seed), serve(device)
    with Client(path) as client:
        client.begin().go()
        # One of them may be the wish to end.
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.ask(chance.randrange(10), chance.getrandbits(64), 7, 99)
            client.socket.sendall(chance.randbytes(1000))
            client.socket.shutdown(socket.SHUT_WR)
        while client.receive(65536):
            pass
    with Client(path) as client:
        client.begin().go().ask(raw.READ, 1, 0, 1)
        assert client.reply() == (0, 1)


@requires("qemu-io", "qemu-img")
def test_qemu_writes_and_reads(obd: Obd, image: Image, tmp_path: Path) -> None:
    script = (
        "qemu-io -f raw -c 'write -P 7 1M 64k' -c 'write -z 0 64k' -c flush "
        "-c 'discard 64k 64k' -c 'read -P 7 1M 64k' \"$uri\" >&2 && "
        'qemu-img map --output=json -f raw "$uri" && '
        'qemu-img bench -f raw -c 200 -d 8 "$uri" >&2'
    )
    words = ("--engine", "native", "--upper", tmp_path / "upper", *image.layers)
    ran = obd("serve", *words, "--", "sh", "-ec", script)
    assert json.loads(ran.text)


@requires("nbdinfo")
def test_tcp(obd: Obd, image: Image) -> None:
    port = free_port()
    words = ("--engine", "native", "--port", str(port), *image.layers)
    ran = obd("serve", *words, "--", "sh", "-c", 'nbdinfo --size "$uri"')
    assert int(ran.text) == SIZE
    with socket.socket() as taken:
        # Of the first server connections may linger.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        said = obd("serve", *words, "--", "true", code=1).err
        assert "Address already in use" in said


@requires("nbdfuse", "fuse")
def test_as_a_file(obd: Obd, image: Image, tmp_path: Path) -> None:
    point, disk = tmp_path / "disk", tmp_path / "copy"
    point.touch()
    script = (
        'nbdfuse "$0" "$uri" & '
        'for i in $(seq 500); do [ -s "$0" ] && break; sleep 0.02; done; '
        'cp "$0" "$1"; fusermount3 -u "$0"; wait'
    )
    words = ("--engine", "native", *image.layers, "--", "sh", "-c", script)
    obd("serve", *words, point, disk)
    assert disk.read_bytes() == image.disk


def test_threads_is_nbdkits(obd: Obd, image: Image) -> None:
    words = ("--engine", "native", "--threads", "3", image.config)
    assert "--threads goes with nbdkit" in obd("serve", *words, code=2).err


def test_nothing_stays_open(serve: Serve, device: Device) -> None:
    path = serve(device)
    with Client(path) as client:
        client.begin().go()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(50):
        with Client(path) as client:
            client.begin().go().ask(raw.READ, 1, 0, 4096)
            client.receive(16 + 4096)
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir("/proc/self/fd")) > before:  # noqa: PTH208
        assert time.monotonic() < deadline
        time.sleep(0.01)
