# SPDX-License-Identifier: Apache-2.0
"""
traces - where the trace of an image is: beside it, in it, or with its layers.

A recording goes to a file, with what overlaybd puts beside it: NAME.lock while
it goes on (who removes that ends it), NAME.ok when it is there. NAME.times is
ours: when each read was made, and whether its bytes were here.
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from obdengine.config import LayerFile
from obdengine.device import Device, Read, Recorder
from obdengine.device.recorder import Noted
from obdengine.device.trace import is_trace, merge_traces, pack_trace, unpack_trace
from obdengine.errors import BadHeader, ObdError, SourceError, SourceMissing
from obdengine.ops.remote import open_remote
from obdengine.service import Service
from obdengine.source import FileSource, Source
from obdengine.source.cache import key_of
from obdengine.source.writable import WritableFile
from obdengine.units import KIB, MIB

# Few traces are lists of paths, and every server of a disk has this in memory.
if TYPE_CHECKING:
    from obdengine import ext4

__all__ = [
    "Recording",
    "accelerating",
    "layer_traces",
    "load_times",
    "load_trace",
    "pack_acceleration",
    "paths_to_reads",
    "save_layer_traces",
    "save_trace",
]

# Of a trace, or of what an acceleration layer holds.
_MAX_SIZE = 64 * MIB

# Seconds between looks at whether the lock is still there.
_LOOK = 0.5

# Of the first bytes of a file that a priority list names, where it is large.
_MAX_FILE = 64 * MIB


def load_trace(path: Path) -> list[Read]:
    """Return the reads of a trace in a file; raises SourceError, FormatError."""
    return unpack_trace(_contents(FileSource(path)), str(path))


def save_trace(path: Path, reads: Sequence[Read]) -> None:
    """Write a trace, in one step; raises SourceError."""
    WritableFile.create(path, pack_trace(reads))


def load_times(path: Path) -> list[Noted]:
    """Return what a recording says beside its trace; raises as load_trace()."""
    raw = _contents(FileSource(path))
    try:
        rows = [json.loads(line) for line in raw.splitlines()]
        return [Noted(Read(r[1], r[2], r[3]), float(r[0]), bool(r[4])) for r in rows]
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise BadHeader(str(path), f"not the times of a trace: {error}") from error


class Recording:
    """A device that is recorded into a file, until close() or the lock is gone."""

    def __init__(self, device: Device, path: Path) -> None:
        """Begin; raises SourceError when the lock cannot be made."""
        self.path = path
        self._device = device
        self._lock = path.with_name(path.name + ".lock")
        try:
            self._lock.touch(exist_ok=True)
        except OSError as error:
            raise SourceError(
                f"{self._lock}: {error.strerror}", errno=error.errno
            ) from error
        self.recorder = Recorder()
        device.recorder = self.recorder
        self._once = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="obd-record", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK):
            if not self._lock.exists():
                # Nobody hears of it; there is no .ok then.
                with suppress(SourceError):
                    self.close()

    def close(self) -> None:
        """End the recording and write it; a second time does nothing."""
        with self._once:
            if self._ended.is_set():
                return
            self._ended.set()
            self._device.recorder = None
            save_trace(self.path, self.recorder.reads())
            rows = (
                json.dumps([round(n.seconds, 6), *n.read, n.hit]).encode() + b"\n"
                for n in self.recorder.noted()
            )
            WritableFile.create(self.path.with_name(self.path.name + ".times"), *rows)
            with suppress(OSError):
                self._lock.unlink(missing_ok=True)
                self.path.with_name(self.path.name + ".ok").touch()


def accelerating(file: LayerFile, device: Device, service: Service) -> list[Read]:
    """Return what an acceleration layer says is read, in whichever form.

    On this machine it is a folder with a file `trace`; else a blob, a tar with
    a member `trace` or a list of paths. Raises SourceError, FormatError.
    """
    if file.dir and (file.dir / "trace").is_file():
        source: Source = FileSource(file.dir / "trace")
    elif file.path:
        source = FileSource(file.path)
    else:
        source = open_remote(file, service)
    name, raw = source.name, _contents(source)
    if is_trace(raw):
        return unpack_trace(raw, name)
    raw = _first_member(raw, name)
    if is_trace(raw):
        return unpack_trace(raw, name)
    return paths_to_reads(raw.decode(errors="surrogateescape").splitlines(), device)


def pack_acceleration(reads: Sequence[Read]) -> bytes:
    """Return the layer that carries a trace: a tar with a member `trace`."""
    raw, out = pack_trace(reads), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("trace")
        member.size = len(raw)
        tar.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def paths_to_reads(lines: Sequence[str], device: Device) -> list[Read]:
    """Return the reads that bring files here; the image has to be an ext4.

    A line is a path; one that ends in / or * means all below it. What is not
    in the image is left out. Raises what reading the image raises.
    """
    from obdengine import ext4

    reads: list[Read] = []
    with ext4.open_file_system(device, readonly=True) as volume:
        for line in lines:
            for path in _matches(volume, line.strip()):
                with suppress(ObdError):
                    reads += _reads_of(volume, path, device)
    return merge_traces([reads])


def _matches(volume: ext4.FileSystem, line: str) -> Iterator[bytes | str]:
    if not line or line.startswith("#"):
        return
    if not line.endswith(("/", "*")):
        yield line
        return
    with suppress(ObdError):
        for entry in volume.walk(line.rstrip("*").rstrip("/") or "/"):
            yield entry.path


def _reads_of(volume: ext4.FileSystem, path: bytes | str, device: Device) -> list[Read]:
    reads = []
    for run in volume.file_extents(path):
        if run.zero or run.offset >= _MAX_FILE:
            continue
        length = min(run.length, device.size - run.device_offset)
        reads += device.reads(run.device_offset, length)
    return reads


def layer_traces(files: Sequence[LayerFile], service: Service) -> list[Read]:
    """Return what is known of each layer, whichever image it was recorded in."""
    found = []
    for number, file in enumerate(files):
        path = _layer_trace(file, service)
        if path and path.is_file():
            # Another image's trouble is not this one's.
            with suppress(ObdError):
                found.append([r._replace(layer=number) for r in load_trace(path)])
    return merge_traces(found)


def save_layer_traces(
    files: Sequence[LayerFile], reads: Sequence[Read], service: Service
) -> int:
    """Put the reads of each layer where images that share it look; return how many.

    Raises SourceError.
    """
    saved = 0
    for number, file in enumerate(files):
        own = [read._replace(layer=0) for read in reads if read.layer == number]
        path = _layer_trace(file, service)
        if not path or not own:
            continue
        older: list[Read] = []
        with suppress(ObdError):
            older = load_trace(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{path.parent}: {error.strerror}"
            raise SourceError(text, errno=error.errno) from error
        save_trace(path, merge_traces([older, own]))
        saved += 1
    return saved


def _layer_trace(file: LayerFile, service: Service) -> Path | None:
    if not file.digest:
        return None
    return service.cache.folder / "traces" / f"{key_of(file.digest)}.trace"


def _contents(source: Source) -> bytes:
    try:
        if source.size > _MAX_SIZE:
            raise SourceError(f"{source.name}: {source.size} bytes are no trace")
        return source.pread(0, source.size)
    finally:
        source.close()


def _first_member(raw: bytes, name: str) -> bytes:
    """Return the member `trace` of a tar, else the first file, else raw itself."""
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:*") as tar:
            files = [member for member in tar if member.isfile()]
            files.sort(key=lambda member: Path(member.name).name != "trace")
            if not files:
                raise SourceMissing(f"{name}: there is no trace in it")
            opened = tar.extractfile(files[0])
            return opened.read(_MAX_SIZE) if opened else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        if b"\0" in raw[: 4 * KIB]:
            raise BadHeader(name, f"neither a tar nor a list: {error}") from error
        return raw
