# SPDX-License-Identifier: Apache-2.0
"""test_vm_export - stacks as image files, whole and in chains, by qemu's word."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import obdengine
from obdengine import config
from obdengine.device import Device
from obdengine.errors import FormatError, UsageError
from obdengine.ops import vm_export
from obdengine.ops.vm_export import ExportOptions, export_chain, export_file
from obdengine.ops.vm_import import import_folder
from obdengine.source.nbd import NbdClient
from tests import stacks
from tests.ops import images, vm_files
from tests.ops.vm_files import KIB, MIB, qemu_img
from tests.twins import writer
from tests.twins.writer import Lsmt, Run

pytestmark = vm_files.NEEDED


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    return stacks.make(tmp_path_factory.mktemp("image"))


@pytest.fixture
def device(image: stacks.Image) -> Iterator[Device]:
    with obdengine.open(image.config) as opened:
        yield opened


@pytest.fixture
def raw(image: stacks.Image, tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(image.disk)
    return path


WHOLE: list[tuple[str, tuple[str, ...], bool]] = [
    ("qcow2", (), False),
    ("qcow2", (), True),
    ("qcow2", ("compat=0.10",), False),
    ("qcow2", ("cluster_size=4k", "compression_type=zstd"), True),
    ("qcow2", ("cluster_size=2M",), True),
    ("qcow2", ("extended_l2=on", "cluster_size=64k"), False),
    ("qcow2", ("preallocation=metadata",), False),
    ("vmdk", (), False),
    ("vmdk", ("subformat=streamOptimized",), True),
    ("vmdk", ("subformat=twoGbMaxExtentSparse",), False),
    ("vmdk", ("subformat=monolithicFlat",), False),
    ("vhdx", (), False),
    ("vdi", (), False),
    ("vpc", (), False),
    ("vpc", ("subformat=fixed",), False),
]


@pytest.mark.parametrize(("form", "create", "compressed"), WHOLE, ids=str)
def test_whole(
    device: Device,
    raw: Path,
    tmp_path: Path,
    form: str,
    create: tuple[str, ...],
    compressed: bool,
) -> None:
    path = tmp_path / "made" / f"disk.{form}"
    path.parent.mkdir()
    export_file(device, path, form, ExportOptions(create, compressed, checked=True))
    vm_files.same(path, raw, form)
    assert vm_files.flat(path, tmp_path / "flat.raw", form) == raw.read_bytes()
    others = {other.name for other in path.parent.iterdir()} - {path.name}
    assert all(name.startswith("disk-") for name in others)
    vm_files.check(path, form)


def test_holes_stay_holes(tmp_path: Path) -> None:
    size = 4 << 40
    layer = writer.lsmt([Run(size // 512 - 128, b"\7" * 65536)], size, Lsmt())
    (tmp_path / "a.obd").write_bytes(layer)
    with obdengine.open(tmp_path / "a.obd") as device:
        path = tmp_path / "disk.qcow2"
        export_file(device, path, "qcow2", ExportOptions(("cluster_size=2M",)))
    assert path.stat().st_blocks * 512 < 16 * MIB
    rows = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", path))
    assert [row["length"] for row in rows if row["data"]] == [2 * MIB]


def test_compressed_is_smaller(tmp_path: Path) -> None:
    layer = writer.lsmt([Run(0, b"text" * (MIB // 2))], 4 * MIB, Lsmt())
    (tmp_path / "a.obd").write_bytes(layer)
    sizes = []
    with obdengine.open(tmp_path / "a.obd") as device:
        for compressed in (False, True):
            path = tmp_path / f"{compressed}.qcow2"
            export_file(device, path, "qcow2", ExportOptions((), compressed))
            sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] / 3


@pytest.mark.parametrize(
    "size", [512, 3 * 512, MIB, 65536 + 512, 100 * KIB, 2 * MIB + 1024]
)
@pytest.mark.parametrize(("form", "compressed"), [("qcow2", True), ("vmdk", True)])
def test_odd_sizes(tmp_path: Path, size: int, form: str, compressed: bool) -> None:
    disk = Random(size).randbytes(size)
    (tmp_path / "a.obd").write_bytes(writer.lsmt([Run(0, disk)], size, Lsmt()))
    path = tmp_path / f"disk.{form}"
    create = ("subformat=streamOptimized",) if form == "vmdk" else ()
    with obdengine.open(tmp_path / "a.obd") as device:
        export_file(device, path, form, ExportOptions(create, compressed, checked=True))
    assert vm_files.flat(path, tmp_path / "flat.raw", form) == disk
    assert path.stat().st_size % 512 == 0


# -- Chains


def layers_of(path: Path) -> list[config.LayerFile]:
    return config.resolve([path]).layers


def check_chain(files: list[Path], image: Any, folder: Path) -> None:
    """Compare every file with the layers that it is made of."""
    for number, path in enumerate(files):
        facts = json.loads(qemu_img("info", "-f", "qcow2", "--output=json", path))
        below = files[number - 1].name if number else None
        assert facts.get("backing-filename") == below
        with obdengine.open(image[: number + 1]) as device:
            made = vm_files.flat(path, folder / "flat.raw")
            assert made == device.pread(0, device.size)


def test_chain(image: stacks.Image, tmp_path: Path) -> None:
    folder = tmp_path / "chain"
    layers = layers_of(image.config)
    files = export_chain(layers, folder, "qcow2", ExportOptions(checked=True))
    assert files == [folder / f"layer{n}.qcow2" for n in range(3)]
    check_chain(files, image.layers, tmp_path)
    for path in files:
        vm_files.check(path, "qcow2")
    # Moved as a whole it is the same.
    folder.rename(tmp_path / "moved")
    made = vm_files.flat(tmp_path / "moved" / files[-1].name, tmp_path / "flat.raw")
    assert made == image.disk


def test_files_of_a_chain_hold_what_their_layer_does(tmp_path: Path) -> None:
    """Zeros that hide something are there, and nothing that is not mapped."""
    names = [tmp_path / "0.obd", tmp_path / "1.obd"]
    noise = Random(1).randbytes(MIB)
    names[0].write_bytes(writer.lsmt([Run(0, noise)], 4 * MIB, Lsmt()))
    runs = [Run(256, zeroed=256), Run(1024, b"\7" * 65536)]
    names[1].write_bytes(writer.lsmt(runs, 4 * MIB, Lsmt()))
    layers = config.resolve(names).layers
    files = export_chain(layers, tmp_path / "chain", "qcow2", ExportOptions())
    rows = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", files[1]))
    own = [
        (row["start"], row["length"], row["zero"]) for row in rows if not row["depth"]
    ]
    own = [one for one in own if one[1] < 3 * MIB]
    assert (128 * KIB, 128 * KIB, True) in own
    assert (512 * KIB, 64 * KIB, False) in own
    check_chain(files, names, tmp_path)


@pytest.mark.parametrize("sizes", [(4, 2, 4), (2, 4), (4, 2), (3, 1, 2, 4), (2, 0, 2)])
def test_sizes_in_a_chain(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    names = []
    for number, size in enumerate(sizes):
        names.append(tmp_path / f"{number}.obd")
        start = (size * MIB - 65536) // 512 if size else 0
        runs = [Run(start, bytes([number + 1]) * 65536)] if size else []
        names[-1].write_bytes(writer.lsmt(runs, size * MIB, Lsmt()))
    layers = config.resolve(names).layers
    files = export_chain(
        layers, tmp_path / "chain", "qcow2", ExportOptions((), False, True)
    )
    with obdengine.open(names) as device:
        made = vm_files.flat(files[-1], tmp_path / "flat.raw")
        assert made == device.pread(0, device.size)


def test_round_trip_of_a_chain(image: stacks.Image, tmp_path: Path) -> None:
    files = export_chain(
        layers_of(image.config), tmp_path / "chain", "qcow2", ExportOptions()
    )
    import_folder(vm_files.levels(files[-1]), tmp_path / "again", checked=True)
    for number in range(3):
        made = [tmp_path / "again" / f"layer{n}.obd" for n in range(number + 1)]
        with (
            obdengine.open(made) as again,
            obdengine.open(image.layers[: number + 1]) as first,
        ):
            assert again.pread(0, again.size) == first.pread(0, first.size)


# -- Refused, and all or nothing


@pytest.mark.parametrize(
    ("form", "create"),
    [
        ("qcow2", "cluster_size=5"),
        ("qcow2", "nonsense=1"),
        ("qcow2", "nonsense"),
        ("qcow2", "backing_file=x"),
        ("qcow2", "data_file=x"),
        ("vmdk", "subformat=nonsense"),
    ],
)
def test_refused_options(
    device: Device, tmp_path: Path, form: str, create: str
) -> None:
    with pytest.raises(UsageError):
        export_file(device, tmp_path / "disk", form, ExportOptions((create,)))
    assert not list(tmp_path.iterdir())


def test_compression_that_the_format_has_not(device: Device, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no compressed"):
        export_file(device, tmp_path / "d.vdi", "vdi", ExportOptions((), True))


def test_size_that_the_format_has_not(device: Device, tmp_path: Path) -> None:
    options = ExportOptions(("force_size=off",))
    with pytest.raises(UsageError, match="no disk of"):
        export_file(device, tmp_path / "disk.vpc", "vpc", options)
    assert not list(tmp_path.iterdir())


def test_other_file_in_the_way(device: Device, tmp_path: Path) -> None:
    (tmp_path / "disk-flat.vmdk").write_text("kept")
    options = ExportOptions(("subformat=monolithicFlat",))
    with pytest.raises(UsageError, match="in the way"):
        export_file(device, tmp_path / "disk.vmdk", "vmdk", options)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_what_is_no_file_is_not_replaced(
    device: Device, tmp_path: Path, form: str
) -> None:
    """Least of all a block device, whose place is a folder of its own."""
    fifo = tmp_path / "there"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="not a regular file"):
        export_file(device, fifo, form, ExportOptions(checked=True))
    assert fifo.is_fifo()


def test_link_stays_a_link(device: Device, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "disk.qcow2"
    link.symlink_to("there/real.qcow2")
    export_file(device, link, "qcow2", ExportOptions())
    assert link.is_symlink()
    assert (tmp_path / "there" / "real.qcow2").stat().st_size


def test_comparison_finds_what_was_lost(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = NbdClient.pwrite

    def lossy(self: NbdClient, offset: int, data: Any) -> None:
        copy = bytearray(data)
        copy[-1] ^= 1
        write(self, offset, copy)

    monkeypatch.setattr(NbdClient, "pwrite", lossy)
    with pytest.raises(FormatError, match="does not read as"):
        export_file(
            device, tmp_path / "disk.qcow2", "qcow2", ExportOptions(checked=True)
        )
    assert not list(tmp_path.iterdir())


def test_failure_leaves_what_was_there(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = images.full(tmp_path / "disk.qcow2", b"before")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vm_export, "_copy", fail)
    with pytest.raises(KeyboardInterrupt):
        export_file(device, path, "qcow2", ExportOptions())
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]
