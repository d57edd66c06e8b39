# SPDX-License-Identifier: Apache-2.0
"""
processes - programs that go on when the tool that started them has ended.

A process is known by its pid and the moment it started, so that another one
which gets the same pid later is never taken for it, and never ended. Nothing
here waits by sleeping.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from obdengine.errors import HostError

__all__ = ["Process", "boot_id", "run", "start"]

# Of /proc/PID/stat, counted from after the name, which may hold anything.
_STATE, _STARTED = 0, 19

# A program that looks at a flag of its signal handler and then sleeps can miss
# the signal between the two, for ever: qemu-storage-daemon 7.2 does, whose
# handler wakes nobody. The next one wakes it.
_AGAIN_SECONDS = 0.5

_KILL_SECONDS = 30.0


class Process(NamedTuple):
    """A process of this boot.

    Attributes:
        pid: its number.
        started: when it started, in the kernel's ticks since the boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has a pid now; HostError when there is none."""
        found = _stat(pid)
        if found is None:
            raise HostError(f"process {pid} ended at once")
        return cls(pid, int(found[_STARTED]))

    @property
    def alive(self) -> bool:
        """Whether it runs; one that has ended and was not waited for does not."""
        found = _stat(self.pid)
        return (
            found is not None
            and int(found[_STARTED]) == self.started
            and found[_STATE] not in ("Z", "X")
        )

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long; tell whether it has."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return not self.alive or bool(select.select([fd], [], [], seconds)[0])
        finally:
            os.close(fd)
            self._reap()

    def stop(self, seconds: float) -> bool:
        """Ask it to end, and make it end after so many seconds.

        Returns whether it ended by itself; so does one that had ended before.
        """
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:  # somebody else has its pid, or it is a zombie
                return True
            if self._asked(fd, seconds):
                return True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            if select.select([fd], [], [], _KILL_SECONDS)[0]:
                return False
            raise HostError(f"process {self.pid} does not end")
        finally:
            os.close(fd)
            self._reap()

    @staticmethod
    def _asked(fd: int, seconds: float) -> bool:
        """Ask until it has ended, at most so long; tell whether it has."""
        until = time.monotonic() + seconds
        while True:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
            left = until - time.monotonic()
            if select.select([fd], [], [], max(0.0, min(left, _AGAIN_SECONDS)))[0]:
                return True
            if left <= _AGAIN_SECONDS:
                return False

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


@cache
def boot_id() -> str:
    """Return what this boot of the machine is called by its kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def run(
    words: Sequence[str | Path], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; HostError with what it said when it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=_with_sbin(env),
            check=False,
        )
    except OSError as error:
        raise HostError(f"{words[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        name = Path(words[0]).name
        # What follows the first line of mount and its like is advice.
        why = said[0].removeprefix(f"{name}: ") if said else f"exit {done.returncode}"
        raise HostError(f"{name}: {why}")
    return done


# nbdkit 1.32 asks the kernel to end it with its parent, whether told to or not.
# So its parent must have gone before: $@ waits until the other end of the pipe
# is closed, which is done when the shell has ended.
_ORPHAN = 'exec 8<&0; { read -r _ <&8; exec 8<&- "$@"; } &'


def start(
    words: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None
) -> Process:
    """Start a program that writes its pid when it is ready; return it then.

    "{ready}" among words is where it has to write it. It gets a session of
    its own and outlives us. Raises HostError with what it said in log.
    """
    with tempfile.TemporaryDirectory(prefix="obd-") as folder, ExitStack() as stack:
        ready = Path(folder, "pid")
        os.mkfifo(ready)  # so that writing to it is an event
        pipe = os.open(ready, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, pipe)
        command = [str(word).replace("{ready}", str(ready)) for word in words]
        life = _orphan(command, log, env)
        stack.callback(os.close, life)
        seen, _, _ = select.select([pipe, life], [], [])
        text = os.read(pipe, 64) if pipe in seen else b""
    if not text.strip().isdigit():
        raise HostError(f"{Path(words[0]).name}: {_last_line(log) or 'ended at once'}")
    return Process.of(int(text))


def _orphan(command: list[str], log: Path, env: Mapping[str, str] | None) -> int:
    """Start a command that is nobody's child; return a pipe that ends with it."""
    life, end = os.pipe()
    held = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)  # the shell uses those below
    wait, hold = os.pipe()
    try:
        with log.open("ab") as output:
            shell = subprocess.Popen(
                ["sh", "-c", _ORPHAN, "sh", *command],
                stdin=wait,
                stdout=output,
                stderr=output,
                env=_with_sbin(env),
                cwd="/",
                start_new_session=True,
                pass_fds=(held,),
            )
        shell.wait()
    except OSError as error:
        os.close(life)
        raise HostError(f"{command[0]}: {error.strerror}") from error
    finally:
        for fd in (end, held, wait, hold):
            os.close(fd)
    return life


# Distributions put losetup, mount helpers and nbdkit into sbin.
def _with_sbin(env: Mapping[str, str] | None) -> dict[str, str]:
    found = dict(os.environ if env is None else env)
    found["PATH"] = f"{found.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
