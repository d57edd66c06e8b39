# SPDX-License-Identifier: Apache-2.0
"""
vm_export - a stack as an image file of a virtual machine, or as a chain of them.

qemu-img makes the empty file, and a qemu-nbd on it takes what the layers have:
of a chain every file gets what its layer maps, zeros too, and nothing else.
What is made appears when all of it is there, or nothing does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from obdengine import _core
from obdengine.blob import Progress
from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.errors import FormatError, UsageError
from obdengine.ops import qemu
from obdengine.ops.compare import verify
from obdengine.ops.contents import contents
from obdengine.ops.convert import to_raw
from obdengine.ops.disks import RawDisk, StackDisk
from obdengine.ops.layers import open_layers
from obdengine.ops.qemu import Node
from obdengine.ops.staging import (
    place_of,
    publish,
    publish_beside,
    refuse_filled,
    staging,
)
from obdengine.ops.vm_disks import NbdDisk
from obdengine.source.nbd import ALLOCATION, DEPTH, NbdClient
from obdengine.units import KIB, MIB, SECTOR, round_up

__all__ = [
    "CHAINED",
    "COMPRESSED",
    "TARGETS",
    "ExportOptions",
    "export_chain",
    "export_file",
]

# As qemu and obd convert -O call them.
TARGETS = ("qcow2", "vmdk", "vhdx", "vdi", "vpc")

CHAINED = ("qcow2",)  # what a chain can be made of
COMPRESSED = ("qcow2", "vmdk")

_STEP = 2 * MIB  # a multiple of every cluster size
_USUAL_CLUSTER = 64 * KIB
_SECONDS = 600.0

# What they name would not be where it should when the result is moved.
_REFUSED = ("backing_file", "backing_fmt", "data_file", "data_file_raw", "size")


@dataclass(frozen=True)
class ExportOptions:
    """How an image file is made.

    Attributes:
        create: for qemu-img create -o, each "name=value".
        compressed: write compressed clusters.
        checked: read the result again and compare.
    """

    create: tuple[str, ...] = ()
    compressed: bool = False
    checked: bool = False


def export_file(
    device: Device,
    dst: Path,
    form: str,
    options: ExportOptions,
    progress: Progress | None = None,
) -> None:
    """Write all of device to dst as one image file of format form, raw too.

    Raises UsageError for what the format cannot have, FormatError when the
    comparison finds a difference, and what reading and writing raise; dst is
    untouched then.
    """
    if options.compressed and form not in COMPRESSED:
        raise UsageError(f"{dst}: {form} has no compressed clusters")
    dst = place_of(dst)
    if form == "raw":
        _export_raw(device, dst, options, progress)
        return
    with staging(dst.parent) as staged:
        path = staged / dst.name
        cluster = _make(path, form, device.size, _creating(form, options))
        if options.compressed and device.size % cluster:
            _compress(device, path, form, options, progress)
        else:
            node = _node(path, form)
            written = {"driver": "compress", "file": node}
            with qemu.exported(
                str(dst), written if options.compressed else node, writable=True
            ) as client:
                _copy(device, client, cluster, progress)
                client.flush()
        _complete(path)
        if options.checked:
            _verify(device, dst.name, _node(path, form), progress)
        publish_beside(staged, dst)


def export_chain(
    files: Sequence[LayerFile],
    folder: Path,
    form: str,
    options: ExportOptions,
    progress: Progress | None = None,
) -> list[Path]:
    """Write each layer as an image file into folder, over that of the one below.

    Returns the files, bottom first. Raises as export_file() does, and
    UsageError when there is something in the folder.
    """
    refuse_filled(folder)
    if options.compressed:
        raise UsageError("a chain of files is not compressed")
    sizes = _sizes(files)
    names: list[str] = []
    with staging(folder if folder.is_dir() else folder.parent) as staged:
        for number, size in enumerate(sizes):
            path = staged / f"layer{number}.{form}"
            _make(path, form, size, _creating(form, options), below=names[-1:])
            names.append(path.name)
            with _opened(files[number : number + 1], size) as device:
                _write_layer(device, path, form, progress)
            if options.checked:
                with _opened(files[: number + 1], size) as device:
                    _verify(device, path.name, _node(path, form), progress)
        publish(staged, folder)
    return [folder / name for name in names]


def _export_raw(
    device: Device, dst: Path, options: ExportOptions, progress: Progress | None
) -> None:
    if options.create:
        raise UsageError("a raw disk has no options")
    with staging(dst.parent) as staged:
        to_raw(device, staged / dst.name, progress=progress)
        with RawDisk(staged / dst.name, any_content=True) as disk:
            if options.checked:
                verify(StackDisk(device), disk, progress)
        publish_beside(staged, dst)


# -- Making


def _creating(form: str, options: ExportOptions) -> list[str]:
    """Return what qemu-img create is told."""
    given = {option.partition("=")[0] for option in options.create}
    more = []
    if form == "vpc" and "force_size" not in given:
        more.append("force_size=on")  # else the size is that of a geometry
    if form == "vmdk" and options.compressed and "subformat" not in given:
        more.append("subformat=streamOptimized")
    return [*options.create, *more]


def _make(
    path: Path, form: str, size: int, create: Sequence[str], below: Sequence[str] = ()
) -> int:
    """Make an empty image file; return the bytes of its clusters."""
    words = []
    for option in create:
        if option.partition("=")[0] in _REFUSED:
            raise UsageError(f"-o {option}: is not for you to say here")
        words += ["-o", option]
    for name in below:
        words += ["-b", name, "-F", form]
    text = str(path.absolute())
    try:
        command = ("create", "-q", "-f", form, *words, text, str(size))
        qemu.qemu_img(path.name, *command, seconds=_SECONDS)
    except FormatError as error:
        raise UsageError(f"{path.name}: qemu-img create: {error.what}") from error
    facts = qemu.facts_of(path.name, _node(path, form))
    if facts["virtual-size"] != size:
        raise UsageError(
            f"{path.name}: {form} has no disk of {size} bytes, "
            f"the next is {facts['virtual-size']}"
        )
    return int(facts.get("cluster-size", _USUAL_CLUSTER))


def _node(path: Path, form: str) -> Node:
    file = {"driver": "file", "filename": str(path.absolute())}
    return {"driver": form, "file": file}


def _compress(
    device: Device, path: Path, form: str, options: ExportOptions,
    progress: Progress | None,
) -> None:  # fmt: skip
    """Write a disk that ends within a cluster, which only qemu-img compresses.

    It takes another file, not compressed, on the way.
    """
    plain = path.with_name("plain.qcow2")
    export_file(device, plain, "qcow2", ExportOptions(), progress)
    path.unlink()
    words = [word for o in _creating(form, options) for word in ("-o", o)]
    names = (qemu.filename(_node(plain, "qcow2")), str(path.absolute()))
    qemu.qemu_img(path.name, "convert", "-c", "-O", form, *words, *names, seconds=None)
    plain.unlink()


def _copy(
    device: Device, client: NbdClient, cluster: int, progress: Progress | None
) -> None:
    """Write all clusters that are not zero, each once and whole."""
    done = 0
    for start, end in StackDisk(device).ranges():
        offset = max(start // _STEP * _STEP, done)
        while offset < end:
            size = min(_STEP, device.size - offset)
            data = memoryview(bytearray(size))
            device.pread_into(offset, data)
            for low, high in _stored(data, min(cluster, _STEP)):
                client.pwrite(offset + low, data[low:high])
            offset = done = offset + size
            if progress:
                progress(done, device.size)
    if progress:
        progress(device.size, device.size)


def _stored(data: memoryview, cluster: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of clusters in data that are not zero."""
    zero = _core.zero_granules(data, cluster)
    start = zero.find(0)
    while start >= 0:
        end = zero.find(1, start)
        end = end if end >= 0 else len(zero)
        yield start * cluster, min(end * cluster, len(data))
        start = zero.find(0, end)


