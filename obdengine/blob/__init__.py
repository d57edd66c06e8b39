# SPDX-License-Identifier: Apache-2.0
"""
blob - the stream of a layer in a file: tar wrapper and ZFile taken off or put on.

It knows nothing of what the stream holds.
"""

from __future__ import annotations

from obdengine.blob.reader import Blob, Progress, open_blob
from obdengine.blob.request import Request
from obdengine.blob.target import Target, open_target
from obdengine.blob.writer import BlockTooLarge, PlainWriter, StreamWriter, ZWriter

__all__ = [
    "open_blob",
    "Blob",
    "Progress",
    "Request",
    "open_target",
    "Target",
    "ZWriter",
    "PlainWriter",
    "StreamWriter",
    "BlockTooLarge",
]
