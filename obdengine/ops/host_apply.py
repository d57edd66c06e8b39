# SPDX-License-Identifier: Apache-2.0
"""
host_apply - the tar on standard input, put on top of a mounted file system.

    unshare --mount python -m obdengine.ops.host_apply KIND FILE MOUNTPOINT NAME

It mounts FILE, and a child that has made the mount its root directory applies
the tar there: no name and no link can lead out of it. What could not be kept
is said on standard error, a line each; so is the reason of a failure, last.
Exit code 3: the tar is damaged.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdengine.errors import BadTar, ObdError
from obdengine.ext4.tar import Member, TarReader
from obdengine.ext4.tree import parts_of

__all__ = ["main"]

_FAILED, _DAMAGED = 1, 3
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_SPECIAL = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}


def main() -> int:
    """Mount, apply, unmount; return the exit code."""
    kind, file, mountpoint, name = sys.argv[1:]
    try:
        server = _mount(kind, file, mountpoint)
    except (OSError, subprocess.CalledProcessError) as error:
        return _fail(f"cannot be mounted: {error}")
    child = os.fork()
    if not child:
        os._exit(_in_root(mountpoint, name))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    unmounted = subprocess.run(["umount", mountpoint]).returncode
    served = server.wait() if server else 0
    return code or (_FAILED if unmounted or served else 0)


def _mount(kind: str, file: str, mountpoint: str) -> subprocess.Popen[bytes] | None:
    """Mount; return the process that serves the mount, if there is one."""
    if kind == "xfs":
        words = ["mount", "-t", "xfs", "-o", "loop,nouuid", file, mountpoint]
        subprocess.run(words, check=True)
        return None
    options = "no_detach,permissions,special_files=interix,streams_interface=xattr"
    server = subprocess.Popen(
        ["ntfs-3g", "-o", options, file, mountpoint],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not os.path.ismount(mountpoint):
        try:
            raise OSError(errno.EIO, f"ntfs-3g: exit code {server.wait(0.02)}")
        except subprocess.TimeoutExpired:
            continue
    return server


def _in_root(mountpoint: str, name: str) -> int:
    try:
        # What is imported when it is needed must be there before.
        "".encode("ascii", "backslashreplace").decode("utf-8", "surrogateescape")
        os.chroot(mountpoint)
        os.chdir("/")
        os.umask(0)
        _Applier(TarReader(sys.stdin.buffer, name)).run()
        os.sync()
    except BadTar as error:
        _fail(str(error))
        return _DAMAGED
    except (ObdError, OSError) as error:
        return _fail(str(error))
    return 0


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return _FAILED


class _Applier:
    """Applies the members of one tar to the root directory."""

    def __init__(self, reader: TarReader) -> None:
        self._reader = reader
        self._brought: set[str] = set()
        self._directories: dict[str, Member] = {}

    def run(self) -> None:
        for member in self._reader:
            try:
                self._apply(member)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                shown = member.name.decode(errors="backslashreplace")
                what = f"{shown}: {error.strerror}"
                raise BadTar(self._reader.name, what, offset=member.offset) from error
        # Last, and the deepest first: whatever is made in one changes its time.
        for path, member in sorted(self._directories.items(), reverse=True):
            if Path(path).is_dir() and not Path(path).is_symlink():
                self._dress(path, member)

    def _apply(self, member: Member) -> None:
        parts = [os.fsdecode(part) for part in parts_of(member.name)]
        # In a chroot links end in it, and those that lead nowhere are followed.
        above = os.path.realpath("/" + "/".join(parts[:-1]))
        base = parts[-1] if parts else ""
        path = os.path.join(above, base) if base else "/"  # noqa: PTH118
        if base.startswith(_WHITEOUT):
            self._white_out(Path(above), base)
            return
        if parts and parts[0].startswith(".wh..wh."):
            return
        Path(above).mkdir(parents=True, exist_ok=True)
        self._brought.update([path, *map(str, Path(path).parents)])
        if member.kind == "directory":
            if not _is_directory(path):
                _remove(path)
                Path(path).mkdir(0o700)
            self._directories[path] = member
            return
        target = "/" + "/".join(map(os.fsdecode, parts_of(member.target)))
        if not (member.kind == "link" and target == path):
            _remove(path)
        self._make(path, member, target)

    def _white_out(self, folder: Path, base: str) -> None:
        if base == _OPAQUE:
            gone = list(folder.iterdir()) if _is_directory(str(folder)) else []
        else:
            gone = [folder / base.removeprefix(_WHITEOUT)]
        for path in gone:
            if str(path) not in self._brought:
                _remove(str(path))
            elif _is_directory(str(path)):
                self._white_out(path, _OPAQUE)

    def _make(self, path: str, member: Member, target: str) -> None:
        if member.kind == "link":
            os.link(target, path, follow_symlinks=False)
            return
        if member.kind == "symlink":
            Path(path).symlink_to(os.fsdecode(member.target))
        elif member.kind == "file":
            self._write(path, member)
        else:
            device = os.makedev(member.major, member.minor)
            os.mknod(path, _SPECIAL[member.kind] | 0o600, device)
        self._dress(path, member)

    def _write(self, path: str, member: Member) -> None:
        pieces = iter(member.pieces or [(0, member.size)])
        offset = left = 0
        with open(path, "xb", buffering=0) as out:  # noqa: PTH123
            for data in self._reader.data():
                while data:
                    if not left:
                        offset, left = next(pieces)
                    done = os.pwrite(out.fileno(), data[:left], offset)
                    data, offset, left = data[done:], offset + done, left - done
            os.truncate(out.fileno(), member.size)

    def _dress(self, path: str, member: Member) -> None:
        """Give what is at path the attributes of member."""
        self._try(path, "owner", os.lchown, path, member.uid, member.gid)
        for name, value in member.xattrs.items():
            word = f"the attribute {os.fsdecode(name)}"
            more = {"follow_symlinks": False}
            self._try(path, word, os.setxattr, path, name, value, **more)
        if member.kind != "symlink":
            self._try(path, "mode", Path(path).chmod, member.mode)
        times = (member.mtime if member.atime is None else member.atime, member.mtime)
        self._try(path, "time", lambda: os.utime(path, ns=times, follow_symlinks=False))

    def _try(
        self, path: str, what: str, call: Callable[..., Any], *words: Any, **more: Any
    ) -> None:
        try:
            call(*words, **more)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
                raise
            shown = path.encode(errors="backslashreplace").decode()
            print(f"{shown}: its {what} cannot be kept", file=sys.stderr)


def _is_directory(path: str) -> bool:
    return Path(path).is_dir() and not Path(path).is_symlink()


def _remove(path: str) -> None:
    try:
        if _is_directory(path):
            shutil.rmtree(path)
        elif path != "/":
            Path(path).unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass


if __name__ == "__main__":
    sys.exit(main())
