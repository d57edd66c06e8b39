# SPDX-License-Identifier: Apache-2.0
"""
vm_images - image files of virtual machines: which they are, and their chains.

Every file of a chain is judged before a byte of its disk is read. What cannot
be read as it was written is refused with the reason:

  in use by a qemu     encrypted, without the secret     dirty or corrupt
  cut short            a file that it needs is missing   a format not recorded

qemu reads the formats; here it is told exactly which files to open, and as
what. Nothing is repaired.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import (
    ConfigError,
    FormatError,
    LimitError,
    SourceError,
    SourceMissing,
    Unsupported,
    UsageError,
)
from obdengine.ops import qemu
from obdengine.ops.disks import vm_format
from obdengine.ops.qcow2_header import Qcow2Header, read_header, snapshot_sizes
from obdengine.ops.qemu import Node
from obdengine.ops.vm_locks import refuse_locked
from obdengine.segment import MAX_LAYERS
from obdengine.source import FileSource
from obdengine.units import SECTOR, round_up

__all__ = [
    "FORMATS",
    "Snapshot",
    "VmFile",
    "Wanted",
    "chain_of",
    "is_vm_image",
    "snapshot_of",
]

# As qemu and obd convert -f call them.
FORMATS = ("qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed", "qcow", "parallels", "luks")

_BACKED = {"qcow2", "qcow", "qed", "vmdk"}  # these may have a backing file

_CHECKED = {"qcow2", "qed", "vmdk", "vdi", "vhdx", "parallels"}
_CHECK_SECONDS = 3600.0

# From here on `qemu-img map` says where in the file the data is.
_PLACED = {"qcow2", "vmdk", "vdi", "vhdx", "vpc"}

_REPAIR = "repair a copy of it with `qemu-img check -r all`, and look at the result"
_SECRET = "give its secret with --secret file=PATH"
_SECRET_OR_RAW = f"{_SECRET}, or say -f raw to take it as it is"


@dataclass(frozen=True)
class Wanted:
    """How a chain is to be read.

    Attributes:
        form: of the top file; None: found out by its first bytes.
        secret: a file with the passphrase of those that are encrypted.
        backing_form: of backing files whose format nobody has recorded.
    """

    form: str | None = None
    secret: Path | None = None
    backing_form: str | None = None


class Snapshot(NamedTuple):
    """A state of a disk that its image file remembers.

    Attributes:
        size: bytes that the disk had; None: as many as now.
    """

    id: str
    name: str
    size: int | None


@dataclass(frozen=True)
class VmFile:
    """One file of a chain, judged.

    Attributes:
        path: where it is.
        form: "qcow2", "raw", ...
        size: bytes of the disk that it makes with those below it.
        node: how qemu opens it alone.
        encrypted: whether the secret is needed.
        snapshots: those inside it.
    """

    path: Path
    form: str
    size: int
    node: Node
    encrypted: bool = False
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def backed(self) -> bool:
        """Whether the format knows backing files."""
        return self.form in _BACKED


def chain_of(path: Path, wanted: Wanted) -> list[VmFile]:
    """Return the files of a chain, bottom first, the one at path last.

    Raises Busy, Unsupported, FormatError, SourceMissing, SourceError or
    UsageError as the table above says; ObdError without qemu's tools.
    """
    found: list[VmFile] = []
    step: _Step | None = _Step(path, wanted.form or _detected(path, path))
    while step is not None:
        if any(step.path.samefile(file.path) for file in found if step.path.exists()):
            raise FormatError(str(step.path), "the chain of backing files is a circle")
        if len(found) == MAX_LAYERS:
            raise LimitError(f"{path}: a chain of more than {MAX_LAYERS} files")
        file, facts = _judged(step, wanted)
        found.insert(0, file)
        step = _below(file, facts, wanted)
    if wanted.secret and not any(file.encrypted for file in found):
        raise UsageError(f"{path}: --secret was given, and nothing is encrypted")
    return found


def is_vm_image(path: Path) -> bool:
    """Tell whether the file at path begins as one of FORMATS does."""
    try:
        with closing(FileSource(path)) as opened:
            return vm_format(opened) is not None
    except SourceError:
        return False  # reading it will say what is wrong


def snapshot_of(file: VmFile, wanted: str) -> Snapshot:
    """Return the snapshot of file whose id or name is wanted.

    Raises UsageError when there is none, or several with that name.
    """
    known = ", ".join(f"{one.id} ({one.name})" for one in file.snapshots)
    hint = f"it has {known}" if known else "it has none"
    for position in (0, 1):
        matches = [one for one in file.snapshots if one[position] == wanted]
        if len(matches) > 1:
            raise UsageError(f"{file.path}: snapshots {wanted!r}: several", hint=hint)
        if matches:
            return matches[0]
    raise UsageError(f"{file.path}: no snapshot {wanted!r}", hint=hint)


@dataclass(frozen=True)
class _Step:
    """A file on the way down a chain.

    Attributes:
        options: more that a json: name says of how to open it.
    """

    path: Path
    form: str
    options: Node = field(default_factory=dict)


def _detected(path: Path, name: Path) -> str:
    """Return the format of the file at path by its content, "raw" if by none."""
    with closing(FileSource(path)) as opened:
        return vm_format(opened) or "raw"


# -- One file


def _judged(step: _Step, wanted: Wanted) -> tuple[VmFile, dict[str, Any]]:
    """Return a file and what qemu-img says of it, or raise why it is refused."""
    path, name = step.path, str(step.path)
    _refuse_special(path)
    refuse_locked(path)
    node: Node = {**step.options, "driver": step.form, "file": _protocol(path)}
    header = _header(step)
    crypt, data = header.encryption, path
    if header.data_file is not None:
        data = _data_file(path, header.data_file)
        node["data-file"] = _protocol(data)
    if crypt:
        if wanted.secret is None:
            hint = _SECRET_OR_RAW if step.form == "luks" else _SECRET
            raise Unsupported(name, f"it is encrypted with {crypt}", hint=hint)
        node |= _key(step.form, crypt)
    if step.form == "raw" and not step.options:
        size = round_up(_file_size(path), SECTOR)
        return VmFile(path, "raw", size, node), {}
    alone = {**node, "backing": None} if step.form in _BACKED else node
    secret = wanted.secret if crypt else None
    facts = qemu.facts_of(name, alone, secret)
    _judge_facts(name, facts)
    _judge_content(path, data, alone, step.form, secret)
    size = int(facts["virtual-size"])
    snapshots = _snapshots(path, facts.get("snapshots", []))
    return VmFile(path, step.form, size, node, bool(crypt), snapshots), facts


def _snapshots(path: Path, rows: list[dict[str, Any]]) -> list[Snapshot]:
    if not rows:
        return []
    sizes = snapshot_sizes(path, len(rows))
    return [
        Snapshot(str(row["id"]), str(row["name"]), size)
        for row, size in zip(rows, sizes, strict=True)
    ]


def _refuse_special(path: Path) -> None:
    """Raise SourceError for what cannot be opened as a file, or never ends."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be looked at: {error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise SourceError(f"{path}: neither a regular file nor a block device")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: may not be read")


