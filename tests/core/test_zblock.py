# SPDX-License-Identifier: Apache-2.0
"""test_zblock - blocks of either codec, from C to Python and back, and damage."""

from __future__ import annotations

from itertools import accumulate, pairwise
from random import Random

import pytest

from obdengine.errors import BadBlock, BadChecksum, BadJumpTable, FormatError
from tests.twins import invent, zblock
from tests.twins.zblock import ALGO_LZ4, ALGO_ZSTD

ALGOS = pytest.mark.parametrize("algo", [ALGO_LZ4, ALGO_ZSTD], ids=["lz4", "zstd"])
VERIFY = pytest.mark.parametrize("verify", [True, False], ids=["crc", "bare"])


def pieces(stored, lengths):
    edges = list(accumulate(lengths, initial=0))
    assert edges[-1] == len(stored)
    return [stored[a:b] for a, b in pairwise(edges)]


@ALGOS
@VERIFY
@pytest.mark.parametrize("block_size", [4096, 16384, 65536])
def test_each_reads_what_the_other_wrote(kernels, core, algo, verify, block_size):
    chance = Random(block_size)
    kind = {"algo": algo, "verify": verify}
    for _ in range(6):
        data = invent.sectors(chance, chance.randint(1, 300))[chance.randrange(511) :]
        how = kind | {"block_size": block_size, "level": 3}
        stored, lengths = kernels.encode_blocks(data, **how)
        for number, piece in enumerate(pieces(stored, lengths)):
            plain = data[number * block_size :][:block_size]
            assert zblock.decode_block(piece, len(plain), **kind) == plain
            assert core.decode_block(piece, len(plain), **kind) == plain


@ALGOS
def test_crc_is_over_the_compressed_bytes(kernels, algo):
    how = {"algo": algo, "level": 1, "block_size": 4096}
    bare, _ = kernels.encode_blocks(b"abc" * 999, verify=False, **how)
    with_crc, lengths = kernels.encode_blocks(b"abc" * 999, verify=True, **how)
    assert with_crc[:-4] == bare
    assert lengths == [len(bare) + 4]
    crc = int.from_bytes(with_crc[-4:], "little")
    assert crc == kernels.crc32c(bare, 100007)


@ALGOS
def test_flips_are_seen(kernels, algo):
    chance = Random(5)
    data = chance.randbytes(300) * 10
    stored, _ = kernels.encode_blocks(
        data, algo=algo, level=1, block_size=4096, verify=True
    )
    for _ in range(60):
        damaged = bytearray(stored)
        damaged[chance.randrange(len(stored))] ^= 1 << chance.randrange(8)
        with pytest.raises(BadChecksum) as raised:
            kernels.decode_block(
                bytes(damaged), 3000, algo=algo, verify=True, name="f", offset=77
            )
        assert (raised.value.name, raised.value.offset) == ("f", 77)


@ALGOS
@pytest.mark.parametrize("size", [2999, 3001, 1, 65536])
def test_size_must_be_exact(kernels, algo, size):
    stored, _ = kernels.encode_blocks(
        b"x1y" * 1000, algo=algo, level=1, block_size=4096, verify=True
    )
    with pytest.raises(BadBlock):
        kernels.decode_block(stored, size, algo=algo, verify=True, name="f")


@ALGOS
def test_garbage_without_crc_is_an_error_or_the_right_size(kernels, algo):
    chance = Random(6)
    stored, _ = kernels.encode_blocks(
        chance.randbytes(64) * 60, algo=algo, level=1, block_size=4096, verify=False
    )
    for _ in range(300):
        damaged = bytearray(stored[: chance.randint(1, len(stored))])
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            plain = kernels.decode_block(bytes(damaged), 3840, algo=algo, verify=False)
        except FormatError:
            continue
        assert len(plain) == 3840


def test_shorter_than_a_crc(kernels):
    for size in range(4):
        with pytest.raises(BadJumpTable):
            kernels.decode_block(bytes(size), 10, algo=ALGO_LZ4, verify=True)


# A frame may claim any size: what is written is bounded by what was asked for.
def test_zstd_frame_that_claims_much(kernels):
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 26))
    with pytest.raises(BadBlock):
        kernels.decode_block(bomb, 4096, algo=ALGO_ZSTD, verify=False, name="f")


@ALGOS
def test_same_bytes_every_time(core, algo):
    data = Random(7).randbytes(1000) * 200
    how = {"algo": algo, "level": 3, "block_size": 4096, "verify": True}
    first = core.encode_blocks(data, **how)
    assert all(core.encode_blocks(data, **how) == first for _ in range(5))


@ALGOS
def test_room_is_used_again(core, algo):
    how = {"algo": algo, "level": 3, "block_size": 4096, "verify": True}
    room = bytearray(b"left over")
    for seed, size in enumerate([5000, 100_000, 1, 4096]):
        data = Random(seed).randbytes(size)
        stored, lengths = core.encode_blocks(data, room=room, **how)
        assert stored.obj is room
        assert (stored, lengths) == core.encode_blocks(data, **how)
        del stored
