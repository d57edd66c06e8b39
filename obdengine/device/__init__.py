# SPDX-License-Identifier: Apache-2.0
"""device - the stack as a disk."""

from obdengine.device.device import Companion, Device
from obdengine.device.extents import Extent
from obdengine.device.recorder import Recorder
from obdengine.device.trace import Read

__all__ = ["Companion", "Device", "Extent", "Read", "Recorder"]
