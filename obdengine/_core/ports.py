# SPDX-License-Identifier: Apache-2.0
"""ports - where requests enter a disk: the gate for writes, and the native door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from obdengine._core.binding import ffi, lib, made
from obdengine._core.devices import Device

__all__ = ["Port"]


class Port:
    """A disk that may be exchanged, for native code, and its gate for writes.

    As a context it lets a write or flush through the gate, and waits while
    that is shut.
    """

    def __init__(self) -> None:
        """Make one with no disk behind it; every request is refused then."""
        self._c = ffi.gc(made(lib.obd_port_new(), "a port"), lib.obd_port_end)
        self._native = ffi.new("struct obd_native *")
        lib.obd_native_fill(self._native, self._c)

    @property
    def address(self) -> int:
        """Where the struct obd_native of this port is, while the port lives."""
        return int(ffi.cast("uintptr_t", self._native))

    def use(self, device: Device | None, *, writable: bool) -> None:
        """Serve from device; returns when no native request is in the one before.

        One caller at a time.
        """
        lib.obd_port_use(self._c, device._c if device else ffi.NULL, writable)

    def __enter__(self) -> None:
        """Go through the gate."""
        lib.obd_port_pass(self._c)

    def __exit__(self, *_: object) -> None:
        """Leave."""
        lib.obd_port_leave(self._c)

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Keep writes out for the block, one block at a time."""
        lib.obd_port_shut(self._c)
        try:
            yield
        finally:
            lib.obd_port_open(self._c)
