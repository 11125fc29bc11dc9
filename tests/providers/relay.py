"""The routes of respx behind a real port: for a client that respx cannot stand in front of."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import h11
import httpcore2
import httpx
import respx

from agentbg.testing.loopback import Listener


class Relay(Listener):
    """Answers each request as the router does. A transport's error that a route raises ends the connection."""

    def __init__(self, router: respx.MockRouter) -> None:
        super().__init__(self._serve_one)
        self._router = router

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h11.Connection(h11.SERVER)
        while (request := await _request(wire, reader)) is not None:
            try:
                answer = await self._router.async_handler(request)
            except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError):
                return

            body = b"".join([chunk async for chunk in answer.stream])
            headers = [pair for pair in answer.headers.raw if pair[0].lower() not in (b"content-length", b"connection")]
            if answer.status_code != 204:
                headers.append((b"content-length", str(len(body)).encode()))

            head = wire.send(h11.Response(status_code=answer.status_code, headers=headers))
            writer.write((head or b"") + (wire.send(h11.Data(body)) or b"" if body else b""))
            writer.write(wire.send(h11.EndOfMessage()) or b"")
            if wire.our_state is not h11.DONE:
                return

            wire.start_next_cycle()


async def _request(wire: h11.Connection, reader: asyncio.StreamReader) -> httpx.Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            host = dict(head.headers)[b"host"].decode()
            return httpx.Request(
                head.method.decode(),
                f"http://{host}{head.target.decode()}",
                headers=list(head.headers.raw_items()),
                content=body,
            )
        else:
            return None


def resolving_to(port: int) -> Any:
    """In place of `aiohttp.ThreadedResolver.resolve`: every host lives at this port of the loopback."""

    async def resolve(self: aiohttp.ThreadedResolver, host: str, *_: object, **__: object) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 4}]

    return resolve
