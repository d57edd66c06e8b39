# SPDX-License-Identifier: Apache-2.0
"""
cache - the blobs of remote images on this machine, in one folder for all.

    FOLDER/blobs/KEY.data, KEY.state    see state
    FOLDER/blobs/KEY.pin                it may not be evicted
    FOLDER/evict                        who evicts has it locked

Any number of processes share it. When it grows past its limit, what was used
least lately goes, a chunk at a time: first its sums, then its bytes. A reader
finds that a sum does not match and fetches again, so nobody waits for anybody.
A folder that cannot be used makes reads slower and never wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from obdengine.errors import SourceError, SourceMissing
from obdengine.source.fetcher import Fetcher, Origin
from obdengine.source.gate import Gate
from obdengine.source.remote import Remote
from obdengine.source.state import WHOLE, KeptFile, read_facts
from obdengine.units import GIB, KIB, MIB

__all__ = ["Cache", "CacheOptions", "Entry", "default_folder", "key_of"]

# Seconds between looks at what was used.
_PERIOD = 20.0

# Bytes that are fetched ahead of who reads on and on at most, and the part of
# the limit that they may be: in a line of 1 Gbit/s there are 2.5 MB for each 20 ms
# of its length, and there are up to two windows on their way.
_AHEAD = 2 * MIB
_AHEAD_PART = 16

# Eviction goes on until this part of the limit is left.
_LOW = 0.9

# Of the file system, so much is left to others; at most this many bytes.
_RESERVE_PART = 0.03
_RESERVE = GIB

_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-fA-F]{32,128}")


class CacheOptions(NamedTuple):
    """How a cache behaves.

    Attributes:
        folder: where it is.
        limit: bytes that it may take.
        refill: bytes that a request to the origin is aligned to.
        connections: requests at once; prefetches: how many of them nobody
            waits for.
        deadline: seconds that a read waits for what is not here.
    """

    folder: Path
    limit: int = 4 * GIB
    # 64 KiB: see docs/decisions/cache-units.md for what was measured.
    refill: int = 64 * KIB
    connections: int = 64
    prefetches: int = 16
    deadline: float = 60.0


_all: WeakSet[Cache] = WeakSet()


def _after_fork() -> None:
    for cache in list(_all):
        cache.forget_threads()


os.register_at_fork(after_in_child=_after_fork)


class Entry(NamedTuple):
    """One blob in a cache: bytes of it, bytes here, and on the disk."""

    key: str
    name: str
    size: int
    present: int
    room: int
    used: int
    pinned: bool
    whole: bool


class Cache:
    """A folder of blobs. Make one per process and folder: threads share it.

    Attributes:
        options: as given.
        gate: who may use the network next.
        problem: why the folder takes nothing at the moment, or None.
        ahead: bytes to fetch ahead of who reads on and on, at most.
    """

    def __init__(self, options: CacheOptions) -> None:
        """Use a folder; it is made when it is needed."""
        self.options = options
        self.gate = Gate(options.connections, options.prefetches)
        self.problem: str | None = None
        self.ahead = min(_AHEAD, options.limit // _AHEAD_PART)
        self._blobs = options.folder / "blobs"
        self._open: dict[str, tuple[Fetcher, list[Remote]]] = {}
        self._written = 0
        self.forget_threads()
        _all.add(self)

    def forget_threads(self) -> None:
        """Begin without threads: a process that was forked off has none."""
        self._lock = threading.RLock()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._keeper: _Keeper | None = None

    # -- Reading through it

    def open(
        self, key: str, name: str, size: int, connect: Callable[[], Origin]
    ) -> Remote:
        """Open a blob; connect is called when something of it is not here.

        size 0: it is known if the cache has it, else connect says.
        Raises what connect raises.
        """
        with self._lock:
            held = self._open.get(key)
            if held and size and held[0].size != size:
                raise SourceError(f"{name}: {size} bytes, but {held[0].size} elsewhere")
            fetcher = held[0] if held else self._fetcher(key, name, size, connect)
            remote = Remote(fetcher, self, lambda remote: self._closed(key, remote))
            self._open.setdefault(key, (fetcher, []))[1].append(remote)
            if not self._keeper:
                self._keeper = _Keeper(self._keep_house)
            return remote

    def _fetcher(
        self, key: str, name: str, size: int, connect: Callable[[], Origin]
    ) -> Fetcher:
        kept = self._kept(key, name, size)
        origin: Origin | None = None
        if not kept and not size:
            origin = connect()
            size = origin.size
            kept = self._kept(key, name, size)
        found = origin
        return Fetcher(
            name,
            kept.facts.size if kept else size,
            kept,
            (lambda: found) if found else connect,
            self.gate,
            refill=self.options.refill,
            deadline=self.options.deadline,
            stored=self._stored,
            refused=self._refused,
        )

    def _kept(self, key: str, name: str, size: int) -> KeptFile | None:
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            return KeptFile(self._blobs, key, name, size)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problem = f"{self._blobs}: {error.strerror}"
            return None

    def _closed(self, key: str, remote: Remote) -> None:
        """Let go of a reader; the last one takes the threads along."""
        self._note_use(remote)
        with self._lock:
            fetcher, readers = self._open[key]
            readers.remove(remote)
            if not readers:
                del self._open[key]
            ended: list[ThreadPoolExecutor] = []
            keeper = None
            if not self._open:
                ended, self._pools = list(self._pools.values()), {}
                keeper, self._keeper = self._keeper, None
        for pool in ended:
            pool.shutdown(wait=True, cancel_futures=True)
        if keeper:
            keeper.stop()
        if not readers:
            fetcher.close()

    def demand_pool(self) -> ThreadPoolExecutor:
        """Return the pool for what somebody waits for."""
        return self._pool("demand", self.options.connections)

    def ahead_pool(self) -> ThreadPoolExecutor:
        """Return the pool for what nobody waits for."""
        return self._pool("ahead", 8)

    def _pool(self, name: str, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(threads, f"obd-{name}")
            return self._pools[name]

    # -- Keeping to the limit

    def _stored(self, size: int) -> None:
        self.problem = None
        self._written += size
        if self._written >= min(16 * MIB, self.options.limit // 16):
            self._written = 0
            self._wake()

    def _refused(self, error: OSError) -> None:
        self.problem = f"{self._blobs}: {error.strerror}"
        self._wake()

    def _wake(self) -> None:
        keeper = self._keeper
        if keeper:
            keeper.wake()

    def _keep_house(self) -> None:
        with self._lock:
            readers = [one for _, held in self._open.values() for one in held]
        for remote in readers:
            self._note_use(remote)
        self.shrink()

    def _note_use(self, remote: Remote) -> None:
        kept = remote.fetcher.kept
        if not kept:
            return
        with suppress(OSError):
            for chunk, used in enumerate(remote.take_used()):
                if used:
                    kept.stamp(range(chunk, chunk + 1))

    def shrink(self, limit: int | None = None) -> int:
        """Evict until the cache keeps to limit; return bytes that it takes.

        None: the limit of the options, and what other users of the file
        system leave. Does nothing while another process does it.
        """
        with _only_one(self.options.folder / "evict") as mine:
            total = sum(_room(path) for path in self._states())
            allowed = self._allowed(total) if limit is None else limit
            if not mine or total <= allowed:
                return total
            for _, path, chunk in self._oldest_first():
                if total <= allowed * _LOW:
                    break
                total -= self._drop(path, chunk)
            return total

    def _allowed(self, total: int) -> int:
        """Bytes that it may take, considering how full the disk is."""
        try:
            disk = os.statvfs(self._blobs)
        except OSError:
            return self.options.limit
        reserve = min(int(disk.f_blocks * disk.f_frsize * _RESERVE_PART), _RESERVE)
        return min(
            self.options.limit, max(total + disk.f_bavail * disk.f_frsize - reserve, 0)
        )

    def _states(self) -> list[Path]:
        with suppress(OSError):
            return sorted(self._blobs.glob("*.state"))
        return []

    def _oldest_first(self) -> list[tuple[int, Path, int]]:
        """Return (stamp, state file, chunk) of all that may be evicted."""
        found = []
        for path in self._states():
            facts = read_facts(path)
            if facts and path.with_suffix(".pin").exists():
                continue
            if not facts:
                found.append((0, path, 0))
                continue
            with _opened(path, facts.key) as kept:
                if kept:
                    stamps = struct.unpack(f"={facts.chunks}I", kept.stamps())
                    found += [(s, path, i) for i, s in enumerate(stamps) if s]
                    if not any(stamps):
                        found.append((0, path, 0))
        return sorted(found)

    def _drop(self, path: Path, chunk: int) -> int:
        """Evict a chunk, and the files with the last one; return bytes gained."""
        before = _room(path)
        facts = read_facts(path)
        if not facts:
            _unlink(path)
            return before
        with suppress(OSError), _opened(path, facts.key) as kept:
            if kept:
                kept.drop_chunk(chunk)
                kept.unstamp(chunk)
                if kept.facts.flags:
                    kept.set_flags(0)
                if not any(kept.stamps()) and kept.try_alone():
                    kept.remove()
                    return before
        return max(before - _room(path), 0)

    # -- For people

    def entries(self) -> list[Entry]:
        """Return what is in the cache, what was used last first."""
        found = []
        for path in self._states():
            facts = read_facts(path)
            with _opened(path, facts.key if facts else "") as kept:
                if not facts or not kept:
                    continue
                sums, stamps = kept.sums(0, facts.units), kept.stamps()
                there = sum(map(bool, struct.unpack(f"={facts.units}I", sums)))
                found.append(
                    Entry(
                        facts.key,
                        facts.name,
                        facts.size,
                        min(there * 4096, facts.size),
                        _room(path),
                        max(struct.unpack(f"={facts.chunks}I", stamps), default=0),
                        path.with_suffix(".pin").exists(),
                        bool(facts.flags & WHOLE),
                    )
                )
        return sorted(found, key=lambda entry: -entry.used)

    def pin(self, key: str, pinned: bool = True) -> None:
        """Keep a blob from being evicted, or stop that; raises SourceMissing."""
        state = self._blobs / f"{key}.state"
        if not state.exists():
            raise SourceMissing(f"{self._blobs}: there is no {key}")
        mark = state.with_suffix(".pin")
        try:
            mark.touch() if pinned else mark.unlink(missing_ok=True)
        except OSError as error:
            raise SourceError(f"{mark}: {error.strerror}", errno=error.errno) from error

    def remove(self, key: str) -> int:
        """Give back the room of a blob, pinned or not; return bytes gained.

        Who reads it goes on, and fetches again.
        """
        path = self._blobs / f"{key}.state"
        before = _room(path)
        path.with_suffix(".pin").unlink(missing_ok=True)
        facts = read_facts(path)
        with suppress(OSError), _opened(path, key) as kept:
            if kept and facts:
                for chunk in range(facts.chunks):
                    kept.drop_chunk(chunk)
                    kept.unstamp(chunk)
                if kept.try_alone():
                    kept.remove()
                return max(before - _room(path), 0)
        _unlink(path)
        return before


class _Keeper:
    """A thread that does its work now and then, and when it is woken."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._woken = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="obd-cache", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._ended = True
        self._woken.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            self._woken.wait(_PERIOD)
            self._woken.clear()
            if not self._ended:
                # What goes wrong here costs room, and the next time is soon.
                with suppress(OSError, SourceError):
                    self._work()


