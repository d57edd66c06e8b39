# SPDX-License-Identifier: Apache-2.0
"""test_vm_images - image files that are refused, and the reasons that are given."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from obdengine.errors import (
    Busy,
    FormatError,
    ObdError,
    SourceError,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.ops.disks import RawDisk
from obdengine.ops.vm_images import is_vm_image
from obdengine.ops.vm_import import import_file
from tests.ops import images, vm_files
from tests.ops.vm_files import KIB, MIB, qemu_img
from tests.tools import tool

pytestmark = vm_files.NEEDED

DISK = images.random_disk(Random(31), 700)

# Where a qcow2 header has its incompatible features: the lowest byte.
FEATURES = 79


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.sparse(tmp_path / "disk.raw", DISK)


@pytest.fixture
def qcow2(raw: Path, tmp_path: Path) -> Path:
    return vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")


def patch(path: Path, offset: int, data: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("bit", "what"),
    [
        (0, "marked as dirty"),
        (1, "marked as corrupt"),
        (2, "whose name is not recorded"),
        (6, "Unknown incompatible feature"),
    ],
)
def test_marks(qcow2: Path, bit: int, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        vm_files.chain(patch(qcow2, FEATURES, bytes([1 << bit])))


def test_damaged_tables(qcow2: Path) -> None:
    (table,) = {int.from_bytes(qcow2.read_bytes()[40:48], "big")}
    first = int.from_bytes(qcow2.read_bytes()[table : table + 8], "big") & (1 << 56) - 1
    patch(qcow2, first + 8, b"\x80\0\0\0\x7f\0\0\0")
    with pytest.raises(FormatError, match="errors in it"):
        vm_files.chain(qcow2)


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed"])
@pytest.mark.parametrize("left", [0.2, 0.8])
def test_cut_short(tmp_path: Path, form: str, left: float) -> None:
    raw = images.full(tmp_path / "disk.raw", Random(1).randbytes(8 * MIB))
    path = vm_files.write(raw, tmp_path / "disk", form)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * left))
    with pytest.raises(ObdError) as caught:
        vm_files.chain(path, form=form)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [1, 512, 4096])
def test_last_cluster_cut_short(tmp_path: Path, cut: int) -> None:
    """Here qemu itself reads zeros."""
    raw = images.full(tmp_path / "disk.raw", Random(1).randbytes(MIB))
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - cut)
    with pytest.raises(FormatError, match="cut short") as caught:
        vm_files.chain(path)
    assert caught.value.found == size - cut


def test_data_file_cut_short(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "disk.data"
    path = tmp_path / "disk.qcow2"
    vm_files.write(raw, path, "qcow2", f"data_file={data}")
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)
    with pytest.raises(FormatError, match="cut short") as caught:
        vm_files.chain(path)
    assert caught.value.name == str(data)


def test_last_cluster_that_is_short_by_right(tmp_path: Path) -> None:
    """The file of a disk of odd size, or with compressed clusters, may end early."""
    disk = Random(1).randbytes(65536 * 3 + 512 * 7)
    raw = images.full(tmp_path / "disk.raw", disk)
    for words in ((), ("-c",)):
        path = tmp_path / "disk.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *words, raw, path)
        assert import_file(vm_files.whole(path), tmp_path / "x.obd").data_size


@pytest.mark.parametrize("name", ["disk.data", "backing.raw"])
def test_missing_files(raw: Path, tmp_path: Path, name: str) -> None:
    path, other = tmp_path / "disk.qcow2", tmp_path / name
    if name == "disk.data":
        qemu_img("create", "-qf", "qcow2", "-o", f"data_file={other}", path, MIB)
        other.unlink()
    else:
        words = ("-b", other.name, "-F", "raw", path, MIB)
        qemu_img("create", "-q", "-f", "qcow2", "-u", *words)
    with pytest.raises(SourceMissing, match=f"{other} is missing"):
        vm_files.chain(path)


def unrecorded(path: Path, below: Path) -> Path:
    """Make a qcow2 over below that does not say of which format that is."""
    vm_files.overlay(path, below, "qcow2")
    extension = 0xE2792ACA.to_bytes(4, "big")
    return patch(path, path.read_bytes().index(extension), b"\x12\x34\x56\x78")


def test_format_that_is_not_recorded(qcow2: Path, tmp_path: Path) -> None:
    path = unrecorded(tmp_path / "top.qcow2", qcow2)
    with pytest.raises(Unsupported, match="does not record the format") as caught:
        vm_files.chain(path)
    assert "looks like qcow2" in str(caught.value)
    assert "--backing-format" in str(caught.value)
    found = vm_files.chain(path, backing_form="qcow2")
    assert [file.form for file in found] == ["qcow2", "qcow2"]
    # The guest of a raw disk can make it look like anything.
    found = vm_files.chain(path, backing_form="raw")
    assert found[0].size == -(-qcow2.stat().st_size // 512) * 512


@pytest.mark.parametrize(
    "name",
    [
        "nbd://localhost/x",
        "https://host/disk.raw",
        "ssh://host/disk.raw",
        'json:{"driver":"nbd","path":"/x"}',
        'json:{"driver":"raw","file":{"driver":"nbd","path":"/x"}}',
        'json:{"driver":"raw","file":{"driver":"file","filename":5}}',
        'json:{"driver":"quorum","children":[]}',
        'json:{"driver":"raw","file":"node"}',
        "json:[]",
        "json:{",
        'json:{"driver":"raw","file":{"driver":"ssh","filename":"/etc/passwd"}}',
        'json:{"driver":"nonsense","file":{"driver":"file","filename":"/etc/passwd"}}',
    ],
)
def test_names_that_are_no_files_here(tmp_path: Path, name: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, MIB)
    with pytest.raises(Unsupported):
        vm_files.chain(path)


def test_circle(tmp_path: Path) -> None:
    one, other = tmp_path / "one.qcow2", tmp_path / "other.qcow2"
    for path, below in ((one, other), (other, one)):
        words = ("-b", below, "-F", "qcow2", path, MIB)
        qemu_img("create", "-q", "-f", "qcow2", "-u", *words)
    with pytest.raises(FormatError, match="circle"):
        vm_files.chain(one)


# -- Secrets


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("qcow2", vm_files.LUKS, "LUKS"),
        ("qcow2", vm_files.AES, "AES"),
        ("luks", "key-secret=s,iter-time=10", "LUKS"),
    ],
)
def test_encrypted(
    raw: Path, tmp_path: Path, form: str, options: str, name: str
) -> None:
    key = vm_files.secret(tmp_path / "key")
    path = vm_files.encrypted(tmp_path / "disk", raw, key, form, options)
    with pytest.raises(Unsupported, match=f"encrypted with {name}") as caught:
        vm_files.chain(path)
    assert "--secret" in str(caught.value)
    if name == "LUKS":  # the old AES cannot tell
        wrong = vm_files.secret(tmp_path / "wrong", "another")
        with pytest.raises(UsageError, match="Invalid password"):
            import_file(vm_files.whole(path, secret=wrong), tmp_path / "x.obd")


def test_secret_for_nothing(qcow2: Path, tmp_path: Path) -> None:
    key = vm_files.secret(tmp_path / "key")
    with pytest.raises(UsageError, match="nothing is encrypted"):
        vm_files.chain(qcow2, secret=key)


# -- Used by others


@contextmanager
def in_use(path: Path, form: str) -> Iterator[None]:
    """Have a qemu-io hold an image file open for writing, as a machine does."""
    with subprocess.Popen(
        [tool("qemu-io"), "-f", form, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("write 0 512\n")
        process.stdin.flush()
        for line in process.stdout:
            if "ops/sec" in line:
                break
        try:
            yield
        finally:
            process.kill()


def test_in_use(raw: Path, qcow2: Path, tmp_path: Path) -> None:
    top = vm_files.overlay(tmp_path / "top.qcow2", qcow2, "qcow2")
    with in_use(qcow2, "qcow2"):
        for path in (qcow2, top):
            with pytest.raises(Busy, match=f"{qcow2}: another process"):
                vm_files.chain(path)
    with in_use(raw, "raw"), pytest.raises(Busy):
        RawDisk(raw)
    RawDisk(raw).close()
    assert len(vm_files.chain(top)) == 2


def test_lock_while_it_is_read(qcow2: Path) -> None:
    """Nobody can begin to write to a file that is being read."""
    with vm_files.whole(qcow2).open(True):
        command = [tool("qemu-io"), "-f", "qcow2", "-c", "write 0 512", str(qcow2)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "lock" in done.stderr


# -- Other things than files


@pytest.mark.parametrize("size", [0, 3, 72, 103])
def test_short_header(tmp_path: Path, size: int) -> None:
    path = images.full(tmp_path / "disk.qcow2", b"QFI\xfb\0\0\0\3".ljust(200)[:size])
    with pytest.raises(FormatError, match="header"):
        vm_files.chain(path, form="qcow2")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        vm_files.chain(tmp_path / "nothing", form="qcow2")
    with pytest.raises(SourceError, match="neither"):
        vm_files.chain(tmp_path, form="qcow2")
    assert not is_vm_image(tmp_path)
    assert not is_vm_image(tmp_path / "nothing")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_headers(qcow2: Path, tmp_path: Path, seed: int) -> None:
    """Anything may come out but a hang and an error that is none of ours."""
    chance = Random(seed)
    for _ in range(chance.randint(1, 4)):
        patch(qcow2, chance.randrange(4, 200), chance.randbytes(chance.randint(1, 4)))
    try:
        import_file(vm_files.whole(qcow2, form="qcow2"), tmp_path / "x.obd")
    except ObdError:
        return
    # What is taken is read as qemu does.
    facts = json.loads(qemu_img("info", "-f", "qcow2", "--output=json", qcow2))
    assert facts["virtual-size"] >= 64 * KIB or facts["virtual-size"] % 512 == 0
