# SPDX-License-Identifier: Apache-2.0
"""containerd - the daemon that container engines pull with, and its client ctr."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.running import PATIENCE
from tests.tools import environment, tool

__all__ = ["Containerd"]

# Everything that needs a kernel feature, a network, or another daemon is off.
_CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{folder}/socket"
[ttrpc]
  address = "{folder}/ttrpc"
"""


class Containerd:
    """A containerd of our own, in a folder with a short path."""

    def __init__(self, folder: Path) -> None:
        """Start it, and return when it answers."""
        self._socket = folder / "socket"
        config = folder / "config.toml"
        config.write_text(_CONFIG.format(folder=folder))
        self._log = (folder / "log").open("wb")
        command = [tool("containerd"), "--config", str(config), "--log-level", "warn"]
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=environment()
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        ended = os.pidfd_open(self._process.pid)
        until = time.monotonic() + PATIENCE
        try:
            # It answers some time after its socket is there, and does not say when.
            while not self._answers():
                if select.select([ended], [], [], 0.1)[0] or time.monotonic() > until:
                    said = Path(self._log.name).read_text(errors="replace")
                    raise AssertionError(f"containerd does not start: {said}")
        finally:
            os.close(ended)

    def _answers(self) -> bool:
        command = [tool("ctr"), "--address", str(self._socket), "version"]
        done = subprocess.run(command, capture_output=True, env=environment())
        return done.returncode == 0

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def ctr(self, *words: str) -> str:
        """Run ctr and return what it printed."""
        command = [tool("ctr"), "--address", str(self._socket), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment()
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def __enter__(self) -> Containerd:
        """Return itself; it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()
