# SPDX-License-Identifier: Apache-2.0
"""
doctor - `obd doctor`: what this machine can do, and what mends the rest.

Every check uses the thing it is about; that a file exists proves nothing. It
changes nothing on the machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from obdengine.cli import doctor_vm, kvm
from obdengine.cli.output import json_option, json_text, printable
from obdengine.errors import ObdError
from obdengine.host import nbdkit

__all__ = ["doctor"]


class _Missing(Exception):
    """It is not here, and the text says why."""


@dataclass(frozen=True)
class _Check:
    """One thing that may be missing.

    Attributes:
        name: what it is called.
        purpose: what it is for.
        cure: the command that mends it, or what else to do.
        needed: whether images cannot be served without it.
        probe: returns a few words about what was found, or raises _Missing,
            OSError or ObdError.
    """

    name: str
    purpose: str
    cure: str
    needed: bool
    probe: Callable[[], str]


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say what this machine can do and what mends what is missing.

    The exit code is 1 when something is missing that serving images needs.
    """
    found = [_examine(check) for check in _CHECKS]
    click.echo(json_text({"checks": found}) if as_json else _human(found))
    return 1 if any(f["needed"] and not f["ok"] for f in found) else 0


def _examine(check: _Check) -> dict[str, Any]:
    try:
        ok, detail = True, check.probe()
    except (_Missing, ObdError) as error:
        ok, detail = False, str(error.args[0])
    except OSError as error:
        ok, detail = False, f"{error.filename or check.name}: {error.strerror}"
    return {
        "name": check.name,
        "ok": ok,
        "needed": check.needed,
        "detail": detail,
        "purpose": check.purpose,
        "cure": None if ok else check.cure,
    }


def _human(found: list[dict[str, Any]]) -> str:
    lines = []
    for item in found:
        mark = "ok" if item["ok"] else "MISSING" if item["needed"] else "missing"
        lines.append(f"{mark:<8} {item['name']}: {printable(item['detail'])}")
        if not item["ok"]:
            lines.append(f"         for: {item['purpose']}")
            lines.append(f"         cure: {item['cure']}")
    lacking = [f["name"] for f in found if f["needed"] and not f["ok"]]
    verdict = (
        f"needed and missing: {', '.join(lacking)}"
        if lacking
        else ("Everything that serving images needs is here.")
    )
    return "\n".join([*lines, "", verdict])


def _python() -> str:
    return f"{platform.python_version()}, {sys.executable}"


def _core() -> str:
    from obdengine import _core  # a missing or wrong binary is a finding here

    return f"crc32c: {', '.join(_core.crc32c_kernels())}"


def _nbdkit() -> str:
    return nbdkit.binary()


def _nbdkit_python() -> str:
    facts = nbdkit.dump_plugin()
    if facts is None:
        raise _Missing("nbdkit cannot load its Python plugin")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = ".".join(facts.get("python_version", "?").split(".")[:2])
    text = f"nbdkit {facts.get('version', '?')} with Python {theirs}"
    return text if theirs == ours else f"{text}, while obd runs {ours}"


def _plugin() -> str:
    facts = nbdkit.dump_plugin(str(nbdkit.plugin_file()))
    if facts is None:
        raise _Missing(f"nbdkit cannot run {nbdkit.plugin_file()}")
    if "obdengine" not in facts:
        raise _Missing(facts.get("obdengine_error", "it cannot import obdengine"))
    return f"{nbdkit.plugin_file()} imports {facts['obdengine']}"


def _filter() -> str:
    reason = nbdkit.why_no_filter()
    if reason:
        raise _Missing(reason)
    return f"{nbdkit.filter_file()}"


def _program(*names: str) -> Callable[[], str]:
    def probe() -> str:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        found = [shutil.which(name, path=path) for name in names]
        lacking = [n for n, place in zip(names, found, strict=True) if not place]
        if lacking:
            raise _Missing(f"no {', no '.join(lacking)}")
        return ", ".join(map(str, found))

    return probe


def _kvm() -> str:
    reason = kvm.why_not()
    if reason:
        raise _Missing(reason)
    return "a guest ran on the processor itself"


def _fuse() -> str:
    os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    return f"/dev/fuse, {_program('fusermount3')()}"


def _loop() -> str:
    os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    return f"/dev/loop-control, {_program('losetup')()}"


_LIBNBD = "apt-get install libnbd-bin"

