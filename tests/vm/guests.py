# SPDX-License-Identifier: Apache-2.0
"""
guests - small Linux machines in QEMU that do what a script says, and print.

A guest has busybox, a Debian kernel and the modules that it needs, all from
its initrd: disks come and go while it runs. Its serial port is the judge.
"""

from __future__ import annotations

import atexit
import functools
import lzma
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host import rig
from tests.running import run_obd
from tests.tools import KERNEL, ROOT, environment, tool

CACHE = ROOT / ".demo" / "cache"
MODULES = "virtio_pci virtio_mmio virtio_blk virtio_scsi virtio_console sd_mod "
MODULES += "ext4 xfs ntfs3"

# Far more than any guest needs, emulated on a loaded machine.
PATIENCE = 120.0

# Newer kernels use cmpxchg16b, after which the emulator of QEMU 7.2 may have
# the wrong flags: one boot in five ends in an oops.
CPU = "qemu64,-cx16"

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
    folder: Path,
    script: str,
    *options: str,
    machine: str = "q35",
    kernel: Path | None = None,
) -> Iterator[Guest]:
    """Yield a guest that runs a script; it ends with the block.

    kernel: another than that of the images, as newer_kernel() has it.
    """
    linux, image = boot_files(folder, script, kernel)
    (folder / "console").touch()
    socket = folder / "qmp.sock"
    socket.unlink(missing_ok=True)
    words = [tool("qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
    words += ["-display", "none", "-no-reboot", "-cpu", CPU, "-m", "256"]
    words += ["-machine", f"{machine},accel=tcg"]
    words += ["-kernel", str(linux), "-initrd", str(image)]
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


def boot_files(
    folder: Path, script: str, kernel: Path | None = None
) -> tuple[Path, Path]:
    """Return a kernel, and an initrd in folder that runs a script."""
    root = kernel or _usual()
    own = folder / "job"
    own.mkdir(exist_ok=True)
    (own / "job.sh").write_text(script)
    image = folder / "initrd"
    shutil.copyfile(_initrd(root), image)
    # The kernel takes archives one behind the other, each at a multiple of 4.
    with image.open("ab") as out:
        out.write(bytes(-out.tell() % 4))
        _archive(own, out)
    return root / "boot" / f"vmlinuz-{_version(root)}", image


@functools.cache
def _usual() -> Path:
    """Return the kernel of the images: a folder as it is in a package."""
    subprocess.run([ROOT / "images" / "fetch.sh", CACHE], check=True, timeout=250)
    return CACHE / "kernel"


# Of backports, with a folder of its own for apt: this machine's stays as it is.
_FETCH_NEWER = """
cd "$1"
mkdir -p apt/lists/partial apt/cache/archives/partial
set -- -o Dir::Etc::sourcelist="$PWD/apt/sources" -o Dir::Etc::sourceparts=- \\
    -o Dir::State::lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" \\
    -o APT::Sandbox::User=
sed -n '/^URIs:.*debian$/{s/^URIs: */deb /;s/$/ bookworm-backports main/;p}' \\
    /etc/apt/sources.list.d/debian.sources >apt/sources
[ -s apt/sources ] || sed -n '/^deb .*bookworm main/s/bookworm/bookworm-backports/p' \\
    /etc/apt/sources.list >apt/sources
apt-get "$@" -qq update
name=$(apt-cache "$@" depends linux-image-cloud-amd64/bookworm-backports |
    sed -n 's/^ *Depends: \\(linux-image-[0-9].*\\)/\\1/p' | head -n 1)
apt-get "$@" -qq download "$name"
rm -rf newer
dpkg-deb -x "$name"_*.deb newer
rm "$name"_*.deb
depmod -b newer "$(ls newer/lib/modules)"
"""


@functools.cache
def newer_kernel() -> Path | None:
    """Return a Linux 6.12, which has ntfs3; None where it cannot be had."""
    made = CACHE / "newer"
    if not made.exists():
        words = ["sh", "-euc", _FETCH_NEWER, "sh", CACHE]
        if subprocess.run(words, env=environment(), timeout=250).returncode != 0:
            return None
    return made


def kernel_for(kind: str) -> Path | None:
    """Return the kernel that has a file system, None for the usual one.

    Skips the test where that cannot be had.
    """
    if kind != "ntfs":
        return None
    found = newer_kernel()
    if found is None:
        pytest.skip(f"{KERNEL}no Linux with ntfs3 in this machine's package lists")
    return found


@functools.cache
def _initrd(kernel: Path) -> Path:
    """Make the part of the initrd that all guests of a kernel have."""
    folder = Path(tempfile.mkdtemp(prefix="obd-guest-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root, version = folder / "root", _version(kernel)
    modules = root / "lib" / "modules" / version
    (root / "bin").mkdir(parents=True)
    shutil.copy(tool("busybox"), root / "bin" / "busybox")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    (root / "modules").write_text(MODULES)
    source = kernel / "lib" / "modules" / version
    for file in _needed(source):
        plain = modules / file.removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        raw = (source / file).read_bytes()
        plain.write_bytes(lzma.decompress(raw) if file.endswith(".xz") else raw)
    subprocess.run([tool("busybox"), "depmod", "-b", root, version], check=True)
    made = folder / "initrd"
    with made.open("wb") as out:
        _archive(root, out)
    return made


def _needed(source: Path) -> set[str]:
    """Return the files of MODULES, with those that they depend on."""
    found: set[str] = set()
    for line in (source / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        if Path(name).name.split(".")[0].replace("-", "_") in MODULES.split():
            found |= {name, *others.split()}
    return found


def _archive(folder: Path, out: object) -> None:
    words = [tool("cpio"), "--quiet", "-o", "-H", "newc"]
    names = "\n".join(str(p.relative_to(folder)) for p in sorted(folder.rglob("*")))
    done = subprocess.run(words, cwd=folder, input=names.encode(), stdout=-1)
    out.write(done.stdout)  # type: ignore[attr-defined]


def _version(kernel: Path) -> str:
    (version,) = (kernel / "lib" / "modules").iterdir()
    return version.name


def ports(count: int) -> Sequence[str]:
    """Return options for so many ports that a q35 takes disks at."""
    words: list[str] = []
    for number in range(count):
        port = f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"
        words += ["-device", f"{port},addr=0x{number + 4:x}"]
    return words


def file_in(
    own: Path, kind: str, name: str, folder: Path, *, replay: bool = False
) -> str:
    """Return a file that a guest wrote to an upper, once its file system is sound.

    replay: the guest had it mounted at its end; the journal is played first.
    """
    config = own / "config.v1.json"
    run_obd("check", config)
    with rig.host(folder / "reading") as host:
        target = folder / "reading" / "target"
        target.mkdir(parents=True, exist_ok=True)
        if replay:
            host.obd("mount", "-w", config, target)
            host.obd("umount", target)
        # ntfsfix has complaints about what ntfs3 leaves, which Windows has not.
        assert kind == "ntfs" or rig.is_sound(config, kind, folder)
        host.obd("mount", config, target)
        text = (target / name).read_text()
        host.obd("umount", target)
    return text
