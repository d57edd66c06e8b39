# SPDX-License-Identifier: Apache-2.0
"""test_file_systems - ext4 and xfs on a writable layer: made, used, killed, checked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nbd import programs, tree, work
from tests.nbd.disks import FORMS, MIB
from tests.nbd.mounting import as_file, loop_device
from tests.running import Export
from tests.tools import environment, requires
from tests.twins import writer

Served = Callable[..., Export]

pytestmark = [
    requires("nbdfuse", "fuse", "root", "mount", "losetup", "loop", "unshare"),
    requires("mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair", "fstrim"),
]

# Bytes of the disk, how to make a file system on it, and how to check that.
KINDS: dict[str, tuple[int, list[str], list[str]]] = {
    "ext4": (96 * MIB, ["mkfs.ext4", "-q", "-F", "-b", "4096"], ["e2fsck", "-f", "-n"]),
    "xfs": (320 * MIB, ["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n"]),
}

# What to do, then: $folder is where it is mounted, in a mount namespace of its
# own, so that nothing stays mounted.
MOUNT = 'mount -t "$1" -o "$2" "$3" "$4"; folder=$4; shift 4; "$@"'
WORK = f'{MOUNT}; fstrim "$folder"; umount "$folder"'


class Machine:
    """A disk that is served from an upper, with a file system on it."""

    def __init__(self, served: Served, folder: Path, kind: str, form: str) -> None:
        self.served, self.folder, self.kind = served, folder, kind
        size, self.make, self.check = KINDS[kind]
        lower = folder / "lower.lsmt"
        lower.write_bytes(writer.lsmt([writer.Run(0, zeroed=8)], size))
        upper = f"upper={folder / 'upper'}"
        self.keys = [f"config={lower}", upper, f"form={form}", "garbage=8M"]
        self.mounted = folder / "mounted"
        self.mounted.mkdir()

    def shell(
        self, device: str, script: str, options: str, *words: str
    ) -> subprocess.Popen[bytes]:
        """Start a script that mounts the device."""
        command = ["unshare", "--mount", "sh", "-ec", script, "sh", self.kind, options]
        return subprocess.Popen(
            [*command, device, str(self.mounted), *words],
            stdout=subprocess.PIPE,
            env=environment(),
        )

    def output(self, device: str, script: str, options: str, *words: str) -> bytes:
        """Run one, which must succeed."""
        process = self.shell(device, script, options, *words)
        out, _ = process.communicate()
        assert process.returncode == 0
        return out

    def workers(self, seed: int, steps: int) -> list[str]:
        words = [work.__file__, str(self.mounted), str(seed), str(steps)]
        return [sys.executable, *words]

    def work(self, seed: int, steps: int) -> None:
        """Make a file system and work on files; nbdkit ends in good order."""
        export = self.served(*self.keys)
        with (
            as_file(export.uri, self.folder, writable=True) as disk,
            loop_device(disk, writable=True) as device,
        ):
            programs.output(*self.make, device)
            kept = self.output(device, WORK, "discard", *self.workers(seed, steps))
            before = self.look(device)
        assert export.stop() == 0
        assert self.reopen() == before
        self.judge(kept)

    def crash(self, seed: int, lines: int) -> None:
        """Kill nbdkit when so many files were kept, and find them all."""
        export = self.served(*self.keys)
        with (
            as_file(export.uri, self.folder, writable=True) as disk,
            loop_device(disk, writable=True) as device,
        ):
            if seed == 0:
                programs.output(*self.make, device)
            process = self.shell(device, MOUNT, "discard", *self.workers(seed, 100_000))
            assert process.stdout is not None
            kept = b"".join(process.stdout.readline() for _ in range(lines))
            export.kill()
            kept += process.communicate()[0]
        self.recover()
        self.judge(kept)

    def recover(self) -> None:
        """Mount it once, as a machine that starts again does."""
        export = self.served(*self.keys)
        with (
            as_file(export.uri, self.folder, writable=True) as disk,
            loop_device(disk, writable=True) as device,
        ):
            self.output(device, MOUNT, "discard", "true")
        assert export.stop() == 0

    def look(self, device: str) -> list[dict[str, Any]]:
        """Return the tree of a file system that was unmounted."""
        options = "ro,norecovery" if self.kind == "xfs" else "ro,noload"
        words = (sys.executable, tree.__file__, str(self.mounted))
        return list(json.loads(self.output(device, MOUNT, options, *words)))

    def reopen(self) -> list[dict[str, Any]]:
        """Check the file system before it is mounted, and return its tree."""
        config = self.folder / "upper" / "config.v1.json"
        export = self.served(f"config={config}")
        with as_file(export.uri, self.folder) as disk, loop_device(disk) as device:
            programs.output(*self.check, device)
            found = self.look(device)
        export.stop()
        return found

    def judge(self, kept: bytes) -> None:
        """Check the file system, and that all is there that was synced."""
        there = {item["path"]: item.get("sha256") for item in self.reopen()}
        lines = [line.split() for line in kept.decode().splitlines()]
        assert lines
        for _, path, digest in lines:
            assert there.get(path) == digest, path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_work(served: Served, tmp_path: Path, kind: str, form: str) -> None:
    Machine(served, tmp_path, kind, form).work(seed=1, steps=200)


@pytest.mark.parametrize(("kind", "form"), [("ext4", "append"), ("xfs", "sparse")])
def test_crash(served: Served, tmp_path: Path, kind: str, form: str) -> None:
    Machine(served, tmp_path, kind, form).crash(seed=0, lines=10)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_work_for_long(served: Served, tmp_path: Path, kind: str, form: str) -> None:
    machine = Machine(served, tmp_path, kind, form)
    machine.work(seed=2, steps=5000)
    for seed in range(6):
        machine.crash(seed, lines=20 + 10 * seed)
