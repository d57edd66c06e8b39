# SPDX-License-Identifier: Apache-2.0
"""test_tar - the wrapper: found where it is, refused where it lies."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdengine.blob import format, tar
from obdengine.errors import BadChecksum, BadHeader, FormatError, Unsupported
from obdengine.source import MemorySource

PAYLOAD = b"payload" * 111


def wrapped(payload: bytes = PAYLOAD) -> bytes:
    return tar.head(len(payload)) + payload + tar.tail(len(payload))


def found(raw: bytes) -> tar.Wrapping:
    return tar.unwrap(MemorySource(raw, "file.obd"))


def sealed(raw: bytes) -> bytes:
    """Return raw with the checksums of its first and third block put right."""
    blocks = bytearray(raw)
    for at in (0, 1024):
        blocks[at + 148 : at + 156] = b" " * 8
        total = sum(blocks[at : at + 512])
        blocks[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(blocks)


@pytest.mark.parametrize("name", ["layer2.lsmt", "layer4.lsmt", "layer5.lsmt"])
def test_golden_wrapper_is_ours(golden: Path, name: str) -> None:
    raw = (golden / "blocks-a" / name).read_bytes()
    kind, offset, size = found(raw)
    assert (kind, offset) == ("pax", tar.HEAD_SIZE)
    assert raw[:offset] == tar.head(size)
    assert raw[offset + size :] == tar.tail(size)


@given(st.integers(0, 2000))
def test_round_trip(size: int) -> None:
    assert found(wrapped(bytes(size))) == ("pax", tar.HEAD_SIZE, size)
    assert len(wrapped(bytes(size))) % 512 == 0


@pytest.mark.parametrize("size", [5, 99, 999, 10**7 - 1, 10**10, 2**62])
def test_record_counts_itself(size: int) -> None:
    record = tar.head(size)[512:1024].rstrip(b"\0")
    length, _, rest = record.partition(b" ")
    assert int(length) == len(record)
    assert rest == b"size=%d\n" % size


def test_python_reads_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(wrapped())) as opened:
        (member,) = opened.getmembers()
        assert member.name == "overlaybd.commit"
        content = opened.extractfile(member)
        assert content is not None
        assert content.read() == PAYLOAD


def test_we_read_pythons() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as made:
        member = tarfile.TarInfo("overlaybd.commit")
        member.size = len(PAYLOAD)
        made.addfile(member, io.BytesIO(PAYLOAD))
    assert found(file.getvalue()) == ("plain", 512, len(PAYLOAD))


def test_python_adds_other_pax_records() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        member = tarfile.TarInfo("overlaybd.commit")
        member.size = len(PAYLOAD)
        member.pax_headers = {"comment": "x" * 700}
        made.addfile(member, io.BytesIO(PAYLOAD))
    assert found(file.getvalue()) == ("pax", 2048, len(PAYLOAD))


def test_plain_header_without_a_size_takes_the_rest() -> None:
    raw = tar.head(0)[1024:] + PAYLOAD
    assert found(raw) == ("plain", 512, len(PAYLOAD))


def test_size_in_base_256() -> None:
    raw = bytearray(tar.head(0)[1024:] + PAYLOAD)
    raw[124:136] = b"\x80" + len(PAYLOAD).to_bytes(11, "big")
    raw = bytearray(sealed(bytes(raw.ljust(1536, b"\0"))))
    assert found(bytes(raw)) == ("plain", 512, len(PAYLOAD))


@pytest.mark.parametrize("raw", [b"", b"x" * 511, bytes(5000), PAYLOAD * 3])
def test_no_wrapper(raw: bytes) -> None:
    assert found(raw) == (None, 0, len(raw))


def test_checksum() -> None:
    raw = bytearray(wrapped())
    raw[3] ^= 1
    with pytest.raises(BadChecksum, match=r"file\.obd: offset 0: tar header"):
        found(bytes(raw))


@pytest.mark.parametrize("cut", [512, 600, 1023, 1500, 1536, 1536 + len(PAYLOAD) - 1])
def test_cut(cut: int) -> None:
    with pytest.raises(BadHeader, match=r"expected .* found"):
        found(wrapped()[:cut])


@pytest.mark.parametrize("kind", [b"5", b"2", b"g", b"L"])
def test_members_that_are_no_files(kind: bytes) -> None:
    raw = bytearray(wrapped())
    raw[1024 + 156 : 1024 + 157] = kind
    with pytest.raises(Unsupported, match="a regular file"):
        found(sealed(bytes(raw)))


@pytest.mark.parametrize(
    "record",
    [
        b"15 size=777",  # longer than there is
        b"0 size=777\n",
        b"99999999999999999999 size=777\n",
        b"x size=777\n",
        b"-1 size=777\n",
        b"12 size=-77\n",
        b"12 size=0x7\n",
        b"28 size=99999999999999999999\n",
        b"30 size=9223372036854775807\n\0\0",
        b"11 size777\n",
        b"\n",
    ],
)
def test_pax_records_that_make_no_sense(record: bytes) -> None:
    raw = bytearray(wrapped())
    raw[512:1024] = record.ljust(512, b"\0")
    raw[124:136] = b"%*o " % (11, len(record))
    with pytest.raises(FormatError):
        found(sealed(bytes(raw)))


@pytest.mark.parametrize("size", [b"77777777777 ", b"          0 ", b"          8 "])
def test_size_of_the_pax_records(size: bytes) -> None:
    raw = bytearray(wrapped())
    raw[124:136] = size
    with pytest.raises(BadHeader):
        found(sealed(bytes(raw)))


@given(st.binary(max_size=600), st.integers(0, 1535))
def test_any_bytes_give_an_answer_or_an_error(noise: bytes, at: int) -> None:
    raw = bytearray(wrapped())
    raw[at : at + len(noise)] = noise
    answer = outcome(sealed(bytes(raw)))
    if isinstance(answer, FormatError):
        assert answer.name == "file.obd"
        assert answer.offset is not None
    else:
        assert answer.offset + answer.size <= len(raw)


def outcome(raw: bytes) -> tar.Wrapping | FormatError:
    try:
        return found(raw)
    except FormatError as error:
        return error


def test_words() -> None:
    assert len(tar.head(1)) == tar.HEAD_SIZE
    assert format.TAR_END_SIZE == 1024
