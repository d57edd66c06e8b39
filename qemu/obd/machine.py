# SPDX-License-Identifier: Apache-2.0
"""
machine - a running QEMU, given layered disks over QMP and relieved of them.

Whatever fails is undone: a machine has a disk, or it has nothing of it. All
errors are obdengine's, with QEMU's own message inside.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from obdengine.errors import UsageError, VmError, VmTimeout
from qemu.obd.agent import Agent
from qemu.obd.blocks import (
    BUSES,
    Disk,
    Limits,
    client_node,
    device,
    disk_node,
    node_name,
)

__all__ = ["Machine"]

# A guest that boots looks at its slots at last; one asked before that forgets.
_DETACH_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 5.0

_JOB_SECONDS = 3600.0
_STEP = 0.05

_SCSI = ("virtio-scsi-pci", "virtio-scsi-device")
_PORT = "pcie-root-port"


class Machine:
    """A running QEMU that answers on a QMP socket."""

    def __init__(self, qmp: QMPClient) -> None:
        self._qmp = qmp
        self._jobs = 0

    @classmethod
    @asynccontextmanager
    async def connect(cls, socket: str | os.PathLike[str]) -> AsyncIterator[Machine]:
        """Yield the machine whose QMP is at socket; VmError when none answers."""
        qmp = QMPClient("obdengine")
        # It says on standard error what is said here as an exception.
        qmp.logger.disabled = True
        try:
            await qmp.connect(os.fspath(socket))
        except (QMPError, OSError) as error:
            raise VmError(f"QEMU at {os.fspath(socket)}", reason=str(error)) from error
        try:
            yield cls(qmp)
        finally:
            with suppress(QMPError, OSError, EOFError):
                await qmp.disconnect()

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Give a QMP command; _ in a word stands for QMP's -.

        Raises VmError with what QEMU said.
        """
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        return await self._ask(command, words)

    async def _ask(self, command: str, words: dict[str, Any]) -> Any:
        try:
            return await self._qmp.execute(command, words)
        except ExecuteError as error:
            raise VmError(
                f"QEMU, asked for {command}",
                command=command,
                kind=error.error_class,
                reason=str(error),
            ) from error
        except (QMPError, OSError) as error:
            raise VmError(
                f"QEMU, asked for {command}",
                command=command,
                reason=str(error) or type(error).__name__,
            ) from error

    # -- Disks

    async def attach(
        self, disk: Disk, *, bus: str | None = None, limits: Limits | None = None
    ) -> None:
        """Give the guest a disk; return when its device is there.

        bus: one of BUSES, or the id of a bus or a port of the machine; None
        for what the machine has room on.
        """
        disk.check()
        async with AsyncExitStack() as undo:
            await self._ask("blockdev-add", client_node(disk))
            undo.push_async_callback(self._drop_node, f"{node_name(disk.name)}-0")
            await self._ask("blockdev-add", disk_node(disk))
            undo.push_async_callback(self._drop_node, node_name(disk.name))
            await self._plug(disk, bus)
            undo.push_async_callback(self._unplug, disk.name, _DETACH_SECONDS)
            if limits:
                await self.limit(disk.name, limits)
            undo.pop_all()

    async def detach(self, name: str, *, seconds: float = _DETACH_SECONDS) -> None:
        """Take a disk from the guest, which has to let go of it.

        One that is not there is fine. Raises VmTimeout when the guest does
        not let go in so many seconds; it has the disk still.
        """
        await self._unplug(name, seconds)
        clients = await self._clients(name)
        await self._drop_node(node_name(name))
        for client in clients:
            await self._drop_node(client)

    async def disks(self) -> dict[str, dict[str, Any]]:
        """Return the disks of this kind by name: each one's node, as QEMU has it."""
        nodes = await self.ask("query-named-block-nodes", flat=True)
        return {
            node["node-name"].removeprefix("obd-"): node
            for node in nodes
            if node["node-name"].startswith("obd-") and node["drv"] == "raw"
        }

    async def limit(self, name: str, limits: Limits) -> None:
        """Let a guest use no more of a disk than that."""
        words = limits.arguments()
        await self._ask("block_set_io_throttle", {"id": node_name(name), **words})

    async def resize(self, disk: Disk) -> int:
        """Tell the guest that the export has another size; return that, in bytes.

        The export has to say the new size to who connects to it now. The
        disk gets a new connection, and no request is lost.
        """
        clients = await self._clients(disk.name)
        if not clients:
            raise UsageError(f"{disk.name}: the machine has no such disk")
        number = int(clients[0].rpartition("-")[2]) + 1
        async with AsyncExitStack() as undo:
            await self._ask("blockdev-add", client_node(disk, number))
            undo.push_async_callback(
                self._drop_node, f"{node_name(disk.name)}-{number}"
            )
            await self.ask("blockdev-reopen", options=[disk_node(disk, number)])
            undo.pop_all()
        for client in clients:
            await self._drop_node(client)
        found = await self._node(f"{node_name(disk.name)}-{number}")
        size = int(found["image"]["virtual-size"])
        await self.ask("block_resize", node_name=node_name(disk.name), size=size)
        return size

    # -- Snapshots and copies

    async def snapshot(
        self,
        take: Callable[[], Awaitable[None]],
        *,
        agent: str | os.PathLike[str] | None = None,
    ) -> None:
        """Call take() while no disk of the guest changes.

        agent: the socket of the guest's agent, which makes its file systems
        whole first; without one the machine only stands still meanwhile, and
        what is taken is as after a power cut.
        """
        async with AsyncExitStack() as still:
            if agent:
                asked = await still.enter_async_context(Agent.connect(agent))
                await still.enter_async_context(asked.frozen())
            else:
                status = await self.ask("query-status")
                await self.ask("stop")
                if status["running"]:
                    still.push_async_callback(self.ask, "cont")
            await take()

    async def copy_out(
        self, source: str, target: Disk, *, sync: str = "full", mirror: bool = False
    ) -> None:
        """Copy a disk of the machine, of any kind, to what is served at target.

        source: a node, or the id of a device. sync "full": all of it; "top":
        only what its topmost image has itself, as for a chain of overlays.
        The copy is of one moment: the start, or with mirror the end, in
        which case writes go on meanwhile.
        """
        target.check()
        await self._ask("blockdev-add", client_node(target))
        node = f"{node_name(target.name)}-0"
        self._jobs += 1
        job = f"obd-copy-{os.getpid()}-{self._jobs}"
        words: dict[str, Any] = {"job-id": job, "auto-dismiss": False}
        words |= {"device": source, "target": node, "sync": sync}
        try:
            if mirror:
                words |= {"copy-mode": "write-blocking"}
                await self._ask("blockdev-mirror", words)
            else:
                await self._ask("blockdev-backup", words)
            await self._finish(job, mirror)
        finally:
            await self._drop_node(node)

    async def overlays(self, device_or_node: str) -> list[str]:
        """Return the nodes of a disk's chain, the top one first."""
        nodes = {
            node["node-name"]: node
            for node in await self.ask("query-named-block-nodes", flat=False)
        }
        name = await self._node_of(device_or_node)
        chain = [name]
        backing = nodes[name]["image"].get("backing-image") if name in nodes else None
        while backing:
            below = [
                other
                for other, node in nodes.items()
                if node["image"]["filename"] == backing["filename"]
                and node["image"]["format"] == backing["format"]
            ]
            chain += below[:1]
            backing = backing.get("backing-image")
        return chain

    # -- Jobs

    async def _finish(self, job: str, mirror: bool) -> None:
        """Wait for a job, end it, and raise VmError when it has failed."""
        try:
            async with asyncio.timeout(_JOB_SECONDS):
                while True:
                    found = await self._job(job)
                    if found is None or found["status"] == "concluded":
                        break
                    if found["status"] == "ready" and mirror:
                        # Cancelled once it is ready, it is a copy of this moment.
                        await self._ask("block-job-cancel", {"device": job})
                    await asyncio.sleep(_STEP)
        except BaseException:
            with suppress(VmError):
                await self._ask("job-cancel", {"id": job})
            raise
        if found is None:
            return
        await self._ask("job-dismiss", {"id": job})
        if found.get("error"):
            raise VmError("the copy failed", command=job, reason=found["error"])

    async def _job(self, job: str) -> dict[str, Any] | None:
        jobs: list[dict[str, Any]] = await self.ask("query-jobs")
        return next((found for found in jobs if found["id"] == job), None)

    # -- Nodes

    async def _node(self, name: str) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = await self.ask(
            "query-named-block-nodes", flat=True
        )
        for node in nodes:
            if node["node-name"] == name:
                return node
        raise UsageError(f"{name}: the machine has no such node")

    async def _node_of(self, word: str) -> str:
        for found in await self.ask("query-block"):
            if word in (found["device"], found.get("qdev")) and "inserted" in found:
                return str(found["inserted"]["node-name"])
        return word

    async def _clients(self, name: str) -> list[str]:
        nodes = await self.ask("query-named-block-nodes", flat=True)
        names = [node["node-name"] for node in nodes if node["drv"] == "nbd"]
        start = f"{node_name(name)}-"
        return [n for n in names if n.startswith(start) and n[len(start) :].isdigit()]

    async def _drop_node(self, name: str) -> None:
        try:
            await self.ask("blockdev-del", node_name=name)
        except VmError as error:
            if "Failed to find node" not in error.reason:
                raise

    # -- Devices

    async def _plug(self, disk: Disk, bus: str | None) -> None:
        """Add a device for a disk at the first place that takes it."""
        said: VmError | None = None
        ports = [i for i, kind in (await self._added()).items() if kind == _PORT]
        for driver, place in await self._places(bus):
            words = device(disk, driver, place)
            # A port has one place that guests look at, and QEMU 7.2 takes more.
            words |= {"addr": "0"} if place in ports else {}
            try:
                await self._ask("device_add", words)
            except VmError as error:
                said = said or error
            else:
                return
        raise said or VmError(
            f"{disk.name}: the machine has no place for a disk",
            reason="it needs a virtio-scsi controller, a free pcie-root-port, or "
            "a PCI bus",
        )

    async def _places(self, bus: str | None) -> Sequence[tuple[str, str]]:
        """Return (driver, bus) that may take a disk, the best first."""
        kind = await self.ask("qom-get", path="/machine", property="type")
        added = await self._added()
        scsi = [("scsi-hd", f"{i}.0") for i, k in added.items() if k in _SCSI]
        ports = [("virtio-blk-pci", i) for i, k in added.items() if k == _PORT]
        if kind.startswith("pc-i440fx"):
            ports.append(("virtio-blk-pci", "pci.0"))
        if bus is None:
            return ports + scsi
        if bus in BUSES:
            return ports if bus == "virtio-blk" else scsi
        return [("scsi-hd", bus), ("virtio-blk-pci", bus)]

    async def _added(self) -> dict[str, str]:
        """Return what was added to the machine by id: the kind of each."""
        items = await self.ask("qom-list", path="/machine/peripheral")
        return {
            item["name"]: item["type"].removeprefix("child<").removesuffix(">")
            for item in items
            if item["type"].startswith("child<")
        }

    async def _unplug(self, name: str, seconds: float) -> None:
        """Ask the guest for a disk until it lets go of it."""
        wanted = node_name(name)
        try:
            with self._qmp.listener("DEVICE_DELETED") as gone:
                async with asyncio.timeout(seconds):
                    while wanted in await self._added():
                        await self._ask_for(wanted)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                                await _deleted(gone, wanted)
        except TimeoutError as error:
            raise VmTimeout(
                f"{name}: the guest does not let go of it", command="device_del"
            ) from error

    async def _ask_for(self, wanted: str) -> None:
        try:
            await self.ask("device_del", id=wanted)
        except VmError as error:
            # Asked twice, or gone in the meantime.
            if error.kind != "DeviceNotFound" and "unplug" not in error.reason:
                raise


async def _deleted(events: EventListener, wanted: str) -> None:
    """Wait for the event that says that a device is gone."""
    async for event in events:
        data = event["data"]
        if isinstance(data, dict) and data.get("device") == wanted:
            return
