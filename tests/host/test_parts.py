# SPDX-License-Identifier: Apache-2.0
"""test_parts - the parts of the host room alone: words, records, processes."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from obdengine.errors import HostError, UsageError
from obdengine.host import (
    devices,
    filesystems,
    handshake,
    loop,
    netlink,
    processes,
    records,
)
from obdengine.host.bridge import Bridge
from obdengine.host.processes import Process
from obdengine.host.records import Places, Record
from tests.tools import requires

# -- Handshake

HELLO = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)


def reply(kind: int, body: bytes) -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, 7, kind, len(body)) + body


EXPORT = reply(3, struct.pack(">HQH", 0, 1 << 20, 0x105))
ACK = reply(1, b"")
OTHER_INFO = reply(3, struct.pack(">HIII", 3, 1, 4096, 1 << 25))

Server = Callable[[bytes], Path]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return what starts a server that says those bytes, whatever it hears."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "nbd"))
    listening.listen()

    def say(text: bytes) -> Path:
        def run() -> None:
            client, _ = listening.accept()
            with client, suppress(OSError):  # it may have had enough
                client.sendall(text)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

        threading.Thread(target=run, daemon=True).start()
        return tmp_path / "nbd"

    yield say
    listening.close()


def test_size_and_flags(server: Server) -> None:
    found = handshake.negotiate(server(HELLO + OTHER_INFO + EXPORT + ACK))
    found.socket.close()
    assert (found.size, found.flags) == (1 << 20, 0x105)


BAD = {
    "silence": (b"", "went away"),
    "other protocol": (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "not NBD's"),
    "old style": (b"NBDMAGIC" + bytes(10), "not NBD's"),
    "not fixed": (b"NBDMAGICIHAVEOPT\0\0", "not NBD's"),
    "cut": (HELLO + EXPORT[:10], "went away"),
    "wrong reply": (HELLO + bytes(20), "something else"),
    "huge reply": (HELLO + EXPORT[:16] + b"\xff" * 4, "something else"),
    "no size": (HELLO + ACK, "how large"),
    "refused": (HELLO + reply(0x80000006, b"no such export"), "no such export"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_server_that_is_none(server: Server, name: str) -> None:
    said, complaint = BAD[name]
    with pytest.raises(HostError, match=complaint):
        handshake.negotiate(server(said))


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        handshake.negotiate(tmp_path / "none")


# -- Netlink


def test_attributes_come_back() -> None:
    made = netlink.u32(1, 7) + netlink.attribute(2, b"abc") + netlink.u64(3, 9)
    assert len(made) % 4 == 0
    found = dict(netlink.attributes(made))
    assert found == {1: b"\x07\0\0\0", 2: b"abc", 3: struct.pack("=Q", 9)}


def test_attributes_that_make_no_sense_end() -> None:
    assert list(netlink.attributes(bytes(16))) == []
    assert list(netlink.attributes(b"\x05")) == []


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(HostError, match="has no"):
        netlink.Netlink("obd-none")


# -- Records


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "run", tmp_path / "state")


def test_a_record_comes_back(places: Places) -> None:
    server, fuse = Process(1, 2), Process(3, 4)
    record = Record("one", ["/a"], server=server, bridge=Bridge(server, fuse))
    with records.locked(places, "one"):
        saved = records.save(places, record)
    assert records.load(places, "one") == saved
    assert saved.of_this_boot
    assert replace(saved, boot="") == record


def test_a_folder_without_a_record_goes(places: Places) -> None:
    with records.locked(places, "one") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert records.names(places) == []


@pytest.mark.parametrize("way", ["", "loop"])
def test_a_device_that_is_being_made_is_down(places: Places, way: str) -> None:
    """Whoever looks at all devices finds what another process has so far."""
    record = Record("one", ["/a"], way=way, server=Process.of(os.getpid()))
    with records.locked(places, "one"):
        assert devices.health(records.save(places, record)) == "down"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1, "server": 5}'])
def test_a_record_that_is_none(places: Places, text: str) -> None:
    (places.run / "one").mkdir(parents=True)
    (places.run / "one" / "record.json").write_text(text)
    with pytest.raises(HostError, match="cannot be read"):
        records.load(places, "one")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "x" * 49, "é"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError):
        records.check_name(name)


def test_free_names(places: Places) -> None:
    assert records.free_name(places, ["/x/my disk.obd"]) == "my-disk"
    assert records.free_name(places, ["/x/web/config.v1.json"]) == "web"
    assert records.free_name(places, ["/x/..."]) == "disk"


def test_the_lock_is_for_one(places: Places) -> None:
    order: list[str] = []

    def other() -> None:
        with records.locked(places, "one"):
            order.append("other")

    with records.locked(places, "one"):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


# -- Processes


def test_a_pid_that_somebody_else_has() -> None:
    mine = Process.of(os.getpid())
    assert mine.alive
    other = Process(mine.pid, mine.started + 1)
    assert not other.alive
    assert other.stop(0)  # nobody is ended
    assert mine.alive


def test_stopping_what_does_not_want_to() -> None:
    words = ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"]
    with subprocess.Popen(words, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert not Process.of(child.pid).stop(0.2)
        child.returncode = -signal.SIGKILL


# As qemu-storage-daemon does with one that comes at the wrong moment.
def test_stopping_what_misses_a_signal() -> None:
    words = ["sh", "-c", "trap 'trap \"exit 0\" TERM' TERM; echo; "]
    words[-1] += "while :; do sleep 0.05; done"
    with subprocess.Popen(words, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert Process.of(child.pid).stop(60)
        child.returncode = 0


def test_a_program_that_says_when_it_is_ready(tmp_path: Path) -> None:
    words = ["sh", "-c", 'echo $$ >"$0"; exec sleep 100', "{ready}"]
    made = processes.start(words, tmp_path / "log")
    assert made.alive
    made.stop(5)
    assert not made.alive


def test_a_program_that_fails(tmp_path: Path) -> None:
    words = ["sh", "-c", "echo first; echo 'this is why' >&2; exit 3"]
    with pytest.raises(HostError, match="this is why"):
        processes.start(words, tmp_path / "log")
    with pytest.raises(HostError, match="no-such-program"):
        processes.start(["no-such-program"], tmp_path / "log")
    with pytest.raises(HostError, match="this is why"):
        processes.run(words)


# -- Disks


def test_what_is_on_a_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(100_000))
    assert filesystems.kind_of(disk) is None
    with pytest.raises(UsageError):
        filesystems.describe(str(disk), read_only=True)
    for name, kind in filesystems.KINDS.items():
        raw = bytearray(100_000)
        raw[kind.at : kind.at + len(kind.magic)] = kind.magic
        disk.write_bytes(raw)
        assert filesystems.kind_of(disk) == name
    disk.write_bytes(b"short")
    assert filesystems.kind_of(disk) is None


def test_mounts_as_runtimes_are_told(tmp_path: Path) -> None:
    def said(kind: str, read_only: bool) -> list[str]:
        return filesystems.mount_options(kind, read_only=read_only)

    assert said("ext4", True) == ["ro", "noload"]
    assert said("xfs", True) == ["ro", "norecovery", "nouuid"]
    assert said("xfs", False) == ["rw", "nouuid", "discard"]
    assert said("ntfs", False) == ["rw"]


@requires("loop", "root")
def test_a_loop_device_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        loop.attach_file(tmp_path / "none", read_only=True)
    assert loop.file_of("/dev/loop-none") is None
