# SPDX-License-Identifier: Apache-2.0
"""doctor_vm - what `obd doctor` finds out about virtual machines and their disks."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from obdengine.errors import HostError
from obdengine.host import devices, kernel_nbd
from obdengine.host.records import Places
from obdengine.host.server import SOCKET

__all__ = [
    "apparmor",
    "file_systems",
    "kernel_client",
    "libvirt",
    "ntfs",
    "qmp",
    "rootless",
    "selinux",
    "sockets",
]

_RULES = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_ENFORCE = Path("/sys/fs/selinux/enforce")

_FILE_SYSTEMS = ("ext4", "xfs", "overlay")

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
    programs = [shutil.which(name, path=_path()) for name in ("libvirtd", "virtqemud")]
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


def sockets() -> str:
    """Say that the QEMU of the system's libvirt can reach what is served."""
    user = _user()
    if user is None or os.geteuid() != 0:
        return "QEMU is whoever starts it"
    places = Places.usual()
    paths = [places.run]
    for record in devices.attached(places):
        if record.way == "socket" and record.owner == user and record.served:
            paths.append(places.folder(record.name) / SOCKET)
    barred = _barred(user, [path for path in paths if path.exists()])
    if barred:
        raise HostError(f"{user} cannot reach {barred}")
    return f"{user} reaches {places.run}"


def rootless() -> str:
    """Say that who is not root can mount images and run containers of them."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HostError(f"no user namespaces: {done.stderr.strip()}")
    if not Path("/dev/fuse").stat().st_mode & 0o006 == 0o006:
        raise HostError("/dev/fuse is for root only")
    if shutil.which("fuse2fs", path=_path()) is None:
        raise HostError("there is no fuse2fs")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return (
            "user namespaces; containers have no cgroups: the host's are of version 1"
        )
    return "user namespaces; cgroups of version 2"


def file_systems() -> str:
    """Say which file systems the kernel has, or can load."""
    lacking = [name for name in _FILE_SYSTEMS if not _has(name)]
    if lacking:
        raise HostError(f"the kernel has no {', no '.join(lacking)}")
    return ", ".join([*_FILE_SYSTEMS, *filter(_has, ("btrfs", "erofs"))])


def ntfs() -> str:
    """Say what mounts NTFS."""
    if _has("ntfs3"):
        return "ntfs3 of the kernel"
    found = shutil.which("ntfs-3g", path=_path())
    if found is None:
        raise HostError("the kernel has no ntfs3, and there is no ntfs-3g")
    return f"{found}; the kernel has no ntfs3"


def _has(file_system: str) -> bool:
    """Tell whether the kernel has a file system, or modprobe finds its module."""
    known = Path("/proc/filesystems").read_text().split()
    modprobe = shutil.which("modprobe", path=_path())
    if file_system in known or modprobe is None:
        return file_system in known
    words = [modprobe, "--dry-run", "--quiet", file_system]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _barred(user: str, paths: list[Path]) -> Path | None:
    """Return the first path that a user cannot enter or connect to, tried as him."""
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os._exit(next((n for n, path in enumerate(paths, 1) if not _reached(path)), 0))
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return paths[number - 1] if number > 0 else None


def _reached(path: Path) -> bool:
    try:
        if not path.is_socket():
            return os.access(path, os.X_OK)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    except OSError:
        return False
    return True


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _user() -> str | None:
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None