def _complete(path: Path) -> None:
    """Let a file end with a whole sector, as compressed ones may not."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate(round_up(size, SECTOR))


# -- Chains


def _sizes(files: Sequence[LayerFile]) -> list[int]:
    """Return how large the disk of each file of a chain must be, in bytes."""
    sizes: list[int] = []
    with ExitStack() as opened:
        for layer in open_layers(files, opened):
            sizes.append(layer.virtual_size or (sizes[-1] if sizes else 0))
    for number in range(1, len(sizes)):
        # What a small layer has below its end is there again in a larger one.
        if max(sizes[number:]) > sizes[number]:
            sizes[number] = max(sizes[number], sizes[number - 1])
    return sizes


def _opened(files: Sequence[LayerFile], size: int) -> Device:
    """Return a stack of layers, which are closed with it."""
    with ExitStack() as opened:
        layers = open_layers(files, opened)
        device = Device(layers, files[-1].name, size=size)
        opened.pop_all()
    return device


def _write_layer(
    device: Device, path: Path, form: str, progress: Progress | None
) -> None:
    node = _node(path, form)
    with qemu.exported(path.name, node, writable=True) as client:
        for piece in contents(device, progress=progress):
            offset = piece.start * SECTOR
            if piece.data is not None:
                client.pwrite(offset, piece.data)
            else:
                client.write_zeroes(offset, piece.length * SECTOR)
        client.flush()


def _verify(device: Device, name: str, node: Node, progress: Progress | None) -> None:
    with qemu.exported(name, node, contexts=(ALLOCATION, DEPTH)) as client:
        verify(StackDisk(device), NbdDisk(client), progress)
