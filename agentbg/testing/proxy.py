"""A TCP proxy that cuts the connections of responses, to stand in front of a real service on this machine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

import h11

from .loopback import Listener, close, cut, first_of

_RECEIVE = 65536


@dataclass(frozen=True, slots=True)
class ResponseCut:
    """Where and how to cut one response. A response that is too short for it does not use it up."""

    events: int | None = None
    """After so many server-sent events, exactly at the end of the last one."""
    bytes: int | None = None
    """After so many bytes of the body as it is on the wire, with the framing of its chunks."""
    how: Literal["fin", "rst"] = "fin"
    """Close the connection properly, or reset it."""
    streams_only: bool = True
    """Whether only a `text/event-stream` may be cut."""

    def __post_init__(self) -> None:
        if (self.events is None) == (self.bytes is None):
            raise ValueError("give either events= or bytes=, to say where to cut")


class CuttingProxy:
    """Forwards to `target`, such as `http://127.0.0.1:8088/v1`, and makes the `cuts`, each once, in order.

        cuts = [ResponseCut(events=5), ResponseCut(bytes=900, how="rst")]
        async with CuttingProxy(service_url, cuts) as proxy:
            client = AsyncOpenAI(base_url=proxy.base_url)

    It reads plain HTTP/1.1. Leaving the block closes all connections.
    """

    def __init__(self, target: str, cuts: Iterable[ResponseCut] = ()) -> None:
        self.cuts_made = 0
        """How many responses have been cut."""
        self.pending = deque(cuts)
        """The cuts that wait for their response; more may be appended at any time."""
        self._target = urlsplit(target)
        self._listener = Listener(self._serve)

    @property
    def base_url(self) -> str:
        """The target's address, seen through the proxy. Raises `RuntimeError` unless it is running."""
        return f"http://127.0.0.1:{self._listener.port}{self._target.path}"

    async def __aenter__(self) -> Self:
        await self._listener.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._listener.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            service_reader, service_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            watch = _Watch(self.pending)
            try:
                await first_of(self._responses(service_reader, writer, watch), _requests(reader, service_writer, watch))
            finally:
                watch.give_back()
                await close(service_writer)

    async def _responses(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: _Watch) -> None:
        while data := await reader.read(_RECEIVE):
            allowed, where = watch.response(data)
            writer.write(data[:allowed])
            await writer.drain()
            if where is not None:
                watch.made()
                self.cuts_made += 1
                return await cut(writer, reset=where.how == "rst")

        return None


class _Watch:
    """Reads along with the responses of one connection, and says where to cut."""

    def __init__(self, pending: deque[ResponseCut]) -> None:
        self._pending = pending
        self._cut: ResponseCut | None = None
        self.request()

    def request(self) -> None:
        """A request was sent: what comes next is its response. It is read only if there is a cut to make."""
        self.give_back()
        self._following = bool(self._pending)
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="GET", target="/", headers=[("host", "service")]))
        self._http.send(h11.EndOfMessage())
        self._in_body = False
        self._bytes = 0
        self._events = _EventCount()

    def response(self, data: bytes) -> tuple[int, ResponseCut | None]:
        """How many of these bytes may pass, and the cut to make after them."""
        if not self._following:
            return len(data), None

        passed = 0
        for line in data.splitlines(keepends=True):
            ended = self._read(line)
            passed += len(line)
            if (spare := self._spare(len(line))) is not None:
                return passed - spare, self._cut

            if ended:
                self.give_back()
                return len(data), None

        return passed, None

    def _read(self, line: bytes) -> bool:
        """Take a piece of the response, up to a line's end. Returns whether the response is over."""
        self._bytes += len(line) if self._in_body else 0
        try:
            self._http.receive_data(line)
            while (event := self._http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                self._see(event)
        except h11.RemoteProtocolError:  # not HTTP as we know it: let it pass
            self._following = False

        return not self._following

    def _see(self, event: object) -> None:
        if isinstance(event, h11.Response):
            self._begin(event)
        elif isinstance(event, h11.Data):
            self._events.feed(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._following = False

    def _begin(self, head: h11.Response) -> None:
        self._in_body = True
        streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.headers
        )
        if self._pending and (streams or not self._pending[0].streams_only):
            self._cut = self._pending.popleft()

    def _spare(self, size: int) -> int | None:
        """How many of the last `size` bytes are too many; None while it is not time to cut."""
        if self._cut is None or not self._in_body:
            return None

        if self._cut.events is not None:
            return 0 if self._events.count >= self._cut.events else None

        spare = self._bytes - (self._cut.bytes or 0)
        return min(spare, size) if spare >= 0 else None

    def made(self) -> None:
        """The cut has been made."""
        self._cut = None

    def give_back(self) -> None:
        """The response is over: a cut that it was too short for waits for another."""
        if self._cut is not None:
            self._pending.appendleft(self._cut)
            self._cut = None


class _EventCount:
    """Counts the events of a stream: blocks of lines with data among them, each ended by an empty line."""

    def __init__(self) -> None:
        self.count = 0
        self._line = b""
        self._data = False

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data = True
            elif not line.rstrip(b"\r"):
                self.count += self._data
                self._data = False


async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: _Watch) -> None:
    while data := await reader.read(_RECEIVE):
        watch.request()
        writer.write(data)
        await writer.drain()
