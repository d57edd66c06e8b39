# SPDX-License-Identifier: Apache-2.0
"""test_tar - our reader of tars against Python's own, and where ours is stricter."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.errors import BadTar
from obdengine.ext4.tar import Member, TarReader
from obdengine.units import KIB, MIB
from tests.ext4 import tars
from tests.tools import requires, tool

KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "directory",
    tarfile.FIFOTYPE: "fifo",
}


class Dribble(io.BytesIO):
    """Gives fewer bytes than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 700))


def read(
    raw: bytes, stream: type[io.BytesIO] = io.BytesIO
) -> list[tuple[Member, bytes]]:
    opened = stream(raw)
    reader = TarReader(opened, "x.tar")
    found = []
    for member in reader:
        data = b"".join(bytes(part) for part in reader.data(4096))
        if member.pieces is not None:
            data = expanded(member, data)
        found.append((member, data))
    assert opened.tell() == len(raw)
    assert reader.position == len(raw)
    return found


def expanded(member: Member, data: bytes) -> bytes:
    whole = bytearray(member.size)
    for offset, length in member.pieces or []:
        whole[offset : offset + length], data = data[:length], data[length:]
    assert not data
    return bytes(whole)


words = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]),
    min_size=1,
    max_size=150,
).filter(lambda word: word.strip("/"))


@st.composite
def members(draw: st.DrawFn) -> tars.Member:
    kind = draw(st.sampled_from(sorted(KINDS)))
    fields: dict[str, object] = {
        "mode": draw(st.integers(0, 0o7777)),
        "uid": draw(st.sampled_from([0, 1000, 2_097_152, 4_294_967_295])),
        "gid": draw(st.integers(0, 100)),
        "mtime": draw(st.integers(0, 2**33 - 1)),
    }
    if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        fields["linkname"] = draw(words)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        fields["devmajor"], fields["devminor"] = draw(st.integers(0, 4095)), 7
    if kind == tarfile.REGTYPE:
        fields["data"] = draw(st.binary(max_size=2000))
    return tars.member(draw(words).rstrip("/") or "x", kind, **fields)


