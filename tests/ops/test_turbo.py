# SPDX-License-Identifier: Apache-2.0
"""test_turbo - container images become TurboOCI layers, and read as their tars say."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

import obdengine
from obdengine import ext4
from obdengine.config import resolve
from obdengine.errors import (
    BadChecksum,
    DigestMismatch,
    FormatError,
    LimitError,
    ObdError,
    Unsupported,
    UsageError,
)
from obdengine.oci import open_store, parse, read_blob, resolve_image, words
from obdengine.ops import turbo_build, turbo_targets
from obdengine.ops.build import BuildOptions, build
from obdengine.ops.check import check_image
from obdengine.ops.convert import to_raw
from obdengine.ops.known import KnownLayers
from obdengine.ops.targets import FolderTarget
from obdengine.ops.turbo_build import TurboBuilt, TurboOptions, build_turbo
from obdengine.ops.turbo_targets import TurboFolder, TurboStore
from obdengine.units import GIB, MIB
from tests.oci_images import digest_of, make_layout, small_tar
from tests.tools import requires

OPTIONS = TurboOptions(size=GIB)


def converted(
    layout: Path, target: Path | str, options: TurboOptions = OPTIONS
) -> TurboBuilt:
    """Make TurboOCI layers over a layout's image, in a folder or under a tag."""
    reference = parse(f"oci:{layout}:latest")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        place: Any
        if isinstance(target, Path):
            place = TurboFolder(target)
        else:
            place = TurboStore(store, target, layout)
        return build_turbo(store, image, place, options=options)


