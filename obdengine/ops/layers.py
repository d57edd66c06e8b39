# SPDX-License-Identifier: Apache-2.0
"""layers - what a configuration names as layers, opened, each by its kind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from errno import ENOMEM
from pathlib import Path

from obdengine import source
from obdengine.blob import Target, open_target
from obdengine.config import LayerFile
from obdengine.errors import CoreError, LimitError
from obdengine.layer import Layer, open_layer
from obdengine.ops.remote import open_remote, open_with
from obdengine.service import Service, usual_service

__all__ = ["MAX_STACK_ENTRIES", "open_file", "open_layers"]

# Entries of all layers together. A layer of a million compresses to 20 KiB, so
# a small image could ask for any amount of memory; this many take 1 GiB, and
# no real image comes near.
MAX_STACK_ENTRIES = 1 << 24

# Remote layers that are opened at once; a stack has at most 255.
_AT_ONCE = 64


def open_layers(
    files: Sequence[LayerFile], opened: ExitStack, service: Service | None = None
) -> list[Layer]:
    """Open every layer, bottom first; opened closes them.

    service: where the cache is, and how registries are spoken to; None: as
    usual. Raises LimitError for more index entries than are accepted, and
    what open_file() raises.
    """
    entries = 0
    layers: list[Layer] = []
    for file, layer in zip(files, _opened(files, opened, service), strict=True):
        layers.append(layer)
        entries += layer.entries
        if entries > MAX_STACK_ENTRIES:
            raise LimitError(
                f"{file.name}: with this layer the image has {entries} index "
                f"entries, at most {MAX_STACK_ENTRIES} are accepted"
            )
    return layers


def _opened(
    files: Sequence[LayerFile], opened: ExitStack, service: Service | None
) -> Iterator[Layer]:
    """Open layers one by one, remote ones all at once: each takes some answers."""
    with ExitStack() as stack:
        waiting: list[Future[Layer] | None] = [None] * len(files)
        far = [i for i, file in enumerate(files) if not file.path]
        if far:
            pool = stack.enter_context(ThreadPoolExecutor(min(len(far), _AT_ONCE)))
            for i in far:
                waiting[i] = future = pool.submit(open_file, files[i], service)
                opened.callback(_close_late, future)
        for file, future_or_none in zip(files, waiting, strict=True):
            if future_or_none:
                yield future_or_none.result()
                continue
            layer = open_file(file, service)
            opened.callback(layer.close)
            yield layer


def _close_late(future: Future[Layer]) -> None:
    """Close what another thread has opened, or is about to."""
    if not future.exception():
        future.result().close()


def open_file(
    file: LayerFile | str | os.PathLike[str], service: Service | None = None
) -> Layer:
    """Open one layer; a path is that of a layer by itself.

    Raises ConfigError when nothing says where it is, FormatError when it is
    damaged, SourceError when it cannot be read.
    """
    layer = file if isinstance(file, LayerFile) else LayerFile(Path(file))
    service = service or usual_service()
    try:
        target = _target(layer, service) if layer.is_turbo else None
        if layer.path:
            return open_layer(layer.path, target)
        return open_with(layer, service, lambda remote: open_layer(remote, target))
    except MemoryError as error:
        raise CoreError(f"{layer.name}: no memory to open it", errno=ENOMEM) from error


def _target(file: LayerFile, service: Service) -> Target:
    """Open the target of a TurboOCI layer, and the index over it."""
    if file.target:
        target = source.open(file.target)
    else:
        where = LayerFile(
            digest=file.target_digest, url=file.target_url, where=file.where
        )
        target = open_remote(where, service)
    try:
        index = source.open(file.gzip_index) if file.gzip_index else None
    except BaseException:
        target.close()
        raise
    return open_target(target, index, file.target_digest)
