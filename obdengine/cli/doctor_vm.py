# SPDX-License-Identifier: Apache-2.0
"""doctor_vm - what `obd doctor` finds out about virtual machines and their disks."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from obdengine.errors import HostError
from obdengine.host import kernel_nbd

__all__ = ["apparmor", "kernel_client", "libvirt", "qmp", "selinux"]

_RULES = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_ENFORCE = Path("/sys/fs/selinux/enforce")

# Who QEMU is, when the system's libvirt runs it.
_USERS = ("libvirt-qemu", "qemu")


def kernel_client() -> str:
    """Say that the kernel has an NBD client that we can use."""
    reason = kernel_nbd.why_not()
    if reason:
        raise HostError(reason)
    return "by netlink"


def qmp() -> str:
    """Say that the library for QMP is here."""
    try:
        import qemu.qmp
    except ImportError as error:
        raise HostError(str(error)) from error
    return str(Path(qemu.qmp.__file__ or "").parent)


def libvirt() -> str:
    """Say that libvirt, its library and a daemon are here."""
    try:
        from qemu.obd.libvirt_host import library_version
    except ImportError as error:
        raise HostError(str(error)) from error
    version = library_version()
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    programs = [shutil.which(name, path=path) for name in ("libvirtd", "virtqemud")]
    found = next((program for program in programs if program), None)
    if found is None:
        raise HostError("there is no libvirtd and no virtqemud")
    return f"{found}, {version}; its QEMU is {_user() or 'whoever starts it'}"


def apparmor() -> str:
    """Say that AppArmor lets libvirt's QEMU connect to our servers."""
    if not _ENABLED.exists() or not _ENABLED.read_text().startswith("Y"):
        return "AppArmor is not on"
    if _RULES.exists() and "obd/" in _RULES.read_text():
        return f"{_RULES} has a rule"
    raise HostError(f"AppArmor is on, and {_RULES} has no rule for /run/obd")


def selinux() -> str:
    """Say that SELinux does not stand in the way, as far as that can be known."""
    if not _ENFORCE.exists() or _ENFORCE.read_text().strip() == "0":
        return "SELinux does not enforce"
    run = Path("/run/obd")
    label = os.getxattr(run, "security.selinux") if run.exists() else b""
    if b"svirt_image_t" in label:
        return f"{run} is svirt_image_t"
    raise HostError(f"SELinux enforces, and {run} is not svirt_image_t")


def _user() -> str | None:
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None
