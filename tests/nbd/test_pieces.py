# SPDX-License-Identifier: Apache-2.0
"""test_pieces - reads that the export of our own answers in several chunks."""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

import obdengine
from obdengine.device import Device
from obdengine.units import KIB, MIB
from tests.nbd import programs, raw
from tests.nbd.conftest import Serve
from tests.nbd.raw import BYTES, END, FAILED, HOLE, Client
from tests.tools import requires
from tests.twins import writer
from tests.twins.writer import Lsmt, Run, ZFile

SIZE = 12 * MIB

# One end to the other: a run of data, one that is named zero, and none but for
# ten pages. The data is more than what a socket holds of it, several times.
DATA_AT, DATA, ZERO_AT, GAP_AT = 64 * KIB, 6 * MIB, 7 * MIB, 8 * MIB
PAGES = [GAP_AT + 40 * KIB * n for n in range(10)]


class Disk(NamedTuple):
    path: Path
    content: bytes
    device: Device


@functools.cache
def content() -> bytes:
    found = bytearray(SIZE)
    found[DATA_AT : DATA_AT + DATA] = Random(3).randbytes(DATA)
    for at in PAGES:
        found[at : at + 4 * KIB] = Random(at).randbytes(4 * KIB)
    return bytes(found)


@functools.cache
def layer(form: str) -> bytes:
    runs = [Run(ZERO_AT // 512, zeroed=2048)]
    for at, size in [(DATA_AT, DATA), *((at, 4 * KIB) for at in PAGES)]:
        runs.append(Run(at // 512, content()[at : at + size]))
    stream = writer.lsmt(sorted(runs, key=lambda run: run.start), SIZE, Lsmt())
    if form == "lz4":
        return writer.zfile(stream, ZFile(block_size=65536))
    return stream


@pytest.fixture(params=["plain", "lz4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of one layer."""
    path = tmp_path / "layer.obd"
    path.write_bytes(layer(request.param))
    with obdengine.open([path]) as device:
        yield Disk(path, content(), device)


def begin(path: str) -> Client:
    """Return a client that has agreed on structured replies."""
    client = Client(path).begin()
    client.option(raw.STRUCTURED)
    return client.go()


def read(client: Client, offset: int, size: int, flags: int = 0) -> bytes:
    """Return what chunks say; they must say everything once, and end."""
    client.ask(raw.READ, offset + 1, offset, size, flags)
    chunks, found, told = client.chunks(offset + 1), bytearray(size), 0
    for kind, payload in chunks:
        if kind == END:
            assert payload == b""
            assert kind is chunks[-1][0]
            continue
        at = struct.unpack(">Q", payload[:8])[0] - offset
        assert at == told
        if kind == HOLE:
            told += struct.unpack(">I", payload[8:])[0]
        else:
            assert kind == BYTES
            found[at : at + len(payload) - 8] = payload[8:]
            told += len(payload) - 8
    assert told == size
    return bytes(found)


def test_any_read(serve: Serve, disk: Disk) -> None:
    chance = Random(11)
    with begin(serve(disk.device)) as client:
        for _ in range(300):
            offset = chance.randrange(SIZE)
            if chance.random() < 0.5:
                offset &= ~4095
            size = min(chance.choice([1, 4096, 9000, 64 * KIB, 3 * MIB]), SIZE - offset)
            size = chance.randint(1, size) if chance.random() < 0.5 else size
            flags = chance.choice([0, 0, raw.DF])
            assert read(client, offset, size, flags) == disk.content[offset:][:size]


def test_any_read_of_what_is_written(serve: Serve, disk: Disk, tmp_path: Path) -> None:
    chance, model = Random(12), bytearray(disk.content)
    words = {"readonly": False, "upper": tmp_path / "upper"}
    with obdengine.open([disk.path], **words) as device, begin(serve(device)) as c:
        for _ in range(150):
            offset = chance.randrange(SIZE - MIB)
            size = chance.choice([512, 4096, 65536, chance.randrange(1, MIB)])
            if chance.random() < 0.5:
                model[offset : offset + size] = data = chance.randbytes(size)
                device.pwrite(offset, data)
            elif chance.random() < 0.3:
                model[offset : offset + size] = bytes(size)
                device.write_zeroes(offset, size)
            assert read(c, offset, size) == model[offset : offset + size]


def test_zeros_are_named(serve: Serve, disk: Disk) -> None:
    with begin(serve(disk.device)) as client:
        client.ask(raw.READ, 7, ZERO_AT - MIB // 2, MIB)
        # What a layer says is zero and what none has: for a client it is one.
        told = struct.pack(">QI", ZERO_AT - MIB // 2, MIB)
        assert client.chunks(7) == [(HOLE, told)]
        client.ask(raw.READ, 8, GAP_AT, 400 * KIB)
        kinds = [kind for kind, _ in client.chunks(8)]
        assert kinds == [BYTES, HOLE] * 10
        client.ask(raw.READ, 9, GAP_AT, 400 * KIB, raw.DF)
        assert [kind for kind, _ in client.chunks(9)] == [BYTES]


def fail(client: Client, offset: int, size: int) -> str:
    """Return the reason for which a read fails."""
    client.ask(raw.READ, 5, offset, size)
    return reason(client)


def reason(client: Client) -> str:
    kind, payload = client.chunks(5)[-1]
    number, length = struct.unpack(">IH", payload[:6])
    assert (kind, number, length) == (FAILED, errno.EIO, len(payload) - 6)
    return payload[6:].decode()


def test_layer_that_is_cut(serve: Serve, disk: Disk) -> None:
    """Its pages are mapped by then, which must not end the server."""
    with begin(serve(disk.device)) as client:
        assert read(client, 0, SIZE) == disk.content
        kept = disk.path.stat().st_size // 2 & ~4095
        os.truncate(disk.path, kept)
        assert disk.path.name in fail(client, DATA_AT, DATA)
        assert disk.path.name in fail(client, DATA_AT + 5 * MIB, 64 * KIB)
        assert read(client, DATA_AT, MIB) == disk.content[DATA_AT:][:MIB]
        assert read(client, ZERO_AT, MIB) == bytes(MIB)


def test_layer_that_is_cut_while_it_is_sent(serve: Serve, disk: Disk) -> None:
    with begin(serve(disk.device)) as client, begin(serve(disk.device)) as other:
        assert read(client, 0, SIZE) == disk.content
        client.ask(raw.READ, 5, DATA_AT, DATA)
        # It cannot all be on its way, since nobody has taken any of it.
        size, wanted = 100 * KIB, disk.content[DATA_AT:]
        head = client.receive(28)
        assert client.receive(size) == wanted[:size]
        os.truncate(disk.path, 4096)
        (length,) = struct.unpack(">I", head[16:20])
        client.receive(length - 8 - size)
        assert disk.path.name in reason(client)
        assert disk.path.name in fail(other, DATA_AT, 64 * KIB)
        assert read(other, ZERO_AT, MIB) == bytes(MIB)


def test_layer_that_comes_and_goes(serve: Serve, disk: Disk) -> None:
    """Every read is right or fails, whatever is cut in the middle of it."""
    whole, rounds = disk.path.read_bytes(), 60
    with begin(serve(disk.device)) as client:
        for number in range(rounds):
            for _ in range(4):
                client.ask(raw.READ, 5, DATA_AT, MIB)
            os.truncate(disk.path, 4096 * (number + 1))
            for _ in range(4):
                assert client.chunks(5)[-1][0] in (BYTES, END, FAILED)
            disk.path.write_bytes(whole)
        assert read(client, 0, SIZE) == disk.content


def test_snapshot_while_nobody_reads(serve: Serve, disk: Disk) -> None:
    """A client that takes no reply holds up itself only."""
    path = serve(disk.device)
    with begin(path) as stuck:
        for _ in range(8):
            stuck.ask(raw.READ, 5, DATA_AT, DATA)
        stuck.receive(28)
        # Waits for whoever is in the device.
        disk.device.port.use(None, writable=False)
        with begin(path) as other:
            assert read(other, DATA_AT, MIB) == disk.content[DATA_AT:][:MIB]


@requires("nbdcopy", "qemu-img", "python3-libnbd")
def test_other_peoples_clients(serve: Serve, disk: Disk, tmp_path: Path) -> None:
    uri = f"nbd+unix:///?socket={serve(disk.device)}"
    flat, copy = tmp_path / "flat", tmp_path / "copy"
    flat.write_bytes(disk.content)
    for size in (4096, 65536, 1 << 20):
        found = programs.output("nbdcopy", f"--request-size={size}", uri, "-")
        assert found == disk.content
    programs.output("qemu-img", "compare", "-f", "raw", "-F", "raw", flat, uri)
    programs.output("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy)
    assert copy.read_bytes() == disk.content
    script = "h.connect_uri(sys.argv[1])\nsys.stdout.buffer.write(h.pread(12 << 20, 0))"
    assert programs.libnbd(script, uri) == disk.content
