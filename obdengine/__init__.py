# SPDX-License-Identifier: Apache-2.0
"""
obdengine - layered block images, read as disks.

    import obdengine

    with obdengine.open("config.v1.json") as device:
        device.pread(0, 512)

Public names only, in order of importance. They are found when they are first
used, so that a broken installation can still be looked at with `obd doctor`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obdengine.device import Device, Extent
    from obdengine.errors import ObdError
    from obdengine.ops.image import open_image as open

__all__ = ["open", "Device", "Extent", "ObdError"]


def __getattr__(name: str) -> Any:
    """Find a public name; Python asks once for what is not there yet."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from obdengine.device import Device, Extent
    from obdengine.errors import ObdError
    from obdengine.ops.image import open_image

    globals().update(open=open_image, Device=Device, Extent=Extent, ObdError=ObdError)
    return globals()[name]
