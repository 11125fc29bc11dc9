"""TCP on 127.0.0.1: a listener that cleans up after itself, and ways to end a connection on purpose."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Listener:
    """Listens on 127.0.0.1; runs `serve` in a task for each connection, and closes the connection after it."""

    def __init__(self, serve: Serve, port: int = 0) -> None:
        self._serve = serve
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    @property
    def port(self) -> int:
        """The port in use. Raises `RuntimeError` unless it is listening."""
        if self._server is None:
            raise RuntimeError("not running: use it in `async with`")

        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Open the port; 0 takes any free one. Raises `OSError` when it is taken."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, backlog=1024)

    async def stop(self) -> None:
        """Close the port and all connections, and wait for their tasks. Raises what `serve` has raised meanwhile."""
        if self._server is None:
            return

        self._server.close()
        for connection in self._connections:
            connection.cancel()

        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if self._errors:
            raise self._errors[0]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._run(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._ended)

    def _ended(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not connection.cancelled() and (error := connection.exception()) is not None:
            self._errors.append(error)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is closed. To close twice is harmless."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def cut(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """End a connection after all that was written: with a FIN, or with a reset."""
    transport = writer.transport
    transport.set_write_buffer_limits(0)
    await writer.drain()
    if reset:
        linger_never = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_never)
        transport.abort()

    writer.close()


async def first_of(work: Awaitable[None], *others: Awaitable[None]) -> bool:
    """Run all until one of them is done, and cancel the others. Returns whether `work` is done; raises what failed."""
    first, *rest = tasks = [asyncio.ensure_future(each) for each in (work, *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        unfinished = [task for task in tasks if task.cancel()]
        await asyncio.gather(*unfinished, return_exceptions=True)

    for task in rest:
        if not task.cancelled():
            task.result()

    if first.cancelled():
        return False

    first.result()
    return True
