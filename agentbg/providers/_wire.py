"""How the requests of a run that are made often reach the service: its polls and its streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import openai

Headers = Mapping[str, str]


class Streamed(Protocol):
    """An answer of which only the head has come."""

    @property
    def headers(self) -> Headers:
        """By name, in any case."""
        ...

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it comes, decompressed. What came before a break comes before its error."""
        ...

    async def read(self) -> bytes:
        """The whole body."""
        ...


class Wire(Protocol):
    """Requests to the service. They raise what openai-python raises, or what a transport does.

    A request that is cancelled, and a stream that is left before its end, close their connection at once.
    """

    async def poll(self, run_id: str) -> tuple[Headers, bytes]:
        """The headers and the body of the answer about a run."""
        ...

    def attach(self, run_id: str, after: int | None) -> AbstractAsyncContextManager[Streamed]:
        """The stream of a run's events, all of them or those after a number."""
        ...

    def open(self, body: Mapping[str, Any], key: str | None) -> AbstractAsyncContextManager[Streamed]:
        """Start a run and stream it. Sent once, whatever happens; `key` names the attempt."""
        ...

    async def aclose(self) -> None:
        """Close the connections that are the wire's own. It may be used again."""
        ...


class SDKWire:
    """A `Wire` through openai-python's public methods, for any client. `timeout` bounds a poll, in seconds."""

    def __init__(self, client: openai.AsyncOpenAI, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def poll(self, run_id: str) -> tuple[Headers, bytes]:
        answer = await self._client.responses.with_raw_response.retrieve(run_id, timeout=self._timeout)
        return answer.http_response.headers, answer.http_response.content

    def attach(self, run_id: str, after: int | None) -> AbstractAsyncContextManager[Streamed]:
        return self._client.responses.with_streaming_response.retrieve(
            run_id, stream=True, starting_after=openai.omit if after is None else after
        )

    def open(self, body: Mapping[str, Any], key: str | None) -> AbstractAsyncContextManager[Streamed]:
        return self._client.responses.with_streaming_response.create(extra_body=body, extra_headers=key_header(key))

    async def aclose(self) -> None:
        """The client's connections are its own."""


def key_header(key: str | None) -> dict[str, str]:
    """Names an attempt to start, for services that take a second one of the same name as the same."""
    return {"Idempotency-Key": key} if key else {}