_CHECKS = [
    _Check(
        "python",
        "everything",
        "apt-get install python3",
        True,
        _python,
    ),
    _Check(
        "core",
        "everything: the part that is written in C",
        "in a checkout: make setup; else: pip install --force-reinstall obdengine",
        True,
        _core,
    ),
    _Check("nbdkit", "obd serve", nbdkit.NO_NBDKIT, True, _nbdkit),
    _Check("nbdkit-python", "obd serve", nbdkit.NO_PYTHON_PLUGIN, True, _nbdkit_python),
    _Check(
        "plugin",
        "obd serve: the engine inside nbdkit's own Python",
        "make the environment again with nbdkit's Python: rm -rf .venv; make setup",
        True,
        _plugin,
    ),
    _Check(
        "nbdkit-filter",
        "obd serve, several times as fast: requests that need no Python go past it",
        nbdkit.NO_FILTER,
        False,
        _filter,
    ),
    _Check(
        "nbdcopy, nbdinfo",
        "copying and examining what is served",
        _LIBNBD,
        False,
        _program("nbdcopy", "nbdinfo"),
    ),
    _Check(
        "nbdfuse",
        "a served image as a file",
        "apt-get install libnbd-bin",
        False,
        _program("nbdfuse"),
    ),
    _Check(
        "qemu-img, qemu-nbd",
        "image files of virtual machines",
        "apt-get install qemu-utils",
        False,
        _program("qemu-img", "qemu-nbd"),
    ),
    _Check(
        "qemu-system",
        "virtual machines, make demo",
        "apt-get install qemu-system-x86",
        False,
        _program(f"qemu-system-{platform.machine()}"),
    ),
    _Check(
        "kvm",
        "virtual machines at full speed; without it QEMU emulates, which works",
        "run on hardware, or ask for nested virtualization",
        False,
        _kvm,
    ),
    _Check("fuse", "a served image as a file", "apt-get install fuse3", False, _fuse),
    _Check("loop", "a served image as a block device", "modprobe loop", False, _loop),
    _Check(
        "kernel-nbd",
        "a served image as a block device, the fastest way",
        "modprobe nbd",
        False,
        doctor_vm.kernel_client,
    ),
    _Check(
        "qemu-storage-daemon",
        "obd attach where there is no kernel NBD",
        "apt-get install qemu-utils",
        False,
        _program("qemu-storage-daemon"),
    ),
    _Check(
        "qmp",
        "obd vm --qmp: disks of a QEMU that runs",
        "pip install qemu.qmp",
        False,
        doctor_vm.qmp,
    ),
    _Check(
        "libvirt",
        "obd vm: machines that libvirt runs",
        "apt-get install libvirt-daemon-system libvirt-dev pkg-config gcc; "
        "pip install libvirt-python",
        False,
        doctor_vm.libvirt,
    ),
    _Check(
        "apparmor",
        "disks of machines that the system's libvirt runs",
        "echo '/run/obd/*/nbd.sock rw,' >> "
        "/etc/apparmor.d/local/abstractions/libvirt-qemu; systemctl reload apparmor",
        False,
        doctor_vm.apparmor,
    ),
    _Check(
        "selinux",
        "disks of machines that the system's libvirt runs",
        "semanage fcontext -a -t svirt_image_t '/run/obd(/.*)?'; "
        "restorecon -R /run/obd",
        False,
        doctor_vm.selinux,
    ),
    _Check(
        "sockets",
        "disks of machines that the system's libvirt runs",
        "chmod o+x the folder; obd vm attach --owner USER gives USER the socket",
        False,
        doctor_vm.sockets,
    ),
    _Check(
        "file systems",
        "obd mount, and what takes its writes",
        "modprobe what is missing; or: obd attach --via file, and FUSE on it",
        False,
        doctor_vm.file_systems,
    ),
    _Check(
        "ntfs",
        "obd mount of NTFS",
        "modprobe ntfs3, or apt-get install ntfs-3g",
        False,
        doctor_vm.ntfs,
    ),
    _Check(
        "rootless",
        "obd mount and containers for who is not root",
        "apt-get install fuse2fs; chmod 666 /dev/fuse; "
        "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000",
        False,
        doctor_vm.rootless,
    ),
    _Check(
        "containers",
        "programs of a mounted image as containers",
        "apt-get install crun runc",
        False,
        _program("crun", "runc"),
    ),
    _Check(
        "e2fsprogs",
        "making and checking ext4",
        "apt-get install e2fsprogs",
        False,
        _program("mke2fs", "e2fsck"),
    ),
]