def _file_size(path: Path) -> int:
    with closing(FileSource(path)) as opened:
        return opened.size


def _protocol(path: Path) -> Node:
    kind = "host_device" if path.is_block_device() else "file"
    return {"driver": kind, "filename": str(path.absolute())}


def _header(step: _Step) -> Qcow2Header:
    """Return what has to be known of a file before it is opened."""
    if step.form == "qcow2":
        return read_header(step.path)
    return Qcow2Header("LUKS" if step.form == "luks" else None, None)


def _key(form: str, crypt: str) -> Node:
    if form == "luks":
        return {"key-secret": qemu.SECRET_ID}
    method = "luks" if crypt == "LUKS" else "aes"
    return {"encrypt": {"format": method, "key-secret": qemu.SECRET_ID}}


def _judge_facts(name: str, facts: dict[str, Any]) -> None:
    details = facts.get("format-specific", {}).get("data", {})
    if details.get("corrupt"):
        raise FormatError(name, "it is marked as corrupt", hint=_REPAIR)
    if facts.get("dirty-flag"):
        raise FormatError(
            name,
            "it is marked as dirty: who wrote to it did not end well",
            hint=_REPAIR,
        )


def _data_file(path: Path, name: str) -> Path:
    """Return the external data file of a qcow2, which must be there."""
    if not name:
        raise FormatError(str(path), "its data is in a file whose name is not recorded")
    found = _local(path, name, "data file")
    _refuse_missing(path, found, "data file")
    _refuse_special(found)
    refuse_locked(found)
    return found


