# SPDX-License-Identifier: Apache-2.0
"""
stacking - new layers made one above the other, in a folder for temporary files.

    lowers + an empty upper -> filled by somebody -> sealed -> a layer file

A layer file is written, dense and compressed, on a thread of its own, while
the next layer is being filled over the sealed upper: that one stays, because
it is read without inflating anything. What a layer is filled with is the
caller's business.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from obdengine.config import LayerFile
from obdengine.device import Device
from obdengine.layer import LayerWriter, create_upper, open_upper
from obdengine.ops.contents import contents
from obdengine.ops.difference import Budget
from obdengine.ops.layer_file import LayerOptions, Written, write_layer
from obdengine.ops.layers import open_layers
from obdengine.service import Service

__all__ = ["Stacking"]

_Result = TypeVar("_Result")


class Stacking:
    """A stack that grows; use it as a context, which removes temporary files.

    Attributes:
        folder: for temporary files.
        lowers: the layers so far, bottom first.
        size: bytes of the disk.
    """

    def __init__(self, folder: Path, size: int, service: Service | None = None) -> None:
        """Make a folder for temporary files in folder; size is of the disk.

        service: how layers that are not on this machine are read.
        """
        self._service = service
        self.folder = Path(tempfile.mkdtemp(prefix=".obd-", dir=folder))
        self.lowers: list[LayerFile] = []
        self.size = size
        self._number = 0
        # One at a time: its own threads are as many as there are processors.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="obd-layer")
        self._last: Future[Any] | None = None

    def put(self, lower: LayerFile) -> None:
        """Go on above a layer that is there already."""
        self.lowers.append(lower)

    def grow(
        self,
        fill: Callable[[Device], None],
        dst: Path,
        options: LayerOptions,
        then: Callable[[Written], _Result],
    ) -> Future[_Result]:
        """Let fill write to a disk of the layers so far; go on above that.

        What fill has written becomes a layer file at dst, some time later, and
        then is called, on the thread that has written it. options: parent_uuid
        None is that of the layer below. Raises what fill, writing and then
        raise, also for the layer before.
        """
        self._number += 1
        data = self.folder / f"{self._number}.data"
        index = self.folder / f"{self._number}.index"
        uuid = self._fill(fill, data, index, options, str(dst))
        options = replace(options, parent_uuid=options.parent_uuid or uuid)
        if self._last:
            self._last.result()
        below = list(self.lowers)
        future = self._pool.submit(lambda: then(self._write(below, data, dst, options)))
        self._last = future
        self.lowers.append(LayerFile(data))
        return future

    def _fill(
        self,
        fill: Callable[[Device], None],
        data: Path,
        index: Path,
        options: LayerOptions,
        name: str,
    ) -> str | None:
        """Fill an upper and seal it; return the uuid of what is below it.

        name: what errors call the disk.
        """
        with ExitStack() as opened:
            layers = open_layers(self.lowers, opened, self._service)
            parent = layers[-1].uuid if layers else None
            create_upper(
                data,
                index,
                virtual_size=self.size,
                uuid=options.uuid,
                parent_uuid=options.parent_uuid or parent,
            )
            upper = open_upper(data, index)
            opened.callback(upper.close)
            device = Device(layers, name, upper)
            opened.callback(device.close)
            fill(device)
            upper.seal()
        index.unlink()
        return parent

    def _write(
        self, below: list[LayerFile], data: Path, dst: Path, options: LayerOptions
    ) -> Written:
        with ExitStack() as opened:
            alone = Device(open_layers([LayerFile(data)], opened), str(data))

            def whole() -> Device:
                """Return the disk; few layers are so cut up that it is needed."""
                files = [*below, LayerFile(data)]
                return Device(open_layers(files, opened, self._service), str(data))

            def fill(layer: LayerWriter) -> None:
                budget = Budget(layer, self.size)
                for piece in contents(alone, granule=budget.granule, whole=whole):
                    if piece.data is not None:
                        layer.data(piece.start, piece.data)
                    elif below:
                        layer.zero(piece.start, piece.length)

            return write_layer(dst, self.size, fill, options)

    def __enter__(self) -> Stacking:
        """Return the stack itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is being written, and remove the temporary files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
