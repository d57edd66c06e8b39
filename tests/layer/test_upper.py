# SPDX-License-Identifier: Apache-2.0
"""
test_upper - the files of a writable layer: overlaybd's, ours, damaged, locked.

What overlaybd wrote is in the golden images; what ours mean by its rules, the
twin says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from obdengine.device import Device
from obdengine.errors import (
    BadHeader,
    BadMagic,
    Busy,
    ObdError,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.layer import (
    Upper,
    UpperOptions,
    create_upper,
    journal,
    map_path,
    open_layer,
    open_upper,
)
from obdengine.segment import Segment
from obdengine.units import KIB, SECTOR
from tests.twins import stack, upper
from tests.twins.record import PADDING_START, pack_one

SECTORS = 2000
SIZE = SECTORS * SECTOR
UUID = "0123abcd-0000-4000-8000-00000000000a"
PARENT = "ffffffff-0000-4000-8000-00000000000b"
FORMS = ["append", "sparse"]


class Files:
    """Where the files of an upper are."""

    def __init__(self, folder: Path, form: str) -> None:
        self.form = form
        self.data = folder / "u.data"
        self.given = folder / "u.index" if form == "append" else None
        self.index = self.given or map_path(self.data)
        create_upper(
            self.data,
            self.given,
            virtual_size=SIZE,
            form=form,
            uuid=UUID,
            parent_uuid=PARENT,
        )

    def open(self, **more: bool) -> Upper:
        return open_upper(self.data, self.given, **more)

    def device(self) -> Device:
        return Device([], "disk", self.open())

    def by_twin(self) -> bytes:
        """Return the disk that the twin makes of the files."""
        disk = bytearray(SIZE)
        found = upper.open_upper(self.data.read_bytes(), self.index.read_bytes())
        stack.paint(disk, found)
        return bytes(disk)

    def append_record(self, raw: bytes) -> None:
        with self.index.open("ab") as file:
            file.write(raw)


@pytest.fixture(params=FORMS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(tmp_path, request.param)


def write(device: Device, disk: bytearray, chance: Random, count: int) -> None:
    for _ in range(count):
        start = chance.randrange(SECTORS)
        length = min(chance.randint(1, 60), SECTORS - start)
        where = slice(start * SECTOR, (start + length) * SECTOR)
        if chance.random() < 0.3:
            device.discard(where.start, length * SECTOR)
            disk[where] = bytes(length * SECTOR)
        else:
            disk[where] = chance.randbytes(length * SECTOR)
            device.pwrite(where.start, disk[where])
        if chance.random() < 0.1:
            device.flush()


# -- What overlaybd wrote


def digest(device: Device) -> str:
    return hashlib.sha256(device.pread(0, device.size)).hexdigest()


@pytest.mark.parametrize("number", [0, 1])
def test_golden(golden: Path, tmp_path: Path, number: int) -> None:
    source = golden / "blocks-a"
    expected = json.loads((source / "expected.json").read_text())
    layer = expected["layers"][number]
    data, index = (tmp_path / name for name in layer["rw"])
    for path in (data, index):
        shutil.copyfile(source / path.name, path)
    before = data.read_bytes(), index.read_bytes()

    with Device([], "golden", open_upper(data, index, readonly=True)) as device:
        assert digest(device) == layer["alone_sha256"]
        assert device.upper
        facts = device.upper.facts()
        assert facts.damaged == device.upper.torn == 0
        assert (facts.padding > 0) == (number == 1)
    disk = bytearray(expected["virtual_size"])
    stack.paint(disk, upper.open_upper(*before))
    assert hashlib.sha256(disk).hexdigest() == layer["alone_sha256"]
    with Device([], "golden", open_upper(data, index)) as device:
        assert digest(device) == layer["alone_sha256"]
    assert (data.read_bytes(), index.read_bytes()) == before
    with Device([], "golden", open_upper(data, index)) as device:
        device.pwrite(12345 * SECTOR, b"x" * 4096)
        device.discard(0, 1 << 20)
    disk[12345 * SECTOR : 12345 * SECTOR + 4096] = b"x" * 4096
    disk[: 1 << 20] = bytes(1 << 20)
    again = bytearray(len(disk))
    stack.paint(again, upper.open_upper(data.read_bytes(), index.read_bytes()))
    assert again == disk


def test_sparse_file_without_a_map(tmp_path: Path) -> None:
    """As overlaybd writes it: what is no hole counts."""
    files = Files(tmp_path, "sparse")
    files.index.unlink()
    with files.data.open("r+b") as file:
        for start in (8, 80, 800):
            file.seek(4096 + start * SECTOR)
            file.write(b"a" * 4096)
    for readonly in (True, False, True):
        opened = files.open(readonly=readonly)
        assert opened.guessed == (readonly is False or not files.index.exists())
        with Device([], "disk", opened) as device:
            found = device.pread(0, SIZE)
            assert found.count(b"a") == 3 * 4096
            assert found[80 * SECTOR :][:4096] == b"a" * 4096
            extents = [(e.offset, e.layer) for e in device.extents()]
            assert (0, None) in extents
    assert files.by_twin() == found


# -- Ours


def test_what_is_written_is_what_others_read(files: Files) -> None:
    disk = bytearray(SIZE)
    for seed in range(5):
        with files.device() as device:
            assert device.pread(0, SIZE) == disk
            write(device, disk, Random(seed), 60)
            if seed == 3:
                device.compact_index()
        assert files.by_twin() == disk


def test_facts(files: Files) -> None:
    opened = files.open()
    assert (opened.form, opened.virtual_size) == (files.form, SIZE)
    assert (opened.uuid, opened.parent_uuid) == (UUID, PARENT)
    assert not opened.readonly
    assert opened.facts().records == 0
    opened.close()
    opened.close()


def test_copies_with_other_holes_are_the_same_disk(
    files: Files, tmp_path: Path
) -> None:
    disk = bytearray(SIZE)
    with files.device() as device:
        write(device, disk, Random(1), 100)
    for path in (files.data, files.index):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)  # as cat does: no holes at all
    with files.device() as device:
        assert device.pread(0, SIZE) == disk
        assert device.upper
        assert not device.upper.guessed
    subprocess.run(["fallocate", "--dig-holes", files.data], check=True)
    with files.device() as device:
        assert device.pread(0, SIZE) == disk


def test_sealed_is_a_layer(files: Files) -> None:
    disk = bytearray(SIZE)
    with files.device() as device:
        write(device, disk, Random(2), 60)
        assert device.upper
        device.upper.seal()
    layer = open_layer(files.data)
    assert (layer.kind, layer.virtual_size) == ("sealed", SIZE)
    assert (layer.uuid, layer.parent_uuid) == (UUID, PARENT)
    with Device([layer], "sealed") as device:
        assert device.pread(0, SIZE) == disk
    alone = stack.open_stream(files.data.read_bytes())
    found = bytearray(SIZE)
    stack.paint(found, alone)
    assert found == disk


def test_seal_that_is_undone(files: Files) -> None:
    disk = bytearray(SIZE)
    with files.device() as device:
        write(device, disk, Random(3), 60)
        size = files.data.stat().st_size
        assert device.upper
        device.upper.seal()
        device.upper.unseal()
        assert files.data.stat().st_size == size
        write(device, disk, Random(4), 60)
    assert files.by_twin() == disk


# -- Damage


def test_records_that_do_not_count(files: Files) -> None:
    disk = bytearray(SIZE)
    with files.device() as device:
        write(device, disk, Random(5), 30)
    after = files.data.stat().st_size // SECTOR
    for segment in (
        Segment(0, 0, 0),
        Segment(SECTORS - 1, 2, 8),
        Segment(SECTORS, 1, 8, zeroed=True),
        Segment(5, 1, 7),
        Segment(5, 1, after),
        Segment(PADDING_START, 0, 0),
    ):
        files.append_record(pack_one(segment))
    files.append_record(b"half of")
    with Device([], "disk", files.open(readonly=True)) as device:
        assert device.pread(0, SIZE) == disk
    with files.device() as device:
        assert device.upper
        facts = device.upper.facts()
        assert (facts.empty, facts.beyond_disk, facts.dangling) == (1, 2, 2)
        assert (facts.damaged, facts.padding, device.upper.torn) == (5, 1, 7)
        assert device.pread(0, SIZE) == disk
        write(device, disk, Random(6), 30)
    with files.device() as device:
        assert device.upper
        assert (device.upper.facts().damaged, device.upper.torn) == (0, 0)
        assert device.pread(0, SIZE) == disk
    assert files.by_twin() == disk


@pytest.mark.parametrize("form", FORMS)
def test_index_cut_anywhere(tmp_path: Path, form: str) -> None:
    """Each length is a state in the past, or one with half a record more."""
    files, disk = Files(tmp_path, form), bytearray(SIZE)
    past = [bytes(disk)]
    with files.device() as device:
        for number in range(8):
            disk[number * 512 : number * 512 + 512] = bytes([number + 1]) * 512
            device.pwrite(number * 512, bytes([number + 1]) * 512)
            past.append(bytes(disk))
            device.flush()
    whole, data = files.index.read_bytes(), files.data.read_bytes()
    for size in range(4096, len(whole) + 1):
        files.index.write_bytes(whole[:size])
        files.data.write_bytes(data)
        with files.device() as device:
            assert device.pread(0, SIZE) == past[(size - 4096) // 16]


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_the_index(files: Files, seed: int) -> None:
    """It opens, reads, and is whole after one opening, whatever is in there."""
    chance = Random(seed)
    with files.device() as device:
        write(device, bytearray(SIZE), chance, 30)
    raw = bytearray(files.index.read_bytes())
    for _ in range(10):
        at = chance.randrange(4096, len(raw) - 16)
        raw[at : at + chance.randint(1, 16)] = chance.randbytes(chance.randint(1, 16))
    files.index.write_bytes(raw)
    with files.device() as device:
        found = device.pread(0, SIZE)
    with files.device() as device:
        assert device.upper
        assert device.upper.facts().damaged == device.upper.torn == 0
        assert device.pread(0, SIZE) == found
    assert files.by_twin() == found


# -- Refusals


def change(path: Path, at: int, code: str, value: int | bytes) -> None:
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + code, raw, at, value)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("at", "code", "value", "kind"),
    [
        (0, "8s", b"LSMT\0\1\2\1", BadMagic),
        (10, "B", 9, BadMagic),
        (24, "I", 391, BadHeader),
        (28, "I", 7, Unsupported),
        (28, "I", 35, Unsupported),
        (48, "Q", 0, BadHeader),
        (48, "Q", 513, BadHeader),
        (48, "Q", 1 << 60, BadHeader),
        (56, "8s", b"ffffffff", BadHeader),
    ],
)
@pytest.mark.parametrize("which", ["data", "index"])
def test_headers(
    files: Files, which: str, at: int, code: str, value: int | bytes, kind: type
) -> None:
    change(getattr(files, which), at, code, value)
    for readonly in (True, False):
        with pytest.raises(kind) as raised:
            files.open(readonly=readonly)
        assert raised.value.hint is None or isinstance(raised.value.hint, str)
    # It let go of the lock.
    change(getattr(files, which), 0, "24s", b"")
    assert not locked(files)


def locked(files: Files) -> bool:
    try:
        files.open().close()
    except Busy:
        return True
    except ObdError:
        return False
    return False


def test_cut_headers(files: Files) -> None:
    for path in (files.data, files.index):
        whole = path.read_bytes()
        for size in (0, 10, 24, 4095):
            path.write_bytes(whole[:size])
            with pytest.raises((BadHeader, BadMagic)):
                files.open()
        path.write_bytes(whole)
    files.open().close()


def test_missing_files(tmp_path: Path) -> None:
    files = Files(tmp_path, "append")
    with pytest.raises(UsageError):
        open_upper(files.data, None)
    files.index.unlink()
    with pytest.raises(SourceMissing):
        files.open()
    with pytest.raises(SourceMissing):
        open_upper(tmp_path / "no", files.index)
    with pytest.raises(ObdError):
        open_upper(tmp_path, files.index)


@pytest.mark.parametrize("size", [0, -512, 100, 513, 1 << 60])
def test_sizes(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError):
        create_upper(tmp_path / "d", tmp_path / "i", virtual_size=size)
    assert not list(tmp_path.iterdir())


def test_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        create_upper(tmp_path / "d", tmp_path / "i", virtual_size=512, form="hybrid")
    with pytest.raises(UsageError):
        create_upper(tmp_path / "d", tmp_path / "i", virtual_size=512, uuid="me")


# -- One writer

OTHER = """
import sys
from pathlib import Path
from obdengine.layer import open_upper
data, index = Path(sys.argv[1]), Path(sys.argv[2])
upper = open_upper(data, index, readonly=sys.argv[3] == "reads")
print("open", flush=True)
sys.stdin.read()
"""


def other(files: Files, what: str) -> subprocess.Popen[str]:
    """Start a process that has the layer open, and wait until it has."""
    started = subprocess.Popen(
        [sys.executable, "-c", OTHER, files.data, files.index, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout
    assert started.stdout.readline() == "open\n"
    return started


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


@pytest.mark.parametrize("form", FORMS)
def test_second_writer_is_refused(tmp_path: Path, form: str) -> None:
    files = Files(tmp_path, form)
    process = other(files, "writes")
    for readonly in (False, True):
        with pytest.raises(Busy, match=f"process {process.pid} "):
            files.open(readonly=readonly)
    files.open(readonly=True, locked=False).close()
    process.kill()
    end(process)
    files.open().close()


@pytest.mark.parametrize("form", FORMS)
def test_readers_keep_writers_out(tmp_path: Path, form: str) -> None:
    files = Files(tmp_path, form)
    process = other(files, "reads")
    files.open(readonly=True).close()
    with pytest.raises(Busy, match=f"process {process.pid} "):
        files.open()
    end(process)
    files.open().close()


def test_second_writer_in_one_process(files: Files) -> None:
    with files.device(), pytest.raises(Busy, match=f"process {os.getpid()} "):
        files.open()
    files.open().close()


# -- Room


def test_busy_disk_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times overwritten, the file has the data and the allowance."""
    monkeypatch.setattr(journal, "SIZE", 64 * KIB)
    files = Files(tmp_path, "append")
    garbage = 100 * SECTOR
    device = Device(
        [],
        "disk",
        open_upper(files.data, files.given, options=UpperOptions(None, garbage)),
    )
    chance, disk = Random(9), bytearray(SIZE)
    for _ in range(20):
        for start in range(0, SECTORS, 10):
            piece = chance.randbytes(10 * SECTOR)
            disk[start * SECTOR : (start + 10) * SECTOR] = piece
            device.pwrite(start * SECTOR, piece)
            if start % 100 == 0:
                device.flush()
    # Between two flushes 100 sectors are written; garbage waits for two more.
    most = 4096 + SIZE + garbage + 4 * 100 * SECTOR
    # With a journal it is checkpoints that garbage waits for.
    most += 2 * journal.SIZE
    assert files.data.stat().st_size <= most
    assert device.pread(0, SIZE) == disk
    device.close()
    assert files.by_twin() == disk