def _judge_content(
    path: Path, data: Path, node: Node, form: str, secret: Path | None
) -> None:
    """Raise FormatError when the tables of a file are wrong, or it is cut short."""
    end = None
    if form in _CHECKED:
        found = _checked(str(path), node, secret)
        end = found.get("image-end-offset")
        if found.get("corruptions"):
            count = found["corruptions"]
            raise FormatError(
                str(path), f"qemu-img check finds {count} errors in it", hint=_REPAIR
            )
    size = _file_size(data)
    if form not in _PLACED or (data == path and end is not None and end <= size):
        return
    for offset, length in _places(str(path), node, secret):
        if offset + length > size:
            raise FormatError(
                str(data),
                "the file is cut short",
                expected=f"at least {offset + length} bytes",
                found=size,
            )


def _checked(name: str, node: Node, secret: Path | None) -> dict[str, Any]:
    """Return what `qemu-img check` says; raises when it cannot."""
    words = ("check", "--output=json", qemu.filename(node))
    done = qemu.run_qemu_img(*words, secret=secret, seconds=_CHECK_SECONDS)
    # 2: corrupt, 3: leaks, which harm nobody who reads.
    if done.returncode not in (0, 2, 3):
        raise qemu.failure(name, done.stderr.decode(errors="replace"))
    found: dict[str, Any] = json.loads(done.stdout)
    if found.get("check-errors"):
        raise FormatError(name, "qemu-img check cannot read all of it")
    return found


def _places(name: str, node: Node, secret: Path | None) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the data in a file, where the format says so."""
    if node["driver"] == "vmdk":
        return  # its offsets are those of several files
    words = ("map", "--output=json", qemu.filename(node))
    for row in json.loads(
        qemu.qemu_img(name, *words, secret=secret, seconds=_CHECK_SECONDS)
    ):
        if row["data"] and "offset" in row:
            yield row["offset"], row["length"]


# -- The way down


def _below(file: VmFile, facts: dict[str, Any], wanted: Wanted) -> _Step | None:
    """Return the backing file of a file, None when it has none."""
    name = facts.get("backing-filename")
    if not name or not file.backed:
        return None
    recorded = facts.get("backing-filename-format")
    if file.form == "vmdk":
        recorded = recorded or "vmdk"
    options: Node = {}
    if name.startswith("json:"):
        path, recorded, options = _described(file.path, name, recorded)
    else:
        path = _local(file.path, str(name), "backing file")
    _refuse_missing(file.path, path, "backing file")
    form = recorded or wanted.backing_form
    if form is None:
        looks = _detected(path, file.path)
        raise Unsupported(
            str(file.path),
            f"it does not record the format of its backing file {path}",
            hint=f"it looks like {looks}; say --backing-format if that is right, or "
            f"record it with `qemu-img rebase -u -b {name} -F {looks} {file.path}`",
        )
    if form not in (*FORMATS, "raw"):
        raise Unsupported(str(file.path), f"the format of its backing file is {form!r}")
    return _Step(path, form, options)


def _local(child: Path, name: str, what: str) -> Path:
    """Return the path that a file's name for another one means.

    As with qemu, it is relative to the file's own folder.
    """
    prefix, colon, rest = name.partition(":")
    if colon and "/" not in prefix:
        if prefix not in ("file", "host_device"):
            raise Unsupported(
                str(child),
                f"its {what} {name} is not a file of this machine",
                hint="fetch it, or flatten the image with `qemu-img convert`",
            )
        name = rest
    return child.parent / name


def _described(
    child: Path, name: str, recorded: str | None
) -> tuple[Path, str | None, Node]:
    """Return path, format and options that a json: name says.

    As with qemu, a relative path in it is relative to the working directory.
    """
    try:
        words = _nested(json.loads(name.removeprefix("json:")))
        if words.get("driver") in ("file", "host_device"):
            words = {"file": words}
        file = words.pop("file")
        path, form = file["filename"], words.pop("driver", recorded)
        known = isinstance(path, str) and (form is None or isinstance(form, str))
        known = known and file.get("driver", "file") in ("file", "host_device")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        known = False
    if not known or set(words) - {"offset", "size"}:
        raise Unsupported(
            str(child),
            f"its backing file is described in a way that is not understood: {name}",
        )
    return Path(_local(Path.cwd() / "x", path, "backing file")), form, words


def _nested(words: dict[str, Any]) -> dict[str, Any]:
    """Return {"file.filename": x} as {"file": {"filename": x}}."""
    found: dict[str, Any] = {}
    for key, value in words.items():
        outer, dot, inner = key.partition(".")
        if dot:
            found.setdefault(outer, {})[inner] = value
        else:
            found[key] = value
    return found


def _refuse_missing(child: Path, path: Path, what: str) -> None:
    try:
        missing = not path.exists()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{child}: its {what} {path}: {error}") from error
    if missing:
        raise SourceMissing(f"{child}: its {what} {path} is missing")
