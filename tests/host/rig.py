# SPDX-License-Identifier: Apache-2.0
"""
rig - file systems as images, and the command line that attaches them.

Nothing of a test stays behind: what it attaches is recorded in its own folder,
and taken away with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.nbd import programs
from tests.running import Ran, run_obd
from tests.tools import environment, let_everybody_in, tool

MIB = 1 << 20

# Bytes of a disk that is large enough, what makes the file system, and what
# finds damage in it.
SYSTEMS = {
    "ext4": (64 * MIB, ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"]),
    "xfs": (300 * MIB, ["mkfs.xfs", "-q", "-f"]),
    "btrfs": (256 * MIB, ["mkfs.btrfs", "-q", "-f"]),
    "ntfs": (64 * MIB, ["mkntfs", "-q", "-F", "-f"]),
}
CHECKS = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n", "-f"],
    "btrfs": ["btrfs", "check", "--readonly"],
    "ntfs": ["ntfsfix", "-n"],
}


class Host:
    """The commands of this machine, with records of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"OBD_RUN": str(folder / "run"), "OBD_STATE": str(folder / "state")}

    def obd(self, *words: str | Path, code: int | None = 0) -> Ran:
        """Run a command."""
        return run_obd(*words, code=code, env=self.env)

    def attach(self, *words: str | Path) -> dict[str, Any]:
        """Attach, and return the facts."""
        found: dict[str, Any] = self.obd("attach", "--output", "json", *words).json()
        return found

    def ps(self) -> list[dict[str, Any]]:
        """Return what is attached."""
        found: list[dict[str, Any]] = self.obd("ps", "--output", "json").json()
        return found

    def clean(self) -> None:
        """Take everything away; what cannot be does not keep the rest."""
        for item in self.ps():
            if item["mounts"]:
                self.obd("umount", item["name"], code=None)
            self.obd("detach", item["name"], code=None)
        assert self.ps() == []


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    """Yield the commands; what they made is taken away at the end."""
    made = Host(folder)
    try:
        yield made
    finally:
        made.clean()


def kill(pid: int) -> None:
    """Kill a process, and return when it has ended."""
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    programs.wait_for_end(process)


def disk(folder: Path, kind: str, size: int | None = None) -> Path:
    """Make a raw disk with an empty file system of a kind."""
    usual, words = SYSTEMS[kind]
    path = folder / f"{kind}.raw"
    path.touch()
    os.truncate(path, size or usual)
    subprocess.run([tool(words[0]), *words[1:], path], check=True, stdout=-3)
    return path


def layer(folder: Path, kind: str) -> Path:
    """Make a layer of such a disk."""
    path = folder / f"{kind}.obd"
    if not path.exists():
        run_obd("convert", disk(folder, kind), path)
    return path


def flat(image: Path, folder: Path) -> Path:
    """Return the disk of an image, as a file."""
    path = folder / "flat.raw"
    path.unlink(missing_ok=True)
    run_obd("convert", "-O", "raw", image, path)
    return path


def is_sound(image: Path, kind: str, folder: Path) -> bool:
    """Tell whether an image and the file system in it are as they should be."""
    run_obd("check", image)
    words = CHECKS[kind]
    done = subprocess.run(
        [tool(words[0]), *words[1:], flat(image, folder)], stdout=-3, stderr=-3
    )
    return done.returncode == 0


# As udev has it, which need not run here: everybody may use FUSE.
_FOR_ALL = """
mknod -m 666 "$1" c 10 229
mount --bind "$1" /dev/fuse
shift
exec "$@"
"""

ROOT_OF_HIS_OWN = ["unshare", "--user", "--map-root-user", "--mount"]


@contextmanager
def home_of_nobody(image: Path) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """Yield a folder of a user who may nothing, with image.obd and a folder there.

    Also words before a command of his, and its environment. pytest's own folders
    are for root, and any other run may make them so again.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = Path(folder, "home")
        (place / "there").mkdir(parents=True)
        (place / "image.obd").write_bytes(image.read_bytes())
        subprocess.run(["chown", "-R", "65534:65534", place], check=True)
        words = [*let_everybody_in(), "unshare", "--mount", "sh", "-euc", _FOR_ALL]
        words += ["sh", f"{folder}/fuse", "setpriv", "--reuid=65534"]
        words += ["--regid=65534", "--clear-groups"]
        own = {"OBD_RUN": f"{place}/run", "OBD_STATE": f"{place}/state"}
        yield place, words, environment(PYTHON=tool("python3"), **own)


def facts_of(record: Path) -> Any:
    """Return what a record says."""
    return json.loads(record.read_text())