@given(
    st.lists(members(), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_as_tarfile_writes_them(given: list[tars.Member], form: int) -> None:
    raw = tars.tar(*given, format=form)
    for stream in (io.BytesIO, Dribble):
        found = read(raw, stream)
        assert len(found) == len(given)
        for (member, data), (info, content) in zip(found, given, strict=True):
            assert member.kind == KINDS[info.type]
            name = info.name.encode()
            assert member.name.rstrip(b"/") == name
            assert member.mode == info.mode
            assert (member.uid, member.gid) == (info.uid, info.gid)
            assert member.mtime == info.mtime * 10**9
            assert data == (content or b"")
            if info.linkname:
                assert member.target == info.linkname.encode()
            if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                assert (member.major, member.minor) == (info.devmajor, info.devminor)


@requires("tar")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_as_gnu_tar_writes_them(form: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    deep = root / ("d" * 40)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x" * 5000)
    (root / "link").symlink_to("d/f")
    (root / "hard").hardlink_to(deep / "f")
    raw = run_tar(root, f"--format={form}")
    found = {member.name: (member, data) for member, data in read(raw)}
    assert {name.rstrip(b"/") for name in found} == {
        b".",
        b"./" + b"d" * 40,
        b"./" + b"d" * 40 + b"/f",
        b"./link",
        b"./hard",
    }
    assert found[b"./link"][0].target == b"d/f"
    assert found[b"./"][0].kind == "directory"
    kinds = {found[b"./hard"][0].kind, found[b"./" + b"d" * 40 + b"/f"][0].kind}
    assert kinds == {"file", "link"}
    assert sorted(len(data) for _, data in found.values()) == [0, 0, 0, 0, 5000]


def run_tar(root: Path, *options: str) -> bytes:
    command = [tool("tar"), *options, "-cf", "-", "-C", str(root), "."]
    return subprocess.run(command, capture_output=True, check=True).stdout


@requires("tar")
@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("pieces", [0, 1, 3, 4, 5, 26, 200])
def test_sparse_files(version: str, pieces: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "s").open("wb") as out:
        for i in range(pieces):
            out.seek(i * 64 * KIB)
            out.write(b"%d" % i * 300)
        out.truncate(pieces * 64 * KIB + 10 * KIB)
    (root / "t").write_bytes(b"after")
    options = ["--format=gnu"]
    if version != "old":
        options = ["--format=pax", f"--sparse-version={version}"]
    raw = run_tar(root, "--sparse", *options)
    found = {member.name: (member, data) for member, data in read(raw)}
    member, data = found[b"./s"]
    assert data == (root / "s").read_bytes()
    assert member.pieces is not None or pieces == 0
    assert found[b"./t"][1] == b"after"


def test_pax_records_that_are_bytes() -> None:
    value = bytes(range(256))
    raw = (
        tars.raw_records(
            [
                (b"path", b"n\xff"),
                (b"linkpath", b"t\xfe\n"),
                (b"SCHILY.xattr.user.x", value),
                (b"LIBARCHIVE.xattr.user.x", b"AAAA"),
                (b"uid", b"4294967295"),
                (b"comment", b"with = and \n"),
            ]
        )
        + tars.header(b"short", 0, b"2")
        + tars.END
    )
    ((member, _),) = read(raw)
    assert (member.name, member.target) == (b"n\xff", b"t\xfe\n")
    assert member.xattrs == {b"user.x": value}
    assert member.uid == 4294967295


def test_global_records_are_for_all() -> None:
    raw = (
        tars.raw_records([(b"comment", b"of git"), (b"gid", b"7")], b"g")
        + tars.header(b"a")
        + tars.raw_records([(b"gid", b"8")])
        + tars.header(b"b")
        + tars.header(b"c")
    )
    assert [member.gid for member, _ in read(raw)] == [7, 8, 7]


def test_numbers_in_base_256() -> None:
    raw = tars.header(
        b"f",
        uid=b"\x80" + (70_000).to_bytes(7, "big"),
        mtime=b"\xff" + (-5).to_bytes(11, "big", signed=True),
    )
    ((member, _),) = read(raw)
    assert (member.uid, member.mtime) == (70_000, -5 * 10**9)


def test_prefix_and_trailing_slash() -> None:
    raw = tars.header(b"name", prefix=b"some/where") + tars.header(b"old/", kind=b"\0")
    found = [(member.name, member.kind) for member, _ in read(raw)]
    assert found == [(b"some/where/name", "file"), (b"old/", "directory")]


def test_what_has_no_data_whatever_it_says() -> None:
    raw = tars.header(b"d", 700, b"5") + tars.header(b"l", 700, b"1", target=b"x")
    assert [member.size for member, _ in read(raw)] == [0, 0]


def test_volume_labels_and_dumps_are_passed_over() -> None:
    raw = (
        tars.header(b"label", 0, b"V")
        + tars.header(b"dump", 5, b"D")
        + tars.padded(b"Yname")
        + tars.header(b"f", 1)
        + tars.padded(b"x")
    )
    assert [(m.name, m.kind) for m, _ in read(raw)] == [
        (b"dump", "directory"),
        (b"f", "file"),
    ]


def test_signed_checksum() -> None:
    block = bytearray(tars.header(b"\xe9t\xe9"))
    block[148:156] = b" " * 8
    total = sum(b - 256 if b > 127 else b for b in block)
    block[148:156] = b"%06o\0 " % total
    assert read(bytes(block))[0][0].name == b"\xe9t\xe9"


def test_ends() -> None:
    one = tars.header(b"f", 3) + tars.padded(b"abc")
    for end in (b"", tars.END, bytes(tars.BLOCK), bytes(10 * KIB), tars.END + b"junk"):
        assert [data for _, data in read(one + end)] == [b"abc"]


BROKEN = {
    "not a tar": (b"\x1f\x8b" + bytes(600), "checksum of a header"),
    "short header": (tars.header(b"f")[:300], "ends in the middle"),
    "short data": (tars.header(b"f", 1000) + bytes(600), "ends in the middle"),
    "no padding": (tars.header(b"f", 3) + b"abc", "ends in the middle"),
    "checksum": (tars.header(b"f", checksum=b"000001\0 "), "checksum of a header"),
    "damage later": (
        tars.header(b"a") + bytes(1) + tars.header(b"f")[1:] + tars.END,
        "checksum of a header",
    ),
    "lone zeros": (
        tars.header(b"a") + bytes(tars.BLOCK) + tars.header(b"f"),
        "and then the archive goes on",
    ),
    "octal": (tars.header(b"f", mode=b"89 "), "mode: expected octal digits"),
    "negative": (tars.header(b"f", uid=b"\xff" * 8), "uid: found -1"),
    "huge uid": (tars.header(b"f", uid=b"\x80" + b"\xff" * 7), "uid: expected 32 bits"),
    "huge size": (tars.header(b"f", length=b"\x80" + b"\xff" * 11), "size"),
    "huge device": (
        tars.header(b"f", kind=b"3", major=b"\x80\0\1" + bytes(5)),
        "devmajor: expected 32 bits",
    ),
    "huge time": (tars.header(b"f", mtime=b"\x80\x7f" + bytes(10)), "mtime"),
    "type": (tars.header(b"f", kind=b"Q"), "type of a member: found 'Q'"),
    "multi-volume": (tars.header(b"f", kind=b"M"), "type of a member"),
    "no name": (tars.header(b""), "without a name"),
    "nul": (tars.raw_records([(b"path", b"a\0b")]) + tars.header(b"f"), "a NUL"),
    "pax alone": (tars.raw_records([(b"path", b"a")]) + tars.END, "about the next one"),
    "pax length": (
        tars.header(b"p", 8, b"x") + tars.padded(b"9 path=a"),
        "a PAX record",
    ),
    "pax that goes nowhere": (
        tars.header(b"p", 6, b"x") + tars.padded(b"0 a=b\n"),
        "a PAX record",
    ),
    "pax without a space": (
        tars.header(b"p", 12, b"x") + tars.padded(b"6 a=b\nabcdef"),
        "a PAX record",
    ),
    "pax garbage": (
        tars.header(b"p", 8, b"x") + tars.padded(b"nonsense"),
        "a PAX record",
    ),
    "pax huge": (
        tars.header(b"p", 2 * MIB, b"x") + bytes(2 * MIB),
        "size of PAX records",
    ),
    "pax number": (
        tars.raw_records([(b"size", b"-5")]) + tars.header(b"f"),
        "size: expected a number",
    ),
    "pax digits": (
        tars.raw_records([(b"uid", "\u0665".encode())]) + tars.header(b"f"),
        "uid: expected a number",
    ),
    "pax time": (
        tars.raw_records([(b"mtime", b"1e9")]) + tars.header(b"f"),
        "mtime: expected seconds",
    ),
    "base64": (
        tars.raw_records([(b"LIBARCHIVE.xattr.user.x", b"*")]) + tars.header(b"f"),
        "not base64",
    ),
    "long name": (tars.header(b"L", 0, b"L"), "length of a name"),
    "huge name": (
        tars.header(b"L", 2 * MIB, b"L") + bytes(2 * MIB),
        "length of a name",
    ),
    "sparse order": (
        tars.raw_records(
            [(b"GNU.sparse.size", b"90"), (b"GNU.sparse.map", b"50,1,20,1")]
        )
        + tars.header(b"f", 2)
        + tars.padded(b"ab"),
        "map of a sparse file",
    ),
    "sparse past its end": (
        tars.raw_records([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"8,2")])
        + tars.header(b"f", 2)
        + tars.padded(b"ab"),
        "map of a sparse file",
    ),
    "sparse without data": (
        tars.raw_records([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,2")])
        + tars.header(b"f"),
        "data of a sparse file",
    ),
    "sparse odd map": (
        tars.raw_records([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0")])
        + tars.header(b"f"),
        "map of a sparse file",
    ),
    "sparse map without end": (
        tars.raw_records([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")])
        + tars.header(b"f", 512)
        + tars.padded(b"3\n1\n1\n"),
        "does not end",
    ),
    "sparse map of too many": (
        tars.raw_records([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")])
        + tars.header(b"f", 512)
        + tars.padded(b"99999999\n"),
        "too many pieces",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    raw, words = BROKEN[name]
    with pytest.raises(BadTar) as caught:
        read(raw)
    assert words in str(caught.value)
    assert str(caught.value).startswith("x.tar: ")


GOOD = tars.tar(
    tars.file("a", b"x" * 600, xattrs={"user.x": b"\xff"}, mtime=5.5),
    tars.folder("d"),
    tars.symlink("d/" + "n" * 120, "t" * 120),
    tars.link("l", "a"),
) + tars.tar(tars.file("g" * 200, b"y"), format=tarfile.GNU_FORMAT)


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(GOOD)),
    st.booleans(),
)
def test_damage_is_noticed_or_harmless(
    changes: list[tuple[int, int]], cut: int, mend: bool
) -> None:
    raw = bytearray(GOOD)
    for at, value in changes:
        raw[at] = value
    if mend:
        for at in range(0, len(raw), tars.BLOCK):
            block = raw[at : at + tars.BLOCK]
            if block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                raw[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    try:
        read(bytes(raw[:cut]))
    except BadTar:
        return
