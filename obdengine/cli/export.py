# SPDX-License-Identifier: Apache-2.0
"""
export - `obd serve --engine native`: the export of our own, in this process.

It only puts the parts together, and takes them apart in the right order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from obdengine.device import Device
from obdengine.nbd import Exports, Server, listen_at_port, listen_at_socket
from obdengine.ops.control import Control, Served
from obdengine.ops.resolve import configuration_of

__all__ = ["Export"]

# Requests that run when the end comes have so long.
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Export:
    """Where a disk is served, and as what."""

    socket: Path | None
    host: str
    port: int
    name: str

    @contextmanager
    def served(
        self, device: Device, control: Path | None, config: Path
    ) -> Iterator[None]:
        """Serve device for the block, and take orders on the socket control.

        config: what orders are about, if it is a configuration.
        """
        if self.socket:
            listeners = [listen_at_socket(self.socket)]
        else:
            listeners = listen_at_port(self.host, self.port)
        exports = Exports(device, self.name)
        server = Server(listeners, exports)
        with ExitStack() as stack:
            stack.callback(server.close, _STOP_SECONDS)
            if control:
                described = configuration_of([config]) if config.is_file() else None
                orders = Control(
                    control.absolute(),
                    lambda name: Served(exports.find(name).device, described),
                )
                stack.callback(orders.close)
                orders.start()
            server.start()
            yield
