# SPDX-License-Identifier: Apache-2.0
"""
rig - what runs the workload on a disk that loses its power, and has it judged.

Disks and logs are made in memory where there is some, because what they are
told to make durable need not be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple

from tests.power_fs import judge, plan
from tests.running import PATIENCE, run_obd
from tests.tools import environment, tool

HERE = Path(__file__).parent

MIB = 1 << 20


class System(NamedTuple):
    """A file system: kind as mount has it, bytes of a disk that is large enough."""

    kind: str
    size: int
    make: list[str]
    options: str = "defaults"


_EXT4 = ["mke2fs", "-q", "-F", "-t", "ext4"]

SYSTEMS = {
    "ext4": System("ext4", 64 * MIB, _EXT4),
    "xfs": System("xfs", 300 * MIB, ["mkfs.xfs", "-q", "-f"]),
}

# What else the host's kernel is asked for.
VARIANTS = {
    "ext4-small-blocks": System("ext4", 64 * MIB, [*_EXT4, "-b", "1024"]),
    "ext4-unordered": System("ext4", 64 * MIB, _EXT4, "data=writeback"),
    "ext4-journaled": System("ext4", 64 * MIB, _EXT4, "data=journal"),
    "btrfs": System("btrfs", 256 * MIB, ["mkfs.btrfs", "-q", "-f"]),
}


@dataclass(frozen=True)
class Job:
    """What is done to one disk.

    Attributes:
        folder: where its files are.
        name: of one of SYSTEMS or VARIANTS.
        form: of the writable layer.
        seed: of the plan.
        sittings: how often the image is opened.
        batches: of each hand, while it is open.
        alone: nobody else uses the file system.
    """

    folder: Path
    name: str
    form: str
    seed: int
    sittings: int = 3
    batches: int = 30
    alone: bool = False

    @property
    def system(self) -> System:
        """The file system on the disk."""
        return {**SYSTEMS, **VARIANTS}[self.name]

    @property
    def disk(self) -> Path:
        """The disk that is used."""
        return self.folder / "disk.img"

    @property
    def start(self) -> Path:
        """The disk as it was before."""
        return self.folder / "start.img"

    @property
    def log(self) -> Path:
        """The record of what the disk was told."""
        return self.folder / "disk.log"

    @property
    def diary(self) -> Path:
        """The claims, where they are no marks in the log."""
        return self.folder / "diary"

    @property
    def base(self) -> Path:
        """The layer below."""
        return self.folder / "base.obd"

    def prepare(self) -> None:
        """Make the disk, with a file system on it, and the layer below."""
        command = self.system.make
        self.disk.touch()
        os.truncate(self.disk, self.system.size)
        subprocess.run([tool(command[0]), *command[1:], self.disk], check=True)
        subprocess.run(["cp", "--sparse=always", self.disk, self.start], check=True)
        raw = self.folder / "base.raw"
        raw.write_bytes(plan.base_disk())
        run_obd("convert", raw, self.base)

    def command(self, image: str, *words: str) -> list[str]:
        """Return the workload's command; image: where its folder is."""
        numbers = {"seed": self.seed, "sittings": self.sittings}
        numbers["batches"] = self.batches
        options = [w for key, n in numbers.items() for w in (f"--{key}", str(n))]
        options += ["--base", str(self.base), "--form", self.form, *words]
        options += ["--alone"] if self.alone else []
        return [sys.executable, "-m", "tests.power_fs.workload", image, *options]

    def judge(self, states: int, folder: str = "image") -> judge.Verdict:
        """Judge the log, at so many states."""
        return self._judge(
            folder, disk=str(self.start), log=str(self.log), states=states
        )

    def judge_disk(self, folder: str) -> judge.Verdict:
        """Judge the disk as it is, by the diary."""
        return self._judge(folder, disk=str(self.disk), diary=str(self.diary))

    def _judge(self, folder: str, **more: object) -> judge.Verdict:
        own = {"system": self.system.kind, "form": self.form, "seed": self.seed}
        places = {"work": str(self.folder), "folder": folder, "base": str(self.base)}
        request = judge.Request(**own, **places, **more)  # type: ignore[arg-type]
        path = self.folder / "request.json"
        path.write_text(json.dumps(asdict(request)))
        words = ["unshare", "--mount", sys.executable, "-m", "tests.power_fs.judge"]
        done = subprocess.run(
            [*words, path], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
        return judge.Verdict(**json.loads(done.stdout))


@contextmanager
def workshop() -> Iterator[Path]:
    """Yield a folder for disks, in memory if there is much; it is removed after."""
    memory = Path("/dev/shm")
    is_large = os.access(memory, os.W_OK) and disk_usage(memory).free > 4 << 30
    place = memory if is_large else None
    with tempfile.TemporaryDirectory(prefix="obd-power-", dir=place) as folder:
        yield Path(folder)


def built(name: str, folder: Path) -> Path:
    """Return the shared library that is made from a C file of this folder."""
    made = folder / f"{name}.so"
    words = [tool("gcc"), "-std=c11", "-O2", "-shared", "-fPIC", "-o", made]
    subprocess.run([*words, HERE / f"{name}.c"], check=True)
    return made


# -- A disk of the host


_SCRIPT = """
mount -t "$1" -o "$2" "$3" "$4" || exit
shift 4
"$@"
code=$?
: >"$OFF"
exit $code
"""


def cut_on_host(job: Job, *, last: int = 0, env: dict[str, str] | None = None) -> str:
    """Run the workload until the disk's power is off; return what it said.

    last: after so many writes and flushes. Without it the power goes when the
    workload has ended.
    """
    off, mounted = job.folder / "off", job.folder / "mounted"
    mounted.mkdir(exist_ok=True)
    work = job.command(str(mounted / "image"), "--diary", str(job.diary))
    with served(job, off, last) as file, loop_device(file) as device:
        # In a mount namespace of its own, which ends with the workload.
        words = ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh"]
        words += [job.system.kind, job.system.options, device, str(mounted), *work]
        more = {**(env or {}), "OFF": str(off)}
        done = subprocess.run(
            words, env=environment(**more), capture_output=True, text=True
        )
    return done.stdout + done.stderr


@contextmanager
def served(job: Job, off: Path, last: int) -> Iterator[Path]:
    """Yield a file with the bytes of the disk, which disk.py serves."""
    fuse = job.folder / "fuse"
    fuse.mkdir()
    keys = {"file": job.disk, "log": job.log, "diary": job.diary, "off": off}
    words = [tool("nbdfuse"), str(fuse / "disk"), "--command", tool("nbdkit"), "-s"]
    words += ["--exit-with-parent", "python", str(HERE / "disk.py"), f"last={last}"]
    words += [f"{key}={path}" for key, path in keys.items()]
    with (job.folder / "nbd.log").open("wb") as errors:
        process = subprocess.Popen(words, stderr=errors, env=environment())
    try:
        wait_until((fuse / "disk").exists, process)
        yield fuse / "disk"
    finally:
        subprocess.run([tool("fusermount3"), "-u", "-z", fuse], check=False)
        process.wait(PATIENCE)


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """Yield a block device that keeps nothing of file to itself."""
    words = [tool("losetup"), "--find", "--show", "--direct-io=on", file]
    made = subprocess.run(words, check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run([tool("losetup"), "--detach", device], check=True)


def wait_until(
    true: Callable[[], bool], process: subprocess.Popen[bytes], step: float = 0.02
) -> None:
    """Wait until something is so; fail when a process ends before."""
    for _ in range(int(PATIENCE / step)):
        if true():
            return
        try:
            code = process.wait(step)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"{process.args!r} ended with {code}")
    raise AssertionError(f"{process.args!r}: nothing happens")


def told(verdict: judge.Verdict) -> str:
    """Return what was tried, for people."""
    return (
        f"{verdict.states} cut points tried, {verdict.barriers} of them just after "
        "a flush"
    )
