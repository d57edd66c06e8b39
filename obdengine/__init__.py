# SPDX-License-Identifier: Apache-2.0
"""
obdengine - layered block images, read as disks.

    import obdengine

    with obdengine.open("config.v1.json") as device:
        device.pread(0, 512)

Public names only, in order of importance.
"""

from obdengine.device import Device, Extent
from obdengine.errors import ObdError
from obdengine.ops.image import open_image as open

__all__ = ["open", "Device", "Extent", "ObdError"]
