# SPDX-License-Identifier: Apache-2.0
"""
guests - small Linux machines in QEMU that do what a script says, and print.

A guest has busybox, a Debian kernel and the modules that it needs, all from
its initrd: disks come and go while it runs. Its serial port is the judge.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tools import ROOT, environment, tool

CACHE = ROOT / ".demo" / "cache"
MODULES = "virtio_pci virtio_mmio virtio_blk virtio_scsi sd_mod overlay ext4 xfs"

# Far more than any guest needs, emulated on a loaded machine.
PATIENCE = 120.0

WORDS = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check "
WORDS += "tsc=reliable"

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for name in $(cat /modules); do modprobe $name 2>/dev/null; done

# disk SERIAL - the device that has it, once it is there
disk() {
    while :; do
        for folder in /sys/block/vd* /sys/block/sd*; do
            [ -e "$folder" ] || continue
            # Of SCSI it is in the page of the disk's identity.
            { cat "$folder/serial" || cat "$folder/device/vpd_pg80"; } 2>/dev/null |
                grep -q "$1" && echo "/dev/${folder##*/}" && return
        done
        usleep 50000
    done
}

# gone DEVICE - wait until it is
gone() {
    while [ -e "$1" ]; do usleep 50000; done
}

. /job.sh
echo "GUEST-EXIT=$?"
sync
poweroff -f
"""


class Guest:
    """A machine that runs.

    Attributes:
        process: QEMU.
        qmp: its socket.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.qmp = folder / "qmp.sock"
        self._console = folder / "console"

    def said(self) -> str:
        """Return what it printed so far."""
        text = self._console.read_text(errors="replace")
        return text.replace("\r", "")

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """Return the line that it prints with that text."""
        return wait_for_line(self.said, text, self.process.poll, seconds)

    def wait(self) -> int | None:
        """Return the exit code of the script; None when it did not come so far."""
        self.process.wait(PATIENCE)
        found = re.search(r"GUEST-EXIT=(\d+)", self.said())
        return int(found[1]) if found else None


def wait_for_line(said, text, ended, seconds=PATIENCE) -> str:  # type: ignore[no-untyped-def]
    """Return the first line of said() with text; fail when nothing comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for line in said().splitlines():
            if text in line:
                return line
        assert ended() is None, said()
        time.sleep(0.05)
    raise AssertionError(f"no {text!r} in {said()}")


@contextmanager
def started(
    folder: Path, script: str, *options: str, machine: str = "q35", memory: int = 256
) -> Iterator[Guest]:
    """Yield a guest that runs a script; it ends with the block."""
    kernel, image = boot_files(folder, script)
    (folder / "console").touch()
    socket = folder / "qmp.sock"
    socket.unlink(missing_ok=True)
    words = [tool("qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
    words += ["-display", "none", "-no-reboot", "-cpu", "qemu64", "-m", str(memory)]
    words += ["-machine", f"{machine},accel=tcg"]
    words += ["-kernel", str(kernel), "-initrd", str(image)]
    words += ["-append", f"{WORDS} {_clock()}" if "microvm" in machine else WORDS]
    words += ["-chardev", f"file,id=serial,path={folder / 'console'}"]
    words += ["-serial", "chardev:serial"]
    words += ["-qmp", f"unix:{socket},server=on,wait=off"]
    process = subprocess.Popen(
        [*words, *options], stdin=subprocess.DEVNULL, env=environment()
    )
    try:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield Guest(process, folder)
    finally:
        process.kill()
        process.wait()


# A microvm has no clock to measure the other with: it has to be told.
def _clock() -> str:
    found = re.search(r"cpu MHz\s*: (\d+)", Path("/proc/cpuinfo").read_text())
    return f"tsc_early_khz={int(found[1]) * 1000 if found else 2000000}"


def boot_files(folder: Path, script: str) -> tuple[Path, Path]:
    """Return a kernel, and an initrd in folder that runs a script."""
    own = folder / "job"
    own.mkdir(exist_ok=True)
    (own / "job.sh").write_text(script)
    image = folder / "initrd"
    shutil.copyfile(_initrd(), image)
    # The kernel takes archives one behind the other, each at a multiple of 4.
    with image.open("ab") as out:
        out.write(bytes(-out.tell() % 4))
        _archive(own, out)
    return _kernel(), image


@functools.cache
def _initrd() -> Path:
    """Make the part of the initrd that all have."""
    subprocess.run([ROOT / "images" / "fetch.sh", CACHE], check=True, timeout=250)
    root = CACHE / f"guest-{os.getpid()}"
    shutil.rmtree(root, ignore_errors=True)
    modules = root / "lib" / "modules" / _version()
    (root / "bin").mkdir(parents=True)
    shutil.copy(tool("busybox"), root / "bin" / "busybox")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    (root / "modules").write_text(MODULES)
    source = CACHE / "kernel" / "lib" / "modules" / _version()
    for file in _needed(source):
        (modules / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, modules / file)
    subprocess.run([tool("busybox"), "depmod", "-b", root, _version()], check=True)
    made = CACHE / f"guest-{os.getpid()}.initrd"
    with made.open("wb") as out:
        _archive(root, out)
    shutil.rmtree(root)
    return made


def _needed(source: Path) -> set[str]:
    """Return the files of MODULES, with those that they depend on."""
    found: set[str] = set()
    for line in (source / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        if Path(name).name.removesuffix(".ko").replace("-", "_") in MODULES.split():
            found |= {name, *others.split()}
    return found


def _archive(folder: Path, out: object) -> None:
    words = [tool("cpio"), "--quiet", "-o", "-H", "newc"]
    names = "\n".join(str(p.relative_to(folder)) for p in sorted(folder.rglob("*")))
    done = subprocess.run(words, cwd=folder, input=names.encode(), stdout=-1)
    out.write(done.stdout)  # type: ignore[attr-defined]


def _kernel() -> Path:
    return CACHE / "kernel" / "boot" / f"vmlinuz-{_version()}"


def _version() -> str:
    (version,) = (CACHE / "kernel" / "lib" / "modules").iterdir()
    return version.name


def ports(count: int) -> Sequence[str]:
    """Return options for so many ports that a q35 takes disks at."""
    words: list[str] = []
    for number in range(count):
        port = f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"
        words += ["-device", f"{port},addr=0x{number + 4:x}"]
    return words
