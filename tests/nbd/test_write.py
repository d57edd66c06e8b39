# SPDX-License-Identifier: Apache-2.0
"""test_write - what clients write: what is told to them, read back, and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import disks, programs, stamps
from tests.nbd.disks import FORMS, MIB
from tests.running import Export, ServerFailed
from tests.stacks import SIZE, Image
from tests.tools import PLUGIN, requires

Served = Callable[..., Export]

pytestmark = requires("nbdinfo", "nbdcopy", "python3-libnbd")

ABILITIES = ["can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero"]


@pytest.fixture(params=FORMS)
def keys(request: pytest.FixtureRequest, image: Image, tmp_path: Path) -> list[str]:
    """The keys for a new upper over the stack, in either form."""
    upper = tmp_path / "upper"
    return [f"config={image.config}", f"upper={upper}", f"form={request.param}"]


def test_abilities(served: Served, keys: list[str]) -> None:
    facts = programs.facts(served(*keys).uri)
    assert facts["is_read_only"] is False
    assert facts["can_multi_conn"] is True
    assert [facts[name] for name in ABILITIES] == [True] * 5
    assert facts["block_size_minimum"] == 1
    assert facts["export-size"] == SIZE


def test_new_upper_reads_as_what_is_below(
    served: Served, keys: list[str], image: Image
) -> None:
    assert disks.content(served(*keys)) == image.disk


@pytest.mark.parametrize(
    "more",
    [["readonly=true"], ["readonly=true", "export=x"], []],
    ids=["key", "named", "option"],
)
def test_only_to_read(served: Served, keys: list[str], more: list[str]) -> None:
    first = served(*keys)
    programs.libnbd("h.connect_uri(sys.argv[1])\nh.pwrite(b'x' * 512, 0)", first.uri)
    first.stop()
    export = served(*keys, *more, options=[] if more else ["--readonly"])
    assert programs.facts(export.uri)["is_read_only"] is True
    assert disks.content(export)[:512] == b"x" * 512
    script = (
        "h.set_strict_mode(0)\n"
        "h.connect_uri(sys.argv[1])\n"
        "try:\n"
        "    h.pwrite(bytes(512), 0)\n"
        "except nbd.Error as error:\n"
        "    print(error.errno)\n"
    )
    assert programs.libnbd(script, export.uri).strip() == b"EPERM"


WRITES = """
import random
chance, h2 = random.Random(3), nbd.NBD()
h.connect_uri(sys.argv[1])
h2.connect_uri(sys.argv[1])
size = h.get_size()
model = bytearray(h.pread(size, 0))
def write(at, data, flags=0):
    h.pwrite(data, at, flags)
    model[at : at + len(data)] = data
def clear(call, at, n, *flags):
    call(n, at, *flags)
    model[at : at + n] = bytes(n)
