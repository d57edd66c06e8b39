# SPDX-License-Identifier: Apache-2.0
"""test_cache - what is fetched stays; what is damaged is found and fetched again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from obdengine import _core
from obdengine.errors import Closed, SourceError
from obdengine.source import Remote, bring
from obdengine.source.cache import Cache, key_of
from obdengine.source.state import HEADER_SIZE
from tests.remote.origins import KEY, Counting, cache_in, open_in
from tests.running import PATIENCE
from tests.tools import ROOT, requires

KIB, MIB = 1 << 10, 1 << 20
CONTENT = Random(3).randbytes(3 * MIB + 777)


@pytest.fixture
def origin() -> Counting:
    return Counting(CONTENT)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return cache_in(tmp_path / "cache")


class Reader:
    """A blob read as the core reads it: plain, through the cache's files."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.core = _core.Blob.plain(
            remote.fd, 0, remote.size, name="blob", track=remote.size
        )
        remote.attach(self.core)

    def read(self, offset: int, size: int) -> bytes:
        for attempt in range(20):
            try:
                return self.core.pread(offset, size)
            except _core.Absent as absent:
                bring([(self.remote, r[1], r[2]) for r in absent.ranges], attempt)
        raise AssertionError("it does not stay")

    def check(self, offset: int, size: int) -> None:
        assert self.read(offset, size) == CONTENT[offset : offset + size]


@pytest.fixture
def reader(cache: Cache, origin: Counting) -> Iterator[Reader]:
    remote = open_in(cache, origin)
    yield Reader(remote)
    remote.close()


def files(cache: Cache) -> list[Path]:
    return sorted((cache.options.folder / "blobs").iterdir())


def test_one_miss_is_one_aligned_request(reader: Reader, origin: Counting) -> None:
    reader.check(100_000, 10)
    assert origin.reads == [(64 * KIB, 64 * KIB)]
    reader.check(64 * KIB, 64 * KIB)
    reader.check(100_000, 5)
    assert len(origin.reads) == 1


def test_nothing_is_asked_of_nobody(cache: Cache, origin: Counting) -> None:
    open_in(cache, origin).close()
    assert not origin.connected


def test_next_reader_needs_no_network(cache: Cache, origin: Counting) -> None:
    first = open_in(cache, origin)
    Reader(first).check(0, len(CONTENT))
    asked = len(origin.reads)
    first.close()
    origin.broken = True
    again = cache_in(cache.options.folder).open(KEY, "blob", 0, origin.connect)
    assert again.size == len(CONTENT)
    Reader(again).check(0, len(CONTENT))
    assert again.pread(5, 10) == CONTENT[5:15]
    assert len(origin.reads) == asked
    again.close()


def test_many_threads_make_one_request(cache: Cache, origin: Counting) -> None:
    origin.delay = 0.1
    remote = open_in(cache, origin)
    reader = Reader(remote)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: reader.check(70_000 + n, 100), range(8)))
    assert len(origin.reads) == 1
    remote.close()


OTHER = """
import sys
from pathlib import Path
from tests.remote.origins import Counting, cache_in, open_in
from tests.remote.test_cache import CONTENT, Reader
origin = Counting(CONTENT, delay=0.3)
remote = open_in(cache_in(Path(sys.argv[1])), origin)
print("ready", flush=True)
sys.stdin.readline()
Reader(remote).check(0, 2 << 20)
print(origin.bytes_read)
"""


def test_many_processes_make_one_request(cache: Cache) -> None:
    words = [sys.executable, "-c", OTHER, str(cache.options.folder)]
    others = [
        subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for other in others:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
    for other in others:
        assert other.stdin
        other.stdin.write("\n")
        other.stdin.flush()
    asked = [int(other.communicate(timeout=PATIENCE)[0]) for other in others]
    assert sum(asked) <= 3 * MIB  # the last of it was fetched ahead
    assert [other.returncode for other in others] == [0, 0, 0]


def test_failure_reaches_all_who_wait(cache: Cache, origin: Counting) -> None:
    origin.delay, origin.broken = 0.1, True
    remote = open_in(cache, origin)
    reader = Reader(remote)
    with ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(reader.read, 0, 100) for _ in range(4)]
    for one in tries:
        with pytest.raises(SourceError, match="not today"):
            one.result()
    origin.broken = False
    reader.check(0, 100)
    remote.close()


@pytest.mark.parametrize("which", [".data", ".state"])
def test_junk_is_fetched_again(cache: Cache, origin: Counting, which: str) -> None:
    remote = open_in(cache, origin)
    reader = Reader(remote)
    reader.check(0, len(CONTENT))
    path = next(path for path in files(cache) if path.suffix == which)
    chance = Random(7)
    with path.open("r+b") as opened:
        for _ in range(300):
            opened.seek(chance.randrange(path.stat().st_size))
            opened.write(chance.randbytes(chance.randrange(1, 100)))
    reader.check(0, len(CONTENT))
    remote.close()
    remote = open_in(cache, origin)
    Reader(remote).check(0, len(CONTENT))
    assert remote.pread(0, len(CONTENT)) == CONTENT
    remote.close()


@pytest.mark.parametrize("size", [0, 100, HEADER_SIZE + 10])
@pytest.mark.parametrize("which", [".data", ".state"])
def test_cut_files(cache: Cache, origin: Counting, which: str, size: int) -> None:
    remote = open_in(cache, origin)
    reader = Reader(remote)
    reader.check(0, MIB)
    path = next(path for path in files(cache) if path.suffix == which)
    os.truncate(path, size)
    reader.check(0, MIB)
    again = open_in(cache_in(cache.options.folder), origin)
    Reader(again).check(0, 2 * MIB)
    reader.check(0, 2 * MIB)
    again.close()
    remote.close()


