# SPDX-License-Identifier: Apache-2.0
"""device - the stack as a disk."""

from obdengine.device.device import Device
from obdengine.device.extents import Extent

__all__ = ["Device", "Extent"]