def tree_of(config: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return all that the file system of an image says, contents as hashes."""
    found: dict[bytes, tuple[Any, ...]] = {}
    with obdengine.open(config) as device, ext4.open_file_system(device) as volume:
        for entry in volume.walk():
            content = ""
            if entry.mode & 0o170000 == 0o100000:
                content = hashlib.sha256(volume.read_file(entry.path)).hexdigest()
            found[entry.path] = (
                *(entry.mode, entry.uid, entry.gid, entry.links, entry.size),
                *(entry.mtime, entry.target, entry.rdev, dict(entry.xattrs), content),
            )
    return found


def plainly(layout: Path, target: Path) -> Path:
    """Convert the same image into ordinary layers."""
    reference = parse(f"oci:{layout}:latest")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        build(store, image, FolderTarget(target), options=BuildOptions(size=GIB))
    return target / "config.v1.json"


@pytest.fixture(scope="module")
def tars(golden: Path) -> list[bytes]:
    return [(golden / "ext4-c" / f"layer{n}.tar").read_bytes() for n in range(3)]


@requires("e2fsck")
@pytest.mark.parametrize(
    "packed", [["gzip", "none", "gzip"], ["zstd", "gzip", "none"]], ids="-".join
)
def test_golden_tars(
    tars: list[bytes], packed: list[str], golden: Path, tmp_path: Path, e2fsck: Any
) -> None:
    layout = make_layout(tmp_path / "layout", tars, packed=packed)
    before = {path: path.read_bytes() for path in (layout / "blobs").rglob("*/*")}
    built = converted(layout, tmp_path / "turbo")
    config = tmp_path / "turbo" / "config.v1.json"
    wanted = json.loads((golden / "turbo-c" / "expected.json").read_bytes())
    found = tree_of(config)
    for name, digest in wanted["tree_sha256"].items():
        assert found[name.encode()][-1] == digest, name
    assert found == tree_of(plainly(layout, tmp_path / "plain"))
    e2fsck(config)
    assert check_image(resolve([config]).layers).damage == []
    # The metadata is small, and no original layer was touched or copied.
    assert sum(piece.size for piece in built.layers) < 60_000
    assert before == {path: path.read_bytes() for path in before}
    rows = json.loads(config.read_bytes())["lowers"]
    assert [Path(row["targetFile"]).parent.name for row in rows] == ["sha256"] * 3
    assert ["gzipIndex" in row for row in rows] == [word != "none" for word in packed]


@pytest.fixture
def e2fsck(tmp_path: Path) -> Callable[[Path], None]:
    import subprocess

    def check(config: Path) -> None:
        raw = tmp_path / "disk.raw"
        with obdengine.open(config) as device:
            to_raw(device, raw)
        done = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    return check


def test_same_bytes_again(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    for name in ("one", "two"):
        converted(layout, tmp_path / name)
    for path in (tmp_path / "one").glob("layer-*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    one, two = (converted(layout, tag).layers for tag in ("one", "two"))
    assert one == two


# -- Odd tars


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> bytes:
    """Return a member as it stands in a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info.tobuf() + data + bytes(-len(data) % 512)


END = bytes(1024)


def image_of(folder: Path, layers: list[bytes], packed: str = "gzip") -> Path:
    layout = make_layout(folder / "layout", layers, packed=packed)
    converted(layout, folder / "turbo")
    assert (
        check_image(resolve([folder / "turbo" / "config.v1.json"]).layers).damage == []
    )
    return folder / "turbo" / "config.v1.json"


def content(config: Path, name: str) -> bytes:
    with obdengine.open(config) as device, ext4.open_file_system(device) as volume:
        return volume.read_file(name)


def test_last_sectors_that_are_not_zero(tmp_path: Path) -> None:
    """What a tar has behind a file is not what the file's block has there."""
    odd = bytearray(member("a", b"x" * 700) + member("b", b"y" * 512) + END)
    odd[512 + 700 : 512 + 1024] = b"?" * 324
    config = image_of(tmp_path, [bytes(odd)])
    assert content(config, "/a") == b"x" * 700
    assert content(config, "/b") == b"y" * 512
    with obdengine.open(config) as device, ext4.open_file_system(device) as volume:
        for name, size in (("/a", 700), ("/b", 512)):
            (run,) = volume.file_extents(name)
            block = device.pread(run.device_offset, 4096)
            assert block[size:] == bytes(4096 - size)


def test_tails_over_what_was_there(tmp_path: Path) -> None:
    """A block that a lower file left has none of it behind the new file's end."""
    below = member("old", b"o" * 400_000) + END
    above = member(".wh.old") + b"".join(
        member(f"new{n}", bytes([65 + n]) * (513 + 700 * n)) for n in range(20)
    )
    config = image_of(tmp_path, [below, above + END])
    with obdengine.open(config) as device, ext4.open_file_system(device) as volume:
        for n in range(20):
            size = 513 + 700 * n
            runs = volume.file_extents(f"/new{n}")
            data = b"".join(device.pread(r.device_offset, r.length) for r in runs)
            assert data[:size] == bytes([65 + n]) * size
            assert not any(data[size:])


@requires("e2fsck")
@pytest.mark.parametrize("seed", range(2))
def test_members_that_take_the_place_of_others(
    seed: int, tmp_path: Path, e2fsck: Any
) -> None:
    """Blocks have many owners while such a tar is applied, in the end one."""
    chance = Random(seed)
    layers = []
    for _ in range(2):
        parts = []
        for number in range(90):
            name = f"n{chance.randrange(12)}"
            what = chance.randrange(5)
            if what == 0:
                parts.append(member(f"{name}/", kind=tarfile.DIRTYPE))
                parts += [member(f"{name}/{'f' * 200}{n}", b"d") for n in range(30)]
            elif what == 1:
                # Longer than an inode holds: it gets a block, there and then.
                link = f"{number}" * 45
                parts.append(member(name, kind=tarfile.SYMTYPE, link=link))
            else:
                size = chance.choice([0, 1, 511, 512, 4096, 5000, 40_000])
                parts.append(member(name, bytes([number + 1]) * size))
        layers.append(b"".join(parts) + END)
    config = image_of(tmp_path, layers, "gzip")
    e2fsck(config)
    plain = plainly(tmp_path / "layout", tmp_path / "plain")
    assert tree_of(config) == tree_of(plain)


def test_sparse_members(tmp_path: Path) -> None:
    spool = io.BytesIO()
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("sparse")
        stored = b"1\n8192\n4096\n".ljust(512, b"\0") + b"z" * 4096
        info.size = len(stored)
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "sparse",
            "GNU.sparse.realsize": "20000",
        }
        tar.addfile(info, io.BytesIO(stored))
    config = image_of(tmp_path, [spool.getvalue()])
    wanted = bytes(8192) + b"z" * 4096 + bytes(20000 - 12288)
    assert content(config, "/sparse") == wanted


