# SPDX-License-Identifier: Apache-2.0
"""test_vm_import - image files as qemu makes them, as layers: the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

import obdengine
from obdengine.errors import FormatError, Unsupported, UsageError
from obdengine.ops import vm_import
from obdengine.ops.convert import to_layer
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.vm_disks import flat_level, levels_of
from obdengine.ops.vm_images import Wanted, chain_of, snapshot_of
from obdengine.ops.vm_import import Part, import_file, import_folder
from tests.ops import images, vm_files
from tests.ops.vm_files import KIB, MIB, qemu_img, qemu_io

pytestmark = vm_files.NEEDED

# 5 MiB and an odd number of sectors, with runs of zeros of every length.
DISK = images.random_disk(Random(21), 1300)[:-1536]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.sparse(tmp_path / "disk.raw", DISK)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The layer that the raw disk becomes."""
    folder = tmp_path_factory.mktemp("expected")
    path = images.sparse(folder / "disk.raw", DISK)
    to_layer(path, folder / "layer.obd", options=LayerOptions())
    return (folder / "layer.obd").read_bytes()


# Formats as qemu-img makes them; of all of them the disk is DISK.
FORMS: list[tuple[str, tuple[str, ...]]] = [
    ("qcow2", ("compat=0.10",)),
    ("qcow2", ("compat=1.1",)),
    *(("qcow2", (f"cluster_size={size}",)) for size in (512, 4096, 2 * MIB)),
    ("qcow2", ("extended_l2=on", "cluster_size=32k")),
    ("qcow2", ("lazy_refcounts=on", "refcount_bits=1")),
    *(("qcow2", (f"preallocation={how}",)) for how in ("metadata", "falloc", "full")),
    ("vmdk", ("subformat=monolithicSparse",)),
    ("vmdk", ("subformat=streamOptimized",)),
    ("vmdk", ("subformat=twoGbMaxExtentSparse",)),
    ("vmdk", ("subformat=monolithicFlat",)),
    ("vhdx", ()),
    ("vhdx", ("subformat=fixed",)),
    ("vdi", ()),
    ("vdi", ("static=on",)),
    ("vpc", ("force_size=on",)),
    ("vpc", ("subformat=fixed", "force_size=on")),
    ("qed", ()),
    ("qcow", ()),
    ("parallels", ()),
]


@pytest.mark.parametrize(("form", "options"), FORMS, ids=str)
def test_every_format_gives_the_same_layer(
    raw: Path, tmp_path: Path, expected: bytes, form: str, options: tuple[str, ...]
) -> None:
    path = vm_files.write(raw, tmp_path / f"disk.{form}", form, *options)
    target = tmp_path / "layer.obd"
    import_file(vm_files.whole(path), target, checked=True)
    made = vm_files.flat(path, tmp_path / "flat.raw", form)
    if len(made) == len(DISK):
        assert target.read_bytes() == expected
    else:  # parallels and vhdx round the size up
        assert made[: len(DISK)] == DISK
    with obdengine.open(target) as device:
        assert device.size == len(made)
        assert device.pread(0, device.size) == made


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", ["4k", "64k", "2M"])
def test_compressed(
    raw: Path, tmp_path: Path, expected: bytes, kind: str, cluster: str
) -> None:
    path = tmp_path / "disk.qcow2"
    options = f"compression_type={kind},cluster_size={cluster}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    import_file(vm_files.whole(path), tmp_path / "layer.obd")
    assert (tmp_path / "layer.obd").read_bytes() == expected


@pytest.mark.parametrize("raw_too", ["on", "off"])
def test_external_data_file(
    raw: Path, tmp_path: Path, expected: bytes, raw_too: str
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "disk.qcow2"
    data = f"data_file={folder}/disk.data,data_file_raw={raw_too}"
    vm_files.write(raw, path, "qcow2", data)
    qemu_img("amend", "-f", "qcow2", "-o", "data_file=disk.data", path)
    import_file(vm_files.whole(path), tmp_path / "layer.obd")
    assert (tmp_path / "layer.obd").read_bytes() == expected


def test_external_data_file_over_a_backing_file(raw: Path, tmp_path: Path) -> None:
    """The header has the format of one before the name of the other."""
    top = tmp_path / "top.qcow2"
    data = f"data_file={tmp_path}/top.data"
    vm_files.overlay(top, raw, "raw", data)
    qemu_io(top, "write -P 9 1M 64k")
    import_folder(vm_files.levels(top), tmp_path / "image", checked=True)
    check_chain([raw, top], tmp_path / "image", ["raw", "qcow2"])


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("qcow2", vm_files.LUKS),
        ("qcow2", vm_files.AES),
        ("luks", "key-secret=s,iter-time=10"),
    ],
)
def test_unlocked(
    raw: Path, tmp_path: Path, expected: bytes, form: str, options: str
) -> None:
    key = vm_files.secret(tmp_path / "key, with a comma")
    same_key = vm_files.secret(tmp_path / "key")  # to be named on a command line
    path = vm_files.encrypted(tmp_path / "disk", raw, same_key, form, options)
    level = vm_files.whole(path, secret=key)
    import_file(level, tmp_path / "layer.obd", checked=True)
    assert (tmp_path / "layer.obd").read_bytes() == expected


