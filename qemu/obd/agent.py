# SPDX-License-Identifier: Apache-2.0
"""
agent - a guest's own agent, asked to hold its file systems still.

qemu-guest-agent speaks JSON lines on a channel of the machine, which is a
unix socket here. It answers one client at a time, and may not be there at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from obdengine.errors import VmError, VmTimeout

__all__ = ["Agent"]

_SECONDS = 30.0


class Agent:
    """A guest agent that has answered."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, socket: str | os.PathLike[str]) -> AsyncIterator[Agent]:
        """Yield the agent that is at socket; VmError when none answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(socket)
        except OSError as error:
            raise VmError(f"guest agent at {socket}", reason=str(error)) from error
        agent = cls(reader, writer)
        try:
            await agent.synchronize()
            yield agent
        finally:
            writer.close()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[int]:
        """Hold the guest's file systems still for the block; yield how many."""
        try:
            count = await self.ask("guest-fsfreeze-freeze")
            yield int(count)
        finally:
            await self.ask("guest-fsfreeze-thaw")

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Give a command and return its reply; VmError with the agent's words."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()
        reply = await self._reply(command)
        if "error" in reply:
            error = reply["error"]
            raise VmError(
                f"the guest agent, asked for {command}",
                command=command,
                kind=str(error.get("class", "")),
                reason=str(error.get("desc", "")),
            )
        return reply.get("return")

    async def synchronize(self) -> None:
        """Throw away what the agent answers to clients before us."""
        number = random.getrandbits(31)
        request = {"execute": "guest-sync", "arguments": {"id": number}}
        self._writer.write(json.dumps(request).encode() + b"\n")
        while (await self._reply("guest-sync")).get("return") != number:
            pass

    async def _reply(self, command: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_SECONDS):
                line = await self._reader.readline()
        except TimeoutError as error:
            raise VmTimeout(
                "the guest agent does not answer", command=command
            ) from error
        if not line:
            raise VmError("the guest agent has gone", command=command)
        found: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return found