def default_folder() -> Path:
    """Return where the cache of this user is: OBD_CACHE, or the usual place."""
    named = os.environ.get("OBD_CACHE")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/cache/obdengine")
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "obdengine"


def key_of(digest: str, url: str = "", version: str = "") -> str:
    """Return the name of a blob's files: from its digest, else url and version."""
    if _DIGEST.fullmatch(digest):
        return digest.lower().replace(":", "-")
    return "url-" + hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()


def _room(state: Path) -> int:
    room = 0
    for path in (state, state.with_suffix(".data")):
        with suppress(OSError):
            room += path.stat().st_blocks * 512
    return room


def _unlink(state: Path) -> None:
    for suffix in (".data", ".state", ".pin"):
        with suppress(OSError):
            state.with_suffix(suffix).unlink(missing_ok=True)


@contextmanager
def _opened(state: Path, key: str) -> Iterator[KeptFile | None]:
    """Open the files of a blob for the block; None when they are not right."""
    kept = None
    try:
        kept = KeptFile(state.parent, key, "", 0) if key == state.stem else None
    except OSError:
        kept = None
    try:
        yield kept
    finally:
        if kept:
            kept.close()


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Tell whether no other process is in a block like this one."""
    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except OSError:
        mine = False
    try:
        yield mine
    finally:
        if fd >= 0:
            os.close(fd)
