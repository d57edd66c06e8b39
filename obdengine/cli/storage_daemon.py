# SPDX-License-Identifier: Apache-2.0
"""storage_daemon - a served image once more, as what QEMU's storage daemon can be."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.cli.tls import Tls
from obdengine.errors import UsageError
from obdengine.host.bridge import daemon, fuse_export, nbd_client
from obdengine.host.processes import Process, run

__all__ = ["KINDS", "Place", "shown"]

# What it can be seen as; nbd is what it is without the daemon as well.
KINDS = ("nbd", "vhost-user-blk", "fuse")

_STOP_SECONDS = 120.0
_PATIENCE = 60
_NODE, _TLS = "disk", "tls"


class Place(NamedTuple):
    """Where an image is shown, and as what.

    Attributes:
        kind: one of KINDS.
        path: of the socket or the file, None for a port.
        host: with port, where to listen.
        port: TCP's, in case there is no path.
        name: of the export.
        tls: who may read it on its way.
    """

    kind: str
    path: Path | None
    host: str
    port: int
    name: str
    tls: Tls

    @property
    def address(self) -> dict[str, str]:
        """What QEMU calls it."""
        if self.path:
            return {"type": "unix", "path": str(self.path)}
        return {"type": "inet", "host": self.host, "port": str(self.port)}


@contextmanager
def shown(server: Path, place: Place, write: bool) -> Iterator[None]:
    """Show what is served at a socket somewhere else, for the block."""
    with tempfile.TemporaryDirectory(prefix="obd-") as folder:
        pid = Path(folder, "pid")
        client = nbd_client(server, read_only=not write, patience=_PATIENCE)
        words = _export(place, write, Path(folder))
        run([daemon(), "--daemonize", "--pidfile", str(pid), *client, *words])
        process = Process.of(int(pid.read_text()))
        try:
            yield
        finally:
            process.stop(_STOP_SECONDS)


def _export(place: Place, write: bool, folder: Path) -> list[str]:
    export: dict[str, Any] = {"type": place.kind, "id": "disk", "node-name": _NODE}
    if place.kind == "fuse":
        if write:
            raise UsageError(
                "QEMU's FUSE mixes up what is written at the same time",
                hint="obd attach --via file makes a file that can be written to",
            )
        assert place.path is not None
        place.path.touch()
        return fuse_export(place.path)
    if place.kind == "nbd":
        server: dict[str, Any] = {"addr": place.address}
        server |= {"tls-creds": _TLS} if place.tls.on else {}
        export |= {"name": place.name, "writable": write}
        words = [*_credentials(place.tls, folder), "--nbd-server", json.dumps(server)]
        return [*words, "--export", json.dumps(export)]
    export |= {"addr": place.address, "writable": write, "logical-block-size": 512}
    return ["--export", json.dumps(export)]


def _credentials(tls: Tls, folder: Path) -> list[str]:
    """Return what tells the daemon its certificates or keys."""
    if not tls.on:
        return []
    made: dict[str, Any] = {"id": _TLS, "endpoint": "server"}
    if tls.certificates:
        made |= {"qom-type": "tls-creds-x509", "verify-peer": tls.verify}
        made |= {"dir": str(tls.certificates.absolute())}
    if tls.psk:
        # It wants a file of this name.
        (folder / "keys.psk").symlink_to(tls.psk.absolute())
        made |= {"qom-type": "tls-creds-psk", "dir": str(folder)}
    return ["--object", json.dumps(made)]
