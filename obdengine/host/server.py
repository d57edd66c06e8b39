# SPDX-License-Identifier: Apache-2.0
"""server - an nbdkit of its own for one image: a crash takes down one disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from obdengine.errors import HostError
from obdengine.host import nbdkit
from obdengine.host.export import Writing, image_keys
from obdengine.host.processes import Process, start

__all__ = ["CONTROL", "SOCKET", "start_server"]

# In the folder of a device.
SOCKET, CONTROL, _LOG = "nbd.sock", "control.sock", "server.log"


def start_server(folder: Path, image: Sequence[str], writing: Writing) -> Process:
    """Serve an image at SOCKET in folder, in a process that goes on without us.

    It takes orders at CONTROL there. Raises what opening the image raises,
    or HostError with what nbdkit said.
    """
    for name in (SOCKET, CONTROL):  # of a server that was killed
        (folder / name).unlink(missing_ok=True)
    words = [nbdkit.binary(), "--foreground", "--pidfile", "{ready}"]
    words += ["--unix", str(folder / SOCKET)]
    words += [] if writing.wanted else ["--readonly"]
    if not nbdkit.why_no_filter():
        words += [f"--filter={nbdkit.filter_file()}"]
    words += ["python", str(nbdkit.plugin_file()), *image_keys(image), *writing.keys]
    words += [f"control={folder / CONTROL}"]
    try:
        return start(words, folder / _LOG, env=nbdkit.environment())
    except HostError:
        writing.open(image).close()  # the same error, with its kind
        raise
