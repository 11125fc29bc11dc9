"""HTTP over one TCP connection: h11 speaks the protocol, and a body is sent step by step, to the byte."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
from pydantic_core import from_json

from ..loopback import cut, first_of
from .exchange import Request
from .reply import Cut, How, Pause, Reply, Step
from .wire import JSON, encode, error_body, frame, new_id

_RECEIVE = 65536
_BATCH = 65536
"""Bytes of frames that are sent as one chunk when they are all there already."""


class Connection:
    """Serves the requests of one connection, one after the other."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Request], Reply]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Answer requests until either side closes the connection."""
        try:
            while (request := await self._receive()) is not None:
                await self._send(self._answer(request))
                if self._writer.is_closing() or self._http.our_state is not h11.DONE:
                    break

                self._http.start_next_cycle()
        except ConnectionError:
            pass
        except h11.RemoteProtocolError as error:
            self._refuse(error)

    async def _receive(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_RECEIVE))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(body))
            else:
                return None

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state is h11.IDLE or self._http.our_state is h11.SEND_RESPONSE:
            body = encode(error_body(str(error)))
            self._write_head(Reply(body, error.error_status_hint), len(body))
            self._write(h11.Data(data=body))

    async def _send(self, reply: Reply) -> None:
        if isinstance(reply.body, bytes):
            self._write_head(reply, len(reply.body))
            self._write(h11.Data(data=reply.body))
            self._write(h11.EndOfMessage())
            await self._writer.drain()
            return

        if reply.status is not None:
            self._write_head(reply, None)

        if not await first_of(self._send_steps(reply.body), self._read_ahead()):
            raise ConnectionResetError("the client closed the connection")

    def _write_head(self, reply: Reply, length: int | None) -> None:
        headers = {**reply.headers, "x-request-id": new_id("req"), "openai-version": "2020-10-01"}
        if length is not None:
            headers.setdefault("content-length", str(length))

        assert reply.status is not None
        self._write(h11.Response(status_code=reply.status, headers=list(headers.items())))

    def _write(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._writer.write(data)

    async def _read_ahead(self) -> None:
        """Return when the client closes the connection; a server in a long pause would never notice by itself."""
        while data := await self._reader.read(_RECEIVE):
            self._http.receive_data(data)

    async def _send_steps(self, steps: Iterator[Step]) -> None:
        batch = bytearray()
        for step in steps:
            if isinstance(step, dict):
                batch += frame(step)
            elif isinstance(step, bytes):
                batch += step

            if len(batch) >= _BATCH or isinstance(step, Pause | Cut):
                await self._flush(batch)

            if isinstance(step, Pause):
                await _wait(step)
            elif isinstance(step, Cut):
                return await self._end(step.how)

        await self._flush(batch)
        return await self._end("clean")

    async def _end(self, how: How) -> None:
        if how != "clean":
            return await cut(self._writer, reset=how == "rst")

        self._write(h11.EndOfMessage())
        return await self._writer.drain()

    async def _flush(self, batch: bytearray) -> None:
        if batch:
            self._write(h11.Data(data=bytes(batch)))
            batch.clear()
            await self._writer.drain()


async def _wait(pause: Pause) -> None:
    seconds = None if math.isinf(pause.seconds) else pause.seconds
    wake = pause.wake or asyncio.Event()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()


def _request(head: h11.Request, body: bytes) -> Request:
    target = urlsplit(head.target.decode("ascii"))
    return Request(
        method=head.method.decode("ascii"),
        path=unquote(target.path),
        query=dict(parse_qsl(target.query, keep_blank_values=True)),
        headers={name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
        json=_object(body),
        time=asyncio.get_running_loop().time(),
    )


def _object(body: bytes) -> JSON | None:
    try:
        value = from_json(body)
    except ValueError:
        return None

    return cast(JSON, value) if isinstance(value, dict) else None
