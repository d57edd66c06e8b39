# SPDX-License-Identifier: Apache-2.0
"""
debian - container images of Debian packages, made by umoci, in layers.

The files are those of packages that are installed on this machine, so no
network is needed. Each layer is what umoci finds changed in the tree; the
upper ones delete, replace and change what is below in every way.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.tools import environment, tool

__all__ = ["LARGE", "SMALL", "image"]

_BASE = ["base-files", "libc6", "dash", "coreutils", "libselinux1", "libpcre2-8-0"]
_BASE += ["libacl1", "libattr1", "libgmp10", "passwd", "login"]
_PYTHON = ["python3.11-minimal", "libpython3.11-minimal", "libexpat1", "zlib1g"]

# What in the files of a package is this machine's, and not the package's.
_HOSTS = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/run", "/root", "/home")

# What is put into each layer; the last one gets no packages.
SMALL = [_BASE, _PYTHON]
LARGE = [
    [*_BASE, "tzdata", "perl-base", "util-linux", "bash", "libtinfo6"],
    [*_PYTHON, "libpython3.11-stdlib", "python3.11", "perl-modules-5.36"],
]


def image(folder: Path, packages: Sequence[Sequence[str]]) -> Path:
    """Make an image "app" in folder/layout; its tree stays in folder/bundle."""
    layout, bundle = folder / "layout", folder / "bundle"
    _umoci("init", "--layout", layout)
    _umoci("new", "--image", f"{layout}:app")
    _umoci("unpack", "--image", f"{layout}:app", bundle)
    root = bundle / "rootfs"
    changes: list[Callable[[Path], None]] = [_begin, _change, _change_again]
    for number, change in enumerate(changes):
        if number < len(packages):
            _unpack(root, packages[number])
        change(root)
        words = ["repack", "--refresh-bundle", "--image", f"{layout}:app", bundle]
        _umoci(*words)
    words = ["config", "--image", f"{layout}:app", "--config.env", "HOME=/root"]
    _umoci(*words, "--config.cmd", "/bin/dash")
    return layout


def _umoci(*words: str | Path) -> None:
    command = [tool("umoci"), *map(str, words)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)


def _unpack(root: Path, packages: Sequence[str]) -> None:
    """Copy the files of installed packages into root, and all about them."""
    command = ["dpkg-query", "--listfiles", *packages]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # Where a host has left out documentation, so does the image.
    names = sorted({f".{name}" for name in done.stdout.split("\n") if _is_there(name)})
    # The folders of a merged /usr are links on the host.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    archive = ["tar", "--create", "--no-recursion", "--xattrs", "--xattrs-include=*"]
    with subprocess.Popen(
        [*archive, "--directory=/", "--null", "--files-from=-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as packing:
        extract = ["tar", "--extract", "--preserve-permissions", "--xattrs"]
        extract += ["--xattrs-include=*", "--keep-directory-symlink"]
        with subprocess.Popen(
            [*extract, f"--directory={root}"], stdin=packing.stdout
        ) as unpacking:
            assert packing.stdin is not None
            packing.stdin.write("\0".join(names).encode())
            packing.stdin.close()
        assert packing.wait() == 0
        assert unpacking.returncode == 0


def _is_there(name: str) -> bool:
    is_own = name.startswith("/") and not name.startswith(_HOSTS)
    return is_own and name != "/." and os.path.lexists(name)


def _begin(root: Path) -> None:
    for name in ("proc", "sys", "dev", "tmp", "root", "run", "etc", "var/odd"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/dash\n")
    odd = root / "var/odd"
    (odd / "replaced-by-folder").write_text("a file")
    (odd / "replaced-by-file" / "deep").mkdir(parents=True)
    (odd / "replaced-by-file" / "deep" / "file").write_text("gone")
    (odd / "link").symlink_to("/etc/passwd")
    for number in range(300):
        (odd / f"many-{number}").write_text(f"{number}\n" * number)
    (odd / "one").write_text("three names")
    os.link(odd / "one", odd / "two")
    os.link(odd / "one", root / "root" / "three")
    (odd / ("long" * 60)).write_text("long name")
    (odd / "sparse").write_bytes(b"start")
    os.truncate(odd / "sparse", 5 << 20)
    with (odd / "sparse").open("r+b") as opened:
        opened.seek(3 << 20)
        opened.write(b"middle")
    os.mkfifo(odd / "fifo")
    os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(odd / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    os.setxattr(odd / "one", "user.colour", b"green\0\xff")
    os.chown(odd / "many-7", 1234, 70000)
    (odd / "many-8").chmod(0o6755)


def _change(root: Path) -> None:
    odd = root / "var/odd"
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
    (odd / "replaced-by-folder").unlink()
    (odd / "replaced-by-folder").mkdir()
    (odd / "replaced-by-folder" / "inside").write_text("new")
    shutil.rmtree(odd / "replaced-by-file")
    (odd / "replaced-by-file").write_text("a file now")
    (odd / "link").unlink()
    (odd / "link").mkdir()
    for number in range(0, 300, 3):
        (odd / f"many-{number}").unlink()
    (odd / "many-10").write_text("rewritten")
    (odd / "many-11").chmod(0o600)
    os.chown(odd / "many-13", 99, 98)
    os.setxattr(odd / "many-14", "user.new", b"x" * 300)
    os.setxattr(odd / "many-16", "security.capability", _CAPABILITY)
    (odd / "two").unlink()
    os.link(root / "root" / "three", odd / "four")


def _change_again(root: Path) -> None:
    odd = root / "var/odd"
    shutil.rmtree(odd / "link")
    (odd / "link").symlink_to("x" * 200)
    (odd / "many-17").rename(odd / "renamed")
    os.removexattr(odd / "many-14", "user.new")
    (odd / "one").unlink()
    (odd / "four").write_text("all of them change")
    (odd / "deep").mkdir()
    for number in range(40):
        (odd / "deep" / f"{number}").mkdir()
        (odd / "deep" / f"{number}" / "file").write_text(f"{number}")
    (odd / "empty").touch()
    os.utime(odd / "empty", ns=(10**18, 10**18 + 5))


# CAP_NET_RAW, permitted and effective, in the second version of its form.
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
