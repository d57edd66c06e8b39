# SPDX-License-Identifier: Apache-2.0
"""
machine - a whole Linux as one process, whose plug can be pulled: User-Mode Linux.

SIGKILL takes everything that the guest's kernel has not given to its disks.
Disks are files of the host, /dev/ubda the first one; what the guest runs is the
host's own programs, in guest.sh.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.power_fs import rig
from tests.tools import KERNEL, ROOT, tool

GUEST = Path(__file__).with_name("guest.sh")

# A guest of this size does all that is asked here.
_MEMORY = "384M"

_MODULES = "modprobe -d /run/m"


class Machine:
    """A guest that runs.

    Attributes:
        process: the guest's kernel; it leads a process group of its own.
    """

    def __init__(self, process: subprocess.Popen[bytes], console: Path) -> None:
        self.process = process
        self._console = console

    def said(self) -> str:
        """Return what it printed so far."""
        return self._console.read_text(errors="replace")

    def wait(self, seconds: float) -> int | None:
        """Return the job's exit code; None when the guest ended without it."""
        self.process.wait(seconds)
        found = re.search(r"GUEST-EXIT=(\d+)", self.said())
        return int(found[1]) if found else None

    def pull_plug(self) -> None:
        """End it and all that runs in it, now."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def started(folder: Path, job: str, disks: Sequence[Path] = ()) -> Iterator[Machine]:
    """Yield a guest that does a job, and has disks; it ends with the block.

    folder is the only one of the host that the guest can write to.
    """
    (folder / "job.sh").write_text(job)
    words = [tool("linux.uml"), f"mem={_MEMORY}", "root=/dev/root", "ro", "quiet"]
    words += ["rootfstype=hostfs", "rootflags=/", f"init={GUEST}"]
    words += ["con=null", "con0=null,fd:1", f"uml_dir={folder}/", "umid=guest"]
    words += [f"ubd{number}={disk}" for number, disk in enumerate(disks)]
    words += [f"OUTSIDE={folder}", "JOB=job.sh"]
    console = folder / "console"
    shim = rig.built("xsave", folder)
    # UML keeps the guest's memory in a file of TMPDIR.
    more = {"LD_PRELOAD": str(shim), "TMPDIR": str(folder)}
    with console.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **more},
            start_new_session=True,
        )
    machine = Machine(process, console)
    try:
        yield machine
    finally:
        machine.pull_plug()


def lacks(folder: Path) -> str | None:
    """Say why guests cannot be run here, or None when they can."""
    job = f"{_MODULES} dm_log_writes; {_MODULES} ext4; {_MODULES} xfs; dmsetup targets"
    with started(folder, job) as machine:
        try:
            code = machine.wait(60)
        except subprocess.TimeoutExpired:
            code = None
        if code == 0 and "log-writes" in machine.said():
            return None
        return f"{KERNEL}no User-Mode Linux here: {machine.said()[-300:]!r}"


# -- Jobs


def recording_job(job: rig.Job) -> str:
    """Return a script that runs the workload on a disk whose writes are logged."""
    work = " ".join(job.command("/run/disk/image", "--dm", "logged"))
    return f"""
        {_MODULES} dm_log_writes
        {_MODULES} {job.system.kind}
        size=$(blockdev --getsz /dev/ubda)
        table="0 $size log-writes /dev/ubda /dev/ubdb"
        dmsetup --noudevsync create logged --table "$table"
        dmsetup mknodes
        mount -t {job.system.kind} -o discard /dev/mapper/logged /run/disk
        {_python()} {work}
        umount /run/disk
        dmsetup --noudevsync remove logged
    """


def plain_job(job: rig.Job, image: str) -> str:
    """Return a script that runs the workload on a disk, for the plug to be pulled."""
    work = " ".join(job.command(f"/run/disk/{image}", "--diary", str(job.diary)))
    return f"""
        {_MODULES} {job.system.kind}
        mount -t {job.system.kind} /dev/ubda /run/disk
        {_python()} {work}
    """


def _python() -> str:
    return f"cd {ROOT}; PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1"
