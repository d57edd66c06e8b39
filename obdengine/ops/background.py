# SPDX-License-Identifier: Apache-2.0
"""
background - what goes on while an image is in use: prefetch, recording, download.

For servers: who only looks at an image has none of it. What fails here makes
reads slower, and never wrong; the one error that is raised is a recording that
was asked for and cannot be made.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from obdengine.config import LAYER_NAMES, Image, LayerFile
from obdengine.device import Device, Read
from obdengine.device.download import Downloader, Wanted
from obdengine.device.prefetch import Prefetch, plan
from obdengine.errors import ObdError
from obdengine.ops.traces import Recording, accelerating, layer_traces, load_trace
from obdengine.service import Download, Service
from obdengine.source import Remote
from obdengine.source.gate import BACKGROUND
from obdengine.source.output import Output
from obdengine.source.state import UNIT
from obdengine.units import MIB

__all__ = ["Serving", "begin", "download", "known_reads", "replay"]

# A trace beside a configuration is called so.
_BESIDE = "trace"


class Serving(NamedTuple):
    """What goes along with an image that is served, besides what it says itself.

    Attributes:
        trace: to be replayed, whatever else there is.
        record: where to record to.
    """

    trace: Path | None = None
    record: Path | None = None


def begin(
    device: Device,
    image: Image,
    service: Service,
    serving: Serving,
    folder: Path | None,
) -> None:
    """Begin all that image and service ask for; it ends with the device.

    folder: of the configuration, if there is one. Raises SourceError when a
    recording cannot be made.
    """
    trace, record = serving.trace, serving.record or _wanted_record(image)
    if record:
        device.accompany(Recording(device, record))
    wanted = image.plans.download or service.download
    if wanted.enable and not record:
        download(device, image.layers, wanted)
    if service.prefetch and not record:
        device.accompany(_Later(lambda: _replay(device, image, service, folder, trace)))


def replay(device: Device, reads: Sequence[Read], threads: int) -> Prefetch:
    """Begin to bring what reads need; it ends with the device."""
    prefetch = Prefetch(plan(reads, device.layers), threads)
    device.accompany(prefetch)
    return prefetch


def known_reads(
    device: Device, image: Image, service: Service, folder: Path | None
) -> list[Read]:
    """Return what will be read of an image, from the best trace that there is."""
    if image.plans.acceleration:
        with suppress(ObdError):
            return accelerating(image.plans.acceleration, device, service)
    if folder and (folder / _BESIDE).is_file():
        with suppress(ObdError):
            return load_trace(folder / _BESIDE)
    return layer_traces(image.layers, service)


def _replay(
    device: Device,
    image: Image,
    service: Service,
    folder: Path | None,
    trace: Path | None,
) -> None:
    with suppress(ObdError):
        reads = load_trace(trace) if trace else None
        reads = reads or known_reads(device, image, service, folder)
        if reads:
            replay(device, reads, service.prefetch)


def _wanted_record(image: Image) -> Path | None:
    """Return where the configuration wants a recording: not over one."""
    path = image.plans.record
    if path and path.exists() and path.stat().st_size:
        return None
    return path


def download(
    device: Device, files: Sequence[LayerFile], how: Download, *, now: bool = False
) -> Downloader:
    """Begin to bring whole layers here; it ends with the device."""
    wanted = [
        Wanted(layer.blob.resident, file.digest, _publish(layer.blob.resident, file))
        for layer, file in zip(device.layers, files, strict=True)
        if isinstance(layer.blob.resident, Remote)
    ]
    delay = how.delay + random.uniform(0, how.delay_extra)
    downloader = Downloader(
        wanted,
        delay=0.0 if now else delay,
        rate=how.max_mbps * MIB,
        tries=how.try_count,
        block_size=how.block_size,
    )
    device.accompany(downloader)
    return downloader


def _publish(remote: Remote, file: LayerFile) -> Callable[[], None]:
    """Return what puts a blob that is here into the folder of its layer."""

    def publish() -> None:
        if not file.dir or not file.dir.is_dir():
            return
        target = file.dir / LAYER_NAMES[0]
        # A copy, because the cache may give back the room of its own file.
        with suppress(ObdError), Output(target) as out:
            for first in range(0, remote.fetcher.units, MIB // UNIT):
                end = min(first + MIB // UNIT, remote.fetcher.units)
                for piece in remote.fetcher.get(first, end, BACKGROUND):
                    out.append(piece.data)
            out.commit()

    return publish


class _Later:
    """Work in a thread, so that nobody waits for it to begin."""

    def __init__(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="obd-trace", daemon=True).start()

    def close(self) -> None:
        """Nothing: what it began belongs to the device."""