def test_files_that_vanish(cache: Cache, reader: Reader, origin: Counting) -> None:
    reader.check(0, 1000)
    for path in files(cache):
        path.unlink()
    reader.check(0, 1000)
    reader.check(MIB, 1000)
    again = open_in(cache_in(cache.options.folder), origin)
    Reader(again).check(0, 1000)
    again.close()


def test_another_blob_under_the_same_name(cache: Cache, origin: Counting) -> None:
    remote = open_in(cache, origin)
    Reader(remote).check(0, 1000)
    remote.close()
    other = Counting(CONTENT[:MIB])
    remote = open_in(cache, other)
    assert remote.pread(MIB - 10, 10) == CONTENT[MIB - 10 : MIB]
    remote.close()


def test_wrong_bytes_are_asked_for_elsewhere(reader: Reader, origin: Counting) -> None:
    origin.wrong = 1
    assert reader.read(0, 100) != CONTENT[:100]
    reader.remote.renew(0, 100, 1)
    reader.check(0, 100)
    assert origin.elsewhere == [0, 1]


def test_folder_that_cannot_be(tmp_path: Path, origin: Counting) -> None:
    (tmp_path / "file").touch()
    cache = cache_in(tmp_path / "file" / "cache")
    remote = open_in(cache, origin)
    reader = Reader(remote)
    assert cache.problem
    reader.check(0, len(CONTENT))
    assert remote.pread(0, 1000) == CONTENT[:1000]
    remote.close()


@requires("root", "mount")
def test_disk_that_is_full(tmp_path: Path) -> None:
    script = f"""
mount -t tmpfs -o size=1m none {tmp_path}
{sys.executable} - <<END
from pathlib import Path
from tests.remote.origins import Counting, cache_in, open_in
from tests.remote.test_cache import CONTENT, Reader
cache = cache_in(Path("{tmp_path}") / "cache")
origin = Counting(CONTENT)
reader = Reader(open_in(cache, origin))
for turn in range(3):
    for at in range(0, len(CONTENT) - 50000, 50000):
        reader.check(at, 50000)
    if turn == 0:
        with open("{tmp_path}/filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
reader.remote.close()
END
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
    )
    assert done.returncode == 0


def test_scattered_reads_do_not(reader: Reader, origin: Counting) -> None:
    for at in (5, 40, 11, 30, 2):
        reader.check(at * 64 * KIB, 100)
    assert origin.bytes_read == 5 * 64 * KIB


def test_small_cache_gives_room_and_right_bytes(
    tmp_path: Path, origin: Counting
) -> None:
    cache = cache_in(tmp_path / "cache", limit=1 * MIB)
    remote = open_in(cache, origin)
    reader = Reader(remote)
    chance = Random(1)
    for _ in range(200):
        reader.check(chance.randrange(len(CONTENT) - 5000), 5000)
        cache.shrink()
    # The state file has room too, and the file system may hold a little back.
    assert sum(entry.room for entry in cache.entries()) <= 2.5 * MIB
    remote.close()


def test_what_was_used_last_stays(cache: Cache, origin: Counting) -> None:
    remote = open_in(cache, origin)
    reader = Reader(remote)
    reader.check(0, len(CONTENT))
    kept = remote.fetcher.kept
    assert kept
    for chunk in range(3):
        kept._state and os.pwrite(
            kept._state, (1000 + chunk).to_bytes(4, "little"), 4096 + 4 * chunk
        )
    remote.take_used()
    reader.check(0, 100)  # chunk 0 is in use again
    cache._keep_house()
    cache.shrink(int(2.4 * MIB))
    assert remote.fetcher.absent(0, 256) == []
    assert remote.fetcher.absent(256, 512) == [(256, 512)]
    reader.check(0, len(CONTENT))
    remote.close()


def test_pins_and_removal(cache: Cache, origin: Counting) -> None:
    remote = open_in(cache, origin)
    reader = Reader(remote)
    reader.check(0, MIB)
    cache.pin(KEY)
    cache.shrink(0)
    entry = cache.entries()[0]
    assert (entry.pinned, entry.size) == (True, len(CONTENT))
    assert entry.present >= MIB
    cache.pin(KEY, False)
    assert cache.remove(KEY) > 0
    assert cache.entries()[0].present == 0  # it is in use
    reader.check(0, MIB)
    remote.close()
    cache.remove(KEY)
    assert cache.entries() == []


def test_use_after_close(cache: Cache, origin: Counting) -> None:
    remote = open_in(cache, origin)
    reader = Reader(remote)
    remote.close()
    remote.close()
    with pytest.raises(Closed):
        remote.pread(0, 1)
    with pytest.raises(Closed):
        reader.remote.fetch(0, 1)


def test_threads_end_with_the_last_reader(cache: Cache, origin: Counting) -> None:
    first, second = open_in(cache, origin), open_in(cache, origin)
    Reader(first).check(0, len(CONTENT))
    first.close()
    assert cache._keeper
    second.close()
    assert not cache._keeper
    assert not cache._pools


def test_keys() -> None:
    assert key_of("sha256:" + "AB" * 32) == "sha256-" + "ab" * 32
    assert key_of("../../x", "http://a/b", "1") != key_of("", "http://a/b", "2")
    assert "/" not in key_of("../../x")
