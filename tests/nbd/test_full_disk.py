# SPDX-License-Identifier: Apache-2.0
"""test_full_disk - ENOSPC reaches the client, loses nothing, and is not for ever."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nbd import disks, programs, stamps
from tests.nbd.disks import FORMS, MIB
from tests.nbd.stamps import Request
from tests.nbd.test_control import send
from tests.running import Export
from tests.tools import requires

Served = Callable[..., Export]

pytestmark = requires("nbdcopy", "python3-libnbd")

FLUSH = "h.connect_uri(sys.argv[1])\nh.flush()"
FLUSH_IF_ROOM = """\
h.connect_uri(sys.argv[1])
try:
    h.flush()
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
"""
TRIM = "h.connect_uri(sys.argv[1])\nh.trim(h.get_size(), 0)\nh.flush()"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB, 9 of which are taken by a file called filler."""
    folder = tmp_path / "small"
    folder.mkdir()
    programs.output("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder)
    try:
        (folder / "filler").write_bytes(bytes(9 * MIB))
        yield folder
    finally:
        programs.output("umount", "--lazy", folder)


def take_the_rest(folder: Path) -> None:
    """Leave the file system of a folder not one block."""
    rest = folder / "rest"
    with rest.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bfree == 0


class Disk:
    """A disk of 16 MiB whose upper has less room."""

    def __init__(self, served: Served, folder: Path, *keys: str) -> None:
        self.served, self.folder = served, folder
        self.before = disks.lower(folder / "lower.lsmt", 16 * MIB)
        self.keys = (f"config={folder / 'lower.lsmt'}", *keys)

    def start(self) -> Export:
        return self.served(*self.keys)

    def fill(self, export: Export, seed: int, connections: int = 4) -> list[Request]:
        """Write until much was refused; what was not is there."""
        plan = {"seed": seed, "requests": 1000, "connections": connections}
        rows = programs.storm(self.folder, export.uri, full=1, **plan)
        refused = [row for row in rows if row.done is None]
        assert len(refused) > 20
        self.judge(rows, disks.content(export))
        return rows

    def judge(self, rows: list[Request], found: bytes) -> None:
        verdict = stamps.judge(self.before, rows, found)
        assert not verdict.wrong, verdict.wrong[:5]

    def go_on(self, export: Export) -> None:
        """Write as if nothing had been, crash, and find it all."""
        programs.libnbd(FLUSH, export.uri)
        self.before = disks.content(export)
        # Beside what is there, what four requests bring has to fit.
        size = MIB
        rows = programs.storm(self.folder, export.uri, seed=9, requests=300, size=size)
        programs.libnbd(FLUSH, export.uri)
        content = disks.content(export)
        export.kill()
        found = disks.content(self.start())
        assert found == content
        self.judge(rows, found)


@requires("root", "mount")
@pytest.mark.parametrize("form", FORMS)
def test_host_is_full(served: Served, tmp_path: Path, small: Path, form: str) -> None:
    disk = Disk(served, tmp_path, f"upper={small / 'upper'}", f"form={form}")
    export = disk.start()
    disk.fill(export, 1)
    (small / "filler").unlink()
    disk.go_on(export)


@requires("root", "mount")
@pytest.mark.parametrize("form", FORMS)
def test_crash_while_the_host_is_full(
    served: Served, tmp_path: Path, small: Path, form: str
) -> None:
    disk = Disk(served, tmp_path, f"upper={small / 'upper'}", f"form={form}")
    export = disk.start()
    rows = disk.fill(export, 2)
    export.kill()
    again = disk.start()
    disk.judge(rows, disks.content(again))
    disk.before = disks.content(again)
    disk.fill(again, 3)
    (small / "filler").unlink()
    disk.go_on(again)


@pytest.mark.parametrize(
    "more", [["garbage=0"], ["garbage=1G"], ["form=sparse"]], ids=lambda more: more[0]
)
def test_limit_of_the_upper(served: Served, tmp_path: Path, more: list[str]) -> None:
    """The file never passes max-size; a trim makes room."""
    upper, control = tmp_path / "upper", tmp_path / "control"
    keys = (f"upper={upper}", f"control={control}", "max-size=3M", *more)
    disk = Disk(served, tmp_path, *keys)
    export = disk.start()
    # In sparse form, requests that run at the same time may pass it together.
    disk.fill(export, 4, connections=1)
    found = send(control, "GET /stats")[1]["upper"]
    assert found["stored"] < 3 * MIB
    if found["form"] == "append":
        assert disks.upper_data(upper).stat().st_size <= 3 * MIB
    programs.libnbd(TRIM, export.uri)
    disk.go_on(export)


def test_limit_is_kept_with_the_upper(served: Served, tmp_path: Path) -> None:
    """What a new upper was told is so when it is opened without a word."""
    upper = tmp_path / "upper"
    disk = Disk(served, tmp_path, f"upper={upper}")
    served(*disk.keys, "max-size=3M").stop()
    disk.fill(disk.start(), 5)
    assert disks.upper_data(upper).stat().st_size <= 3 * MIB


@requires("root", "mount")
def test_no_room_for_a_snapshot(served: Served, tmp_path: Path, small: Path) -> None:
    control = tmp_path / "control"
    disk = Disk(served, tmp_path, f"upper={small / 'upper'}", f"control={control}")
    export = disk.start()
    disk.fill(export, 6)
    # What was refused was large, and a flush frees garbage: less has room.
    programs.libnbd(FLUSH_IF_ROOM, export.uri)
    take_the_rest(small)
    for order in ("snapshot", "compact"):
        status, reply = send(control, f"POST /{order}")
        assert status == 507, reply
        assert re.search("no room left|No space left", reply["message"])
    (small / "rest").unlink()
    (small / "filler").unlink()
    status, reply = send(control, "POST /snapshot")
    assert status == 200, reply
    disk.go_on(export)


FILL_AND_OVERWRITE = """\
h.connect_uri(sys.argv[1])
step, full = 64 << 10, 0
try:
    while True:
        h.pwrite(b"a" * step, full)
        full += step
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
assert 2 << 20 < full < 3 << 20, full
for round in range(5):
    for at in range(0, full, step):
        h.pwrite(bytes([round]) * step, at)
    h.pwrite(bytes([round + 100]) * full, 0)
assert h.pread(full, 0) == bytes([104]) * full
try:
    h.pwrite(b"b" * 2 * step, full)
    raise AssertionError("there was no limit")
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
h.flush()
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_written_over(served: Served, tmp_path: Path, form: str) -> None:
    """As a guest does whose file system is full; nothing is discarded first."""
    upper = tmp_path / "upper"
    disk = Disk(served, tmp_path, f"upper={upper}", "max-size=3M", f"form={form}")
    export = disk.start()
    programs.libnbd(FILL_AND_OVERWRITE, export.uri)
    if form == "append":
        assert disks.upper_data(upper).stat().st_size <= 3 * MIB
    export.kill()
    assert disks.content(disk.start())[: 2 * MIB] == bytes([104]) * 2 * MIB
