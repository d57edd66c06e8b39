# SPDX-License-Identifier: Apache-2.0
"""kept - a stream writer that writes nowhere."""

from __future__ import annotations


class Kept:
    """Keeps the stream of a layer in memory."""

    def __init__(self) -> None:
        self.stream = bytearray()
        self.finished = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.stream += data

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        """Nothing to stop."""