def test_large_file_of_many_entries(tmp_path: Path) -> None:
    data = Random(8).randbytes(20 * MIB + 77)
    config = image_of(tmp_path, [small_tar(large=data)])
    assert content(config, "/large") == data


# -- In a store


def test_as_an_image_of_a_layout(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    built = converted(layout, "turbo")
    with closing(open_store(parse(f"oci:{layout}:turbo"))) as store:
        image = resolve_image(store, "turbo")
        original = resolve_image(store, "latest")
        for layer, under, diff_id, piece in zip(
            image.layers, original.layers, image.diff_ids, built.layers, strict=True
        ):
            notes = layer.annotations
            assert notes[words.TARGET_DIGEST] == under.digest == piece.target_digest
            assert notes[words.TARGET_MEDIA_TYPE] == under.media_type
            assert notes[words.VERSION] == words.VERSION_TURBO
            assert notes[words.BLOB_DIGEST] == layer.digest == piece.digest
            tar = gzip.decompress(read_blob(store, layer))
            assert digest_of(tar) == diff_id
            with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
                names = archive.getnames()
            assert names == ["ext4.fs.meta", ".turbo.ociv1", "gzip.meta"]
            assert store.has_blob(under)


def test_image_of_a_layout_reads_as_a_folder(
    tars: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBD_CACHE", str(tmp_path / "cache"))
    layout = make_layout(tmp_path / "layout", tars)
    converted(layout, "turbo")
    converted(layout, tmp_path / "folder")
    config = tmp_path / "folder" / "config.v1.json"
    with obdengine.open(f"oci:{layout}:turbo") as one, obdengine.open(config) as other:
        assert one.size == other.size
        for extent in other.extents():
            at, size = extent.offset, min(extent.length, MIB)
            assert one.pread(at, size) == other.pread(at, size)


def test_from_an_archive_the_originals_are_copied(
    tars: list[bytes], tmp_path: Path
) -> None:
    layout = make_layout(tmp_path / "layout", tars[:1], packed="zstd")
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(layout, arcname=".")
    reference = parse(f"oci-archive:{archive}:latest")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        build_turbo(store, image, TurboFolder(tmp_path / "out"), options=OPTIONS)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        *("config.v1.json", "image.json", "layer-1.ext4.fs.meta"),
        *("layer-1.gzip.meta", "layer-1.tar.zst"),
    ]
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert b"etc/passwd" in tree_of(moved / "config.v1.json")


def test_nothing_is_left_of_copies(tars: list[bytes], tmp_path: Path) -> None:
    """As between registries: neither side has files of this machine."""
    layout = make_layout(tmp_path / "layout", tars)
    reference = parse(f"oci:{layout}:latest")
    (tmp_path / "work").mkdir()
    for tag in ("one", "two"):
        with closing(open_store(reference)) as store, pytest.MonkeyPatch.context() as m:
            m.setattr(turbo_targets, "_place", lambda store, layer: None)
            image = resolve_image(store, reference.which)
            target = TurboStore(store, tag, tmp_path / "work")
            if tag == "two":
                m.setattr(turbo_build, "write_turbo", None)
                with pytest.raises(TypeError):
                    build_turbo(store, image, target, options=OPTIONS)
            else:
                build_turbo(store, image, target, options=OPTIONS)
        assert list((tmp_path / "work").iterdir()) == []


# -- What was made before


def reused(built: TurboBuilt) -> list[bool]:
    return [piece.reused for piece in built.layers]


def made_of(built: TurboBuilt) -> list[Any]:
    """Return all that is known of the layers but whether they are reused."""
    return [replace(piece, reused=False) for piece in built.layers]


def test_known_layers_are_not_made_again(
    tars: list[bytes], tmp_path: Path, applied: list[str]
) -> None:
    options = replace(OPTIONS, known=KnownLayers(tmp_path / "cache"))
    packed = ["gzip", "none", "zstd"]
    layout = make_layout(tmp_path / "layout", tars, packed=packed)
    first = converted(layout, tmp_path / "1", options)
    assert reused(first) == [False] * 3
    applied.clear()
    second = converted(layout, tmp_path / "2", options)
    assert (applied, reused(second), made_of(second)) == ([], [True] * 3, first.layers)
    for path in (tmp_path / "1").glob("*.meta"):
        assert (tmp_path / "2" / path.name).read_bytes() == path.read_bytes()
    one, two = (tree_of(tmp_path / f"{n}" / "config.v1.json") for n in (1, 2))
    assert one == two

    # Another image on the same two layers: only its own is made, and the same.
    others = [*tars[:2], small_tar(new="x")]
    other = make_layout(tmp_path / "other", others, packed=packed)
    third = converted(other, tmp_path / "3", options)
    assert (reused(third), len(applied)) == ([True, True, False], 1)
    assert made_of(converted(other, tmp_path / "4")) == made_of(third)

    # The same files, compressed in another way, and a disk of another size.
    again = make_layout(tmp_path / "again", tars, packed=["zstd", "none", "none"])
    found = reused(converted(again, tmp_path / "5", options))
    assert found == [False, True, False]
    larger = replace(options, size=2 * GIB)
    assert reused(converted(layout, tmp_path / "6", larger)) == [False] * 3


def test_known_layers_of_folders_and_layouts(
    tars: list[bytes], tmp_path: Path, applied: list[str]
) -> None:
    """Two files here, one blob there: either is made of the other."""
    layout = make_layout(tmp_path / "layout", tars)
    pairs: list[tuple[Any, Any]] = [("a", tmp_path / "b"), (tmp_path / "c", "d")]
    for number, (first, second) in enumerate([*pairs, ("e", "f")]):
        options = replace(OPTIONS, known=KnownLayers(tmp_path / f"cache-{number}"))
        once = converted(layout, first, options)
        applied.clear()
        twice = converted(layout, second, options)
        third = converted(layout, tmp_path / f"third-{number}", options)
        assert (reused(once), applied) == ([False] * 3, [])
        assert (reused(twice), reused(third)) == ([True] * 3, [True] * 3)
    with closing(open_store(parse(f"oci:{layout}:a"))) as store:
        digests = {resolve_image(store, tag).descriptor.digest for tag in "adef"}
    assert len(digests) == 1


def test_known_layer_that_is_gone(
    tars: list[bytes], tmp_path: Path, applied: list[str]
) -> None:
    options = replace(OPTIONS, known=KnownLayers(tmp_path / "cache"))
    layout = make_layout(tmp_path / "layout", tars)
    first = converted(layout, tmp_path / "1", options)
    (tmp_path / "1" / "layer-1.gzip.meta").unlink()
    damaged = tmp_path / "1" / "layer-3.ext4.fs.meta"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    second = converted(layout, tmp_path / "2", options)
    assert (reused(second), made_of(second)) == ([False, True, False], first.layers)
    assert reused(converted(layout, tmp_path / "3", options)) == [True] * 3


def test_notes_that_make_no_sense(tars: list[bytes], tmp_path: Path) -> None:
    known = KnownLayers(tmp_path / "cache")
    options = replace(OPTIONS, known=known)
    layout = make_layout(tmp_path / "layout", tars[:1])
    first = converted(layout, tmp_path / "1", options)
    with sqlite3.connect(known.path) as database:
        (text,) = database.execute("select facts from layers").fetchone()
        for number, bad in enumerate(
            ["{}", '{"meta": 5}', text.replace("sha256:", "md5:"), '{"meta": [1, 2]}']
        ):
            database.execute("update layers set facts = ?", (bad,))
            database.commit()
            built = converted(layout, tmp_path / f"x{number}", options)
            assert (reused(built), built.layers) == ([False], first.layers)
    database.close()


# -- What cannot be


def broken(layout: Path, blob: bytes, change: Callable[[bytes], bytes]) -> None:
    path = layout / "blobs" / digest_of(blob).replace(":", "/")
    path.write_bytes(change(blob))


def test_refused_and_nothing_left(tmp_path: Path) -> None:
    large = small_tar(zeros=bytes(40 << 20))
    cases: list[tuple[list[bytes], str, type[ObdError]]] = [
        ([large], "zstd", Unsupported),
        ([b"no tar" * 200], "gzip", FormatError),
    ]
    for number, (layers, packed, kind) in enumerate(cases):
        layout = make_layout(tmp_path / f"layout{number}", layers, packed=packed)
        with pytest.raises(kind):
            converted(layout, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_damaged_layer(tmp_path: Path) -> None:
    tar = small_tar(a="b" * 5000)
    layout = make_layout(tmp_path / "layout", [tar])
    raw = gzip.compress(tar, mtime=0)
    broken(layout, raw, lambda blob: blob[:-5] + bytes([blob[-5] ^ 1]) + blob[-4:])
    with pytest.raises((BadChecksum, DigestMismatch)):
        converted(layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_disk_that_is_too_small(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars)
    with pytest.raises(LimitError):
        converted(layout, tmp_path / "out", TurboOptions(size=3 * MIB))
    assert not (tmp_path / "out").exists()


def test_image_of_overlaybd_already(tars: list[bytes], tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", tars[:1])
    converted(layout, "turbo")
    reference = parse(f"oci:{layout}:turbo")
    with closing(open_store(reference)) as store:
        image = resolve_image(store, reference.which)
        with pytest.raises(UsageError, match="already"):
            build_turbo(store, image, TurboFolder(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
    converted(layout, tmp_path / "twice")
    with pytest.raises(UsageError, match="an image already"):
        converted(layout, tmp_path / "twice")


def test_zstd_in_small_frames(tmp_path: Path) -> None:
    """As zstd:chunked has them: such a layer can be read from within."""
    tar = small_tar(zeros=bytes(40 << 20), end="end")
    frames = [zstandard.compress(tar[at : at + MIB]) for at in range(0, len(tar), MIB)]
    layout = make_layout(tmp_path / "layout", [tar], packed="zstd")
    raw = b"".join(frames)
    whole = zstandard.compress(tar)
    for path in (layout / "blobs" / "sha256").iterdir():
        text = path.read_bytes()
        if text == whole:
            path.unlink()
            continue
        text = text.replace(digest_of(whole).encode(), digest_of(raw).encode())
        text = text.replace(b'"size": %d' % len(whole), b'"size": %d' % len(raw))
        path.write_bytes(text)
    (layout / "blobs" / digest_of(raw).replace(":", "/")).write_bytes(raw)
    _mend_digests(layout)
    converted(layout, tmp_path / "out")
    assert content(tmp_path / "out" / "config.v1.json", "/end") == b"end"


def _mend_digests(layout: Path) -> None:
    """Give blobs that were changed their names, and the index the new digest."""
    index = layout / "index.json"
    for path in list((layout / "blobs" / "sha256").iterdir()):
        new = digest_of(path.read_bytes())
        if path.name != new.partition(":")[2]:
            path.rename(path.with_name(new.partition(":")[2]))
            text = index.read_text().replace(f"sha256:{path.name}", new)
            index.write_text(text)