for n in (1, 2, 511, 512, 513, 4095, 4096, 70_001):
    for at in (0, 1, 511, 512, 600, size - n, 65536 - n // 2):
        write(at, chance.randbytes(n), nbd.CMD_FLAG_FUA if n % 2 else 0)
        assert h2.pread(n, at) == model[at : at + n], (n, at)
for at, n in ((3, 5), (100_000, 1), (200_000, 70_001), (size - 7, 7)):
    clear(h.zero, at, n)
for flag in (nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO):
    clear(h.zero, 300_000 + flag * 4096, 9000, flag)
clear(h.trim, 1 << 20, 1 << 20)
clear(h2.trim, 3 << 20, 4096, nbd.CMD_FLAG_FUA)
h.trim(1000, (2 << 20) + 100)
model[(2 << 20) + 512 : (2 << 20) + 1024] = bytes(512)
assert h2.pread(size, 0) == model
open(sys.argv[2], "wb").write(model)
"""


def test_odd_sizes_and_places(served: Served, keys: list[str], tmp_path: Path) -> None:
    """Every size and alignment, from two connections; the end makes it durable."""
    export, model = served(*keys), tmp_path / "model"
    programs.libnbd(WRITES, export.uri, str(model))
    assert disks.content(export) == model.read_bytes()
    assert export.stop() == 0
    assert export.log() == ""
    reopened = served(*keys)
    assert disks.content(reopened) == model.read_bytes()
    reopened.stop()
    # The folder's own configuration is the whole image, too.
    config = tmp_path / "upper" / "config.v1.json"
    again = served(f"config={config}", "readonly=true")
    assert disks.content(again) == model.read_bytes()


def test_upper_that_the_image_names(
    served: Served, keys: list[str], tmp_path: Path
) -> None:
    served(*keys).stop()
    config = f"config={tmp_path / 'upper' / 'config.v1.json'}"
    assert programs.facts(served(config).uri)["is_read_only"] is True


def test_writing_to_the_upper_that_the_image_names(
    served: Served, keys: list[str], tmp_path: Path
) -> None:
    served(*keys).stop()
    config = f"config={tmp_path / 'upper' / 'config.v1.json'}"
    script = "h.connect_uri(sys.argv[1])\nh.pwrite(b'y' * 700, 300)\nh.flush()"
    export = served(config, "readonly=false")
    programs.libnbd(script, export.uri)
    export.stop()
    assert disks.content(served(config))[300:1000] == b"y" * 700


def test_folder_of_images(
    served: Served, keys: list[str], tmp_path: Path, image: Image
) -> None:
    """With readonly=false those that have an upper are writable."""
    served(*keys).stop()
    (tmp_path / "base.obd").symlink_to(image.layers[0])
    for word, is_read_only in (("true", True), ("false", False)):
        export = served(f"dir={tmp_path}", f"readonly={word}")
        facts = programs.facts(export.uri_of("upper"))
        assert facts["is_read_only"] is is_read_only
        assert programs.facts(export.uri_of("base"))["is_read_only"] is True
        export.stop()


EXTENTS = """
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
h.pwrite(bytes([1]) * 8192, 0)
h.zero(4096, 8192)
h.trim(4096, 12288)
h.zero(4096, 16384, nbd.CMD_FLAG_NO_HOLE)
h.pwrite(bytes([1]) * 512, 20480 + 512)
found = []
def take(context, offset, entries, error):
    found.extend(zip(entries[::2], entries[1::2]))
h.block_status(24576, 0, take)
print(found)
"""


def test_extents_after_writes(served: Served, tmp_path: Path) -> None:
    lower = tmp_path / "lower.lsmt"
    disk = disks.lower(lower, MIB)
    assert any(disk[8192:24576])
    for form in FORMS:
        upper = f"upper={tmp_path / form}"
        uri = served(f"config={lower}", upper, f"form={form}").uri
        found = programs.libnbd(EXTENTS, uri).decode().strip()
        assert found == "[(8192, 0), (12288, 3), (4096, 0)]"


@pytest.mark.parametrize("form", FORMS)
def test_storm(served: Served, tmp_path: Path, form: str) -> None:
    """Four connections, each reads what it wrote; at the end all of it is there."""
    lower, upper = tmp_path / "lower.lsmt", tmp_path / "upper"
    before = disks.lower(lower, 16 * MIB)
    keys = (f"config={lower}", f"upper={upper}", f"form={form}", "garbage=1M")
    export = served(*keys)
    rows = programs.storm(tmp_path, export.uri, requests=2000)
    assert export.stop() == 0
    verdict = stamps.judge(before, rows, disks.content(served(*keys)))
    assert (verdict.wrong, verdict.lost) == ([], 0)


def test_second_writer_is_told_who_writes(served: Served, keys: list[str]) -> None:
    first = served(*keys)
    with pytest.raises(ServerFailed) as failed:
        served(*keys)
    text = str(failed.value)
    assert f"in use by process {first.process.pid} (" in text
    assert "Traceback" not in text
    with pytest.raises(ServerFailed, match="in use by process"):
        served(*keys, "readonly=true")
    first.kill()
    served(*keys)


def test_in_the_background(served: Served, keys: list[str], tmp_path: Path) -> None:
    """The lock goes with the child that stays, and the end makes all durable."""
    pid = tmp_path / "child"
    command = [*keys, "--pidfile", str(pid)]
    script = "h.connect_uri(sys.argv[1])\nh.pwrite(b'z' * 4096, 0)"
    socket = tmp_path / "background"
    words = ["-U", str(socket), "python", str(PLUGIN), *command]
    programs.output("nbdkit", *words)
    try:
        programs.libnbd(script, f"nbd+unix:///?socket={socket}")
        with pytest.raises(ServerFailed, match=f"process {pid.read_text().strip()} "):
            served(*keys)
    finally:
        child = os.pidfd_open(int(pid.read_text()))
        os.kill(int(pid.read_text()), 15)
    programs.wait_for_end(child)
    assert disks.content(served(*keys))[:4096] == b"z" * 4096