@pytest.mark.parametrize("size", [512, 4608, 65536, 2 * MIB + 512])
def test_sizes(tmp_path: Path, size: int) -> None:
    disk = Random(size).randbytes(size)
    raw = images.full(tmp_path / "disk.raw", disk)
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    import_file(vm_files.whole(path), tmp_path / "layer.obd")
    with obdengine.open(tmp_path / "layer.obd") as device:
        assert device.size == size
        assert device.pread(0, size) == disk


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "64T")
    qemu_io(path, f"write -P 7 {1 << 45} 2M")
    written = import_file(vm_files.whole(path), tmp_path / "layer.obd")
    assert written.data_size == 2 * MIB
    with obdengine.open(tmp_path / "layer.obd") as device:
        assert device.size == 1 << 46
        assert device.pread(1 << 45, MIB) == b"\7" * MIB


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, 0)
    with pytest.raises(UsageError, match="empty"):
        import_file(vm_files.whole(path), tmp_path / "layer.obd")
    assert not (tmp_path / "layer.obd").exists()


# -- Chains


def changes(chance: Random, size: int, count: int) -> list[str]:
    """Return commands of qemu-io that change a disk in every way."""
    found = []
    for _ in range(count):
        start = chance.randrange(size // 512) * 512
        length = min(chance.choice([512, 4096, 65536, 200 * KIB]), size - start)
        kind = chance.choice(["write -P 1", "write -P 0", "write -z", "write -z -u"])
        kind = kind.replace("-P 1", f"-P {chance.randrange(1, 256)}")
        found.append(f"{kind} {start} {length}")
    return found


def check_chain(files: Sequence[Path], folder: Path, forms: Sequence[str]) -> None:
    """Compare the stack up to each layer with the file that it is."""
    for number, (path, form) in enumerate(zip(files, forms, strict=True)):
        layers = [folder / f"layer{n}.obd" for n in range(number + 1)]
        made = vm_files.flat(path, folder.parent / "flat.raw", form)
        made += bytes(-len(made) % 512)
        with obdengine.open(layers) as device:
            assert device.size == len(made)
            assert device.pread(0, device.size) == made


@pytest.mark.parametrize("seed", range(3))
def test_chain_of_five(tmp_path: Path, seed: int) -> None:
    """Raw, QED and three kinds of qcow2 over each other."""
    chance = Random(seed)
    folder = tmp_path / "machine"
    folder.mkdir()
    disk = images.random_disk(chance, 1000)[: -512 * 3]
    files = [images.sparse(folder / "base.img", disk)]
    forms = ["raw", "qed", "qcow2", "qcow2", "qcow2"]
    options = [(), (), ("cluster_size=4k",), ("extended_l2=on",), ("compat=0.10",)]
    for number in range(1, 5):
        path = folder / f"disk{number}.{forms[number]}"
        words = [w for o in options[number] for w in ("-o", o)]
        below = ("-b", files[-1].name, "-F", forms[number - 1])
        qemu_img("create", "-q", "-f", forms[number], *below, *words, path)
        zeros = "compat=0.10" not in options[number]
        wanted = [c for c in changes(chance, len(disk), 12) if zeros or "-z" not in c]
        qemu_io(path, *wanted, form=forms[number])
        files.append(path)
    target = tmp_path / "image"
    written = import_folder(vm_files.levels(files[-1]), target, checked=True)
    assert len(written) == 5
    check_chain(files, target, forms)
    config = json.loads((target / "config.v1.json").read_text())
    for row, one in zip(config["lowers"], written, strict=True):
        assert (row["digest"], row["size"]) == (one.digest, one.size)
    with obdengine.open(target / "config.v1.json") as device:
        made = vm_files.flat(files[-1], tmp_path / "flat.raw")
        assert device.pread(0, device.size) == made


def test_chain_of_vmdk(raw: Path, tmp_path: Path) -> None:
    """Which names its files by their content ids as well."""
    base = vm_files.write(raw, tmp_path / "base.vmdk", "vmdk")
    top = tmp_path / "top.vmdk"
    below = ("-b", base.name, "-F", "vmdk")
    qemu_img("create", "-q", "-f", "vmdk", *below, top)
    qemu_io(top, "write -P 5 1M 100k", "write -z 3M 64k", form="vmdk")
    import_folder(vm_files.levels(top), tmp_path / "image", checked=True)
    check_chain([base, top], tmp_path / "image", ["vmdk", "vmdk"])


# Sizes of the disks in a chain, in KiB; each file changes its last 64 KiB.
SIZES = [
    (2048, 4096),
    (4096, 2048),
    (4096, 2048, 4096),
    (4096, 1024, 2048, 8192),
    (2048, 4096, 1024, 4096),
    (100, 300, 200),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_in_a_chain(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    files: list[Path] = []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.qcow2"
        below = ("-b", files[-1], "-F", "qcow2") if files else ()
        qemu_img("create", "-q", "-f", "qcow2", *below, path, f"{size}k")
        first = 0 if not files else size - 64
        qemu_io(path, f"write -P {number + 1} {first}k {size - first}k")
        files.append(path)
    target = tmp_path / "image"
    import_folder(vm_files.levels(files[-1]), target, checked=True)
    check_chain(files, target, ["qcow2"] * len(files))


def test_layers_hold_what_their_file_changes(tmp_path: Path) -> None:
    """Though a change of 4 KiB makes qemu copy a cluster of 64."""
    raw = images.full(tmp_path / "base.raw", Random(1).randbytes(MIB))
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    qemu_io(top, "write -P 1 100k 4k", "write -z 512k 64k", "write -z 5k 512")
    written = import_folder(vm_files.levels(top), tmp_path / "image")
    assert [one.data_size for one in written] == [MIB, 8 * KIB]
    assert written[1].zero_size == 64 * KIB
    check_chain([raw, top], tmp_path / "image", ["raw", "qcow2"])


def test_changes_that_are_alone(tmp_path: Path) -> None:
    """Zeros and data with nothing else of their file anywhere near."""
    raw = images.full(tmp_path / "base.raw", Random(1).randbytes(32 * MIB))
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    qemu_io(top, "write -z 5M 64k", "write -P 3 20M 64k", "write -z -u 29M 1M")
    written = import_folder(vm_files.levels(top), tmp_path / "image")
    assert (written[1].data_size, written[1].zero_size) == (64 * KIB, 17 * 64 * KIB)
    check_chain([raw, top], tmp_path / "image", ["raw", "qcow2"])


@pytest.mark.parametrize("offset", [0, 3 * MIB, 9 * MIB + 512])
def test_part_far_from_the_beginning(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "32M")
    qemu_io(path, "write -P 1 2M 64k", "write -P 2 10M 64k", "write -P 3 20M 64k")
    made = vm_files.flat(path, tmp_path / "flat.raw")[offset : offset + 8 * MIB]
    part = Part(offset, 8 * MIB)
    import_file(vm_files.whole(path), tmp_path / "a.obd", part=part, checked=True)
    with obdengine.open(tmp_path / "a.obd") as device:
        assert device.pread(0, device.size) == made


def test_chain_is_reproducible(tmp_path: Path) -> None:
    """The same disks give the same layers, whatever clusters they came in."""
    raw = images.full(tmp_path / "base.raw", images.random_disk(Random(5), 500))
    made = []
    commands = ["write -P 9 300k 70k", "write -P 0 1M 100k"]
    for name, options in [("a", ("cluster_size=4k",)), ("b", ("cluster_size=1M",))]:
        top = vm_files.overlay(tmp_path / f"{name}.qcow2", raw, "raw", *options)
        qemu_io(top, *commands)
        import_folder(vm_files.levels(top), tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        made.append([(path.name, path.read_bytes()) for path in files])
    assert made[0] == made[1]


def test_flat_chain_equals_its_content(raw: Path, tmp_path: Path) -> None:
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    qemu_io(top, *changes(Random(8), len(DISK) // 512 * 512, 20))
    import_file(vm_files.whole(top), tmp_path / "chain.obd")
    vm_files.flat(top, tmp_path / "flat.raw")
    to_layer(tmp_path / "flat.raw", tmp_path / "flat.obd")
    made = (tmp_path / "chain.obd").read_bytes()
    assert made == (tmp_path / "flat.obd").read_bytes()


def test_encrypted_chain(raw: Path, tmp_path: Path) -> None:
    key = vm_files.secret(tmp_path / "key")
    base = vm_files.encrypted(tmp_path / "base", raw, key, "qcow2", vm_files.LUKS)
    top = vm_files.overlay(tmp_path / "top.qcow2", base, "qcow2")
    import_folder(vm_files.levels(top, secret=key), tmp_path / "image", checked=True)
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.pread(0, device.size) == DISK


def test_names_of_backing_files(raw: Path, tmp_path: Path) -> None:
    """Relative, absolute, file: and json:, through a link to the folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    described = {"driver": "raw", "file": {"driver": "file", "filename": str(raw)}}
    dotted = {"driver": "raw", "file.driver": "file", "file.filename": str(raw)}
    names = ["../disk.raw", str(raw), f"file:{raw}"]
    names += [f"json:{json.dumps(words)}" for words in (described, dotted)]
    for name in names:
        top = tmp_path / "link" / "top.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", top, MIB)
        assert [file.path.resolve() for file in vm_files.chain(top)] == [
            raw,
            tmp_path / "sub" / "top.qcow2",
        ]
        import_file(vm_files.whole(top), tmp_path / "layer.obd")
        with obdengine.open(tmp_path / "layer.obd") as device:
            assert device.pread(0, MIB) == DISK[:MIB]


def test_described_part_of_a_file(tmp_path: Path) -> None:
    raw = images.full(tmp_path / "disk.raw", DISK)
    words: dict[str, Any] = {"driver": "file", "filename": str(raw)}
    words = {"driver": "raw", "offset": 64 * KIB, "size": MIB, "file": words}
    name, top = f"json:{json.dumps(words)}", tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", top, MIB)
    import_folder(vm_files.levels(top), tmp_path / "image", checked=True)
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.pread(0, MIB) == DISK[64 * KIB : 64 * KIB + MIB]


# -- Snapshots, parts, bases


def test_snapshots(raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    states = []
    for number in range(3):
        qemu_io(path, f"write -P {number + 1} {number * 300}k 100k")
        qemu_img("snapshot", "-c", f"state {number}", path)
        states.append(vm_files.flat(path, tmp_path / "flat.raw"))
    qemu_io(path, "write -z 0 5M")
    chain = chain_of(path, Wanted())
    for number, state in enumerate(states):
        for word in (f"state {number}", str(number + 1)):
            found = snapshot_of(chain[-1], word)
            import_file(flat_level(chain, snapshot=found), tmp_path / "a.obd")
            with obdengine.open(tmp_path / "a.obd") as device:
                assert device.pread(0, device.size) == state
    with pytest.raises(UsageError, match=r"1 \(state 0\)"):
        snapshot_of(chain[-1], "state 7")


def test_snapshot_of_a_disk_that_grew(raw: Path, tmp_path: Path) -> None:
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    qemu_img("snapshot", "-c", "one, two=2", path)
    qemu_img("snapshot", "-c", "another", path)
    qemu_img("resize", "-q", "-f", "qcow2", path, "9M")
    qemu_io(path, "write -P 3 0 9M")
    qemu_img("snapshot", "-c", "large", path)
    chain = chain_of(path, Wanted())
    assert [one.size for one in chain[-1].snapshots] == [len(DISK)] * 2 + [9 * MIB]
    found = snapshot_of(chain[-1], "one, two=2")
    level = flat_level(chain, snapshot=found)
    import_folder([level], tmp_path / "image", checked=True)
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.pread(0, device.size) == DISK


def test_snapshot_of_a_disk_that_was_cut(raw: Path, tmp_path: Path) -> None:
    """The rest of it is in the file, and qemu-nbd does not show it."""
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    qemu_img("snapshot", "-c", "one", path)
    qemu_img("resize", "-q", "-f", "qcow2", "--shrink", path, "1M")
    chain = chain_of(path, Wanted())
    level = flat_level(chain, snapshot=snapshot_of(chain[-1], "one"))
    with pytest.raises(Unsupported, match=f"had {len(DISK)} bytes in snapshot 'one'"):
        import_file(level, tmp_path / "a.obd")
    qemu_img("resize", "-q", "-f", "qcow2", path, len(DISK))
    chain = chain_of(path, Wanted())
    level = flat_level(chain, snapshot=snapshot_of(chain[-1], "one"))
    import_file(level, tmp_path / "a.obd")
    with obdengine.open(tmp_path / "a.obd") as device:
        assert device.pread(0, device.size) == DISK


def test_snapshot_of_the_top_of_a_chain(raw: Path, tmp_path: Path) -> None:
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    qemu_io(top, "write -P 1 1M 64k")
    qemu_img("snapshot", "-c", "then", top)
    then = vm_files.flat(top, tmp_path / "flat.raw")
    qemu_io(top, "write -P 2 2M 64k")
    chain = chain_of(top, Wanted())
    levels = levels_of(chain, snapshot=snapshot_of(chain[-1], "then"))
    written = import_folder(levels, tmp_path / "image", checked=True)
    assert written[1].data_size == 64 * KIB
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.pread(0, device.size) == then


def test_part_of_a_chain(tmp_path: Path) -> None:
    """The bottom file ends before the part, the next one inside it."""
    files: list[Path] = []
    for number, size in enumerate((512, 1536, 4096)):
        path = tmp_path / f"{number}.qcow2"
        below = ("-b", files[-1], "-F", "qcow2") if files else ()
        qemu_img("create", "-q", "-f", "qcow2", *below, path, f"{size}k")
        qemu_io(path, f"write -P {number + 1} {size - 300}k 300k")
        files.append(path)
    part = Part(MIB, 2 * MIB)
    levels = vm_files.levels(files[-1])
    written = import_folder(levels, tmp_path / "image", part=part, checked=True)
    assert [one.virtual_size for one in written] == [512 * KIB, 2 * MIB]
    made = vm_files.flat(files[-1], tmp_path / "flat.raw")
    with obdengine.open(tmp_path / "image" / "config.v1.json") as device:
        assert device.pread(0, device.size) == made[MIB : 3 * MIB]


def test_base(raw: Path, tmp_path: Path) -> None:
    to_layer(raw, tmp_path / "base.obd", options=LayerOptions(uuid="1" * 32))
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    qemu_io(top, "write -P 1 1M 64k")
    made = vm_files.flat(top, tmp_path / "flat.raw")
    target = tmp_path / "layer.obd"
    with obdengine.open(tmp_path / "base.obd") as base:
        written = import_file(vm_files.whole(top), target, base=base, checked=True)
    assert written.data_size == 64 * KIB
    assert written.parent_uuid == "11111111-1111-1111-1111-111111111111"
    with obdengine.open([tmp_path / "base.obd", target]) as device:
        assert device.pread(0, device.size) == made


# -- All or nothing


def test_comparison_finds_the_first_difference(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that lost a sector on its way does not appear."""
    write = vm_import.write_difference

    def lossy(disk: Any, below: Any, layer: Any, progress: Any) -> None:
        data = layer.data

        def change(start: int, payload: Any) -> None:
            copy = bytearray(payload)
            if start <= 5000 < start + len(copy) // 512:
                copy[(5000 - start) * 512 + 7] ^= 1
            data(start, copy)

        layer.data = change
        write(disk, below, layer, progress)

    monkeypatch.setattr(vm_import, "write_difference", lossy)
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    before = sorted(tmp_path.iterdir())
    at = 5000 * 512 + 7
    assert any(DISK[5000 * 512 : 5001 * 512])
    with pytest.raises(FormatError, match="does not read as") as caught:
        import_file(vm_files.whole(path), tmp_path / "layer.obd", checked=True)
    assert caught.value.offset == at
    with pytest.raises(FormatError, match="does not read as"):
        import_folder(vm_files.levels(path), tmp_path / "image", checked=True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("there", [True, False])
def test_failure_leaves_nothing(raw: Path, tmp_path: Path, there: bool) -> None:
    """An image whose second level cannot be read leaves no first layer."""
    folder = tmp_path / "image"
    if there:
        folder.mkdir()
    top = vm_files.overlay(tmp_path / "top.qcow2", raw, "raw")
    levels = vm_files.levels(top)
    top.unlink()
    with pytest.raises(obdengine.errors.ObdError):
        import_folder(levels, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["disk.raw", "image"] if there else ["disk.raw"]
    )
    assert not there or not list(folder.iterdir())


def test_folder_that_is_not_empty(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "mine").write_text("kept")
    path = vm_files.write(raw, tmp_path / "disk.qcow2", "qcow2")
    with pytest.raises(UsageError, match="not empty"):
        import_folder(vm_files.levels(path), folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
