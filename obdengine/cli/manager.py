# SPDX-License-Identifier: Apache-2.0
"""manager - `obd manager`: keeps devices up; systemd runs it, see docs/vms.md."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

import click

from obdengine.cli.output import printable
from obdengine.host.manager import SOCKET, Manager, activated_socket, listen
from obdengine.host.records import Places

__all__ = ["manager"]


@click.command()
def manager() -> None:
    """Keep this machine's devices up, until SIGTERM; the devices stay."""
    places = Places.usual()
    given = activated_socket()
    path = places.run / SOCKET
    made = Manager(places, given or listen(path), _tell)

    def asked(_signum: int, _frame: FrameType | None) -> None:
        made.stop()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, asked)
    _tell("ready")
    try:
        made.run()
    finally:
        if given is None:  # systemd keeps its own
            with suppress(OSError):
                path.unlink()


def _tell(text: str) -> None:
    click.echo(printable(text), err=True)
