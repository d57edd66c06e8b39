# SPDX-License-Identifier: Apache-2.0
"""test_programs - the C programs compile without a warning, and rivals agree."""

from __future__ import annotations

import itertools
import socket
import struct
import subprocess
import threading

import pytest

from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.units import KIB, MIB
from tests.bench import workshop
from tests.bench.counting import write_words
from tests.bench.lookup import NAMES
from tests.bench.upper import ROWS
from tests.bench.workshop import Workshop, make_disk, run_samples
from tests.tools import requires

LIBRARIES = ["lz4", "z", "zstd"]

pytestmark = requires("cc", "taskset")


@pytest.fixture(autouse=True)
def _strict(monkeypatch):
    flags = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
    monkeypatch.setattr(workshop, "CFLAGS", [*workshop.CFLAGS, *flags])


@pytest.mark.parametrize("shape", ["mixed", "clustered"])
def test_all_structures_find_the_same(tmp_path, shape):
    program = Workshop(tmp_path).compiled("lookup", libraries=LIBRARIES)
    figures = run_samples(program, shape, "1000", "1")
    assert figures.keys() <= NAMES.keys() | {"all"}
    assert {"core", "directory", "binary", "eytzinger"} < figures.keys()
    assert figures["core"]["rate"].median > 0


def test_reader_measures_all_and_refuses_what_it_does_not_know(tmp_path):
    program = Workshop(tmp_path).compiled("read", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"x" * (1 << 20))
    words = [program, "alone", "1", rubbish, f"plain={rubbish}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "failed: trailer\n"

    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    make_disk(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec="lz4", block_size=64 * KIB))
    alone = run_samples(program, "alone", "1", disk, f"it={layer}")
    assert {name: set(found) for name, found in alone.items()} == {
        "flat": {"random", "sequential"},
        "it": {"random", "again", "sequential"},
        "it+bare": {"random", "sequential"},
    }
    both = run_samples(program, "both", "1", disk, f"it={layer}")["it"]
    assert set(both) == {"helped", "both"}


def test_writers_leave_the_same_disk(tmp_path):
    program = Workshop(tmp_path).compiled("write", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    make_disk(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec=None))
    figures = run_samples(program, "2", "20", tmp_path, disk, layer)
    assert figures.keys() == ROWS.keys()
    for found in figures.values():
        assert found.keys() == {"first", "over", "read", "pair"}
        assert len(found["pair"].samples) == 2


def test_counter_reads(tmp_path):
    program = Workshop(tmp_path).compiled("count", libraries=LIBRARIES)
    assert subprocess.run([program]).returncode == 2
    disk, layer = tmp_path / "disk.raw", tmp_path / "disk.obd"
    write_words(disk, 4 * MIB)
    to_layer(disk, layer, options=LayerOptions(codec="lz4"))
    assert subprocess.run([program, layer, "10"]).returncode == 0


SIZE = 64 * KIB


def _answer(listener, answers):
    """Speak NBD with one client, until it goes or the answers run out."""
    with listener.accept()[0] as client, client.makefile("rwb") as talk:
        talk.write(b"NBDMAGICIHAVEOPT\0\3")
        talk.flush()
        talk.read(4 + 16)
        talk.write(struct.pack(">QIII", 0x3E889045565A9, 8, 1, 0))
        talk.flush()
        talk.read(16)
        talk.write(struct.pack(">QH", SIZE, 3))
        talk.flush()
        for answer in answers:
            asked = talk.read(28)
            if len(asked) < 28:
                break
            cookie = asked[8:16]
            (offset,) = struct.unpack_from(">Q", asked, 16)
            talk.write(answer(cookie, offset))
            talk.flush()


def _chunk(kind, payload, *, done=True, own=True, offset_off=0):
    def made(cookie, offset):
        where = struct.pack(">Q", offset + offset_off) if kind in (1, 2) else b""
        head = struct.pack(">IHH", 0x668E33EF, done, kind)
        head += cookie if own else bytes(7) + b"x"
        return head + struct.pack(">I", len(where + payload)) + where + payload

    return made


def _simple(error=0, size=4096):
    return lambda cookie, _: (
        struct.pack(">II", 0x67446698, error) + cookie + bytes(size)
    )


WRONG = {
    "an error": _chunk(0x8001, b"\0\0\0\5\0\0"),
    "an error, simple": _simple(5, 0),
    "a short one": _chunk(1, bytes(4095)),
    "a long one": _chunk(1, bytes(4097)),
    "from elsewhere": _chunk(1, bytes(4096), offset_off=1),
    "another's": _chunk(1, bytes(4096), own=False),
    "a short hole": _chunk(2, struct.pack(">I", 4095)),
    "nothing": _chunk(0, b""),
    "block status": _chunk(5, bytes(12)),
    "rubbish": lambda *_: bytes(4116),
}


@pytest.fixture
def loaded(tmp_path):
    """Return what runs the client on a server that gives these answers."""
    program = Workshop(tmp_path).compiled("load", core=False)

    def run(answers, seconds):
        path = tmp_path / "socket"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            server = threading.Thread(target=_answer, args=(listener, answers))
            server.start()
            words = [program, path, "seq", "4096", "1", "1", seconds]
            done = subprocess.run(words, capture_output=True, text=True)
            server.join()
        return done

    return run


def test_client_takes_what_is_right(loaded):
    halves = [_chunk(1, bytes(4096), done=False), _chunk(0, b"")]

    def both(cookie, offset):
        return b"".join(one(cookie, offset) for one in halves)

    for answer in (
        _simple(),
        _chunk(1, bytes(4096)),
        _chunk(2, struct.pack(">I", 4096)),
        both,
    ):
        done = loaded(itertools.repeat(answer), "0")
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) > 0


@pytest.mark.parametrize("what", WRONG)
def test_client_fails_on_a_wrong_reply(loaded, what):
    done = loaded([WRONG[what]], "60")
    assert done.returncode == 1
    assert done.stderr.startswith("load: ")
    assert not done.stdout
