# SPDX-License-Identifier: Apache-2.0
"""sync - a Machine for programs that do not use asyncio: the same verbs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

from qemu.obd.blocks import Disk, Limits
from qemu.obd.machine import Machine

__all__ = ["SyncMachine"]

_Result = TypeVar("_Result")


class SyncMachine:
    """A running QEMU; each call returns when it is done. One thread at a time."""

    def __init__(self, socket: str | os.PathLike[str]) -> None:
        """Connect to the QMP socket; VmError when nobody answers there."""
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        try:
            self.machine = self._run(self._connect(socket))
        except BaseException:
            self._runner.close()
            raise

    async def _connect(self, socket: str | os.PathLike[str]) -> Machine:
        return await self._stack.enter_async_context(Machine.connect(socket))

    def __enter__(self) -> SyncMachine:
        """Return it, to be closed at the end of the block."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Hang up; the machine goes on."""
        self.close()

    def close(self) -> None:
        """Hang up; the machine goes on."""
        try:
            self._run(self._stack.aclose())
        finally:
            self._runner.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """As Machine.ask()."""
        return self._run(self.machine.ask(command, **arguments))

    def attach(
        self, disk: Disk, *, bus: str | None = None, limits: Limits | None = None
    ) -> None:
        """As Machine.attach()."""
        self._run(self.machine.attach(disk, bus=bus, limits=limits))

    def detach(self, name: str, *, seconds: float = 60.0) -> None:
        """As Machine.detach()."""
        self._run(self.machine.detach(name, seconds=seconds))

    def disks(self) -> dict[str, dict[str, Any]]:
        """As Machine.disks()."""
        return self._run(self.machine.disks())

    def limit(self, name: str, limits: Limits) -> None:
        """As Machine.limit()."""
        self._run(self.machine.limit(name, limits))

    def resize(self, disk: Disk) -> int:
        """As Machine.resize()."""
        return self._run(self.machine.resize(disk))

    def snapshot(
        self,
        take: Callable[[], None],
        *,
        agent: str | os.PathLike[str] | None = None,
    ) -> None:
        """As Machine.snapshot()."""

        async def taking() -> None:
            take()

        self._run(self.machine.snapshot(taking, agent=agent))

    def copy_out(
        self, source: str, target: Disk, *, sync: str = "full", mirror: bool = False
    ) -> None:
        """As Machine.copy_out()."""
        self._run(self.machine.copy_out(source, target, sync=sync, mirror=mirror))

    def overlays(self, device_or_node: str) -> list[str]:
        """As Machine.overlays()."""
        return self._run(self.machine.overlays(device_or_node))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._runner.run(work)
