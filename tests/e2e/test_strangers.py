"""Against a server that knows nothing of agentbg: plain asyncio, and habits that the servers of strangers have."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    RequestRejected,
    RunStatus,
    ServiceUnavailable,
    SubmitUnknown,
    UpdateType,
)

from .helpers import POLL, STREAM, agent_of, bounded, check, collect

TEXT = "".join(f"wört{number} 🦊 " for number in range(20))


@dataclass
class Stranger:
    """One run, done from the start. Subclasses have the habits."""

    port: int = 0
    cut_after: int | None = None
    """Each stream ends after so many events, as if by a proxy with little patience."""
    items: bool = True
    """Whether a stream says that an output item begins."""
    index: int = 0
    """The number of that item."""
    requests: list[str] = field(default_factory=list[str])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def events(self) -> list[dict[str, Any]]:
        added = {"type": "response.output_item.added", "output_index": self.index, "item": {"type": "message"}}
        deltas = [{"type": "response.output_text.delta", "output_index": self.index, "delta": part} for part in parts()]
        created = {"type": "response.created", "response": self.response("in_progress")}
        return [
            created,
            *([added] if self.items else []),
            *deltas,
            {"type": "response.completed", "response": self.response()},
        ]

    def response(self, status: str = "completed") -> dict[str, Any]:
        content = [{"type": "output_text", "text": TEXT}]
        output = [{"type": "message", "role": "assistant", "content": content}] if status == "completed" else []
        return {"id": "resp_1", "status": status, "output": output}

    def stream(self, after: int | None) -> list[dict[str, Any]]:
        """What a stream says, from the start or after a number."""
        return self.events()[: self.cut_after]

    async def answer(self, method: str, target: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        query = dict(pair.split("=") for pair in target.partition("?")[2].split("&") if pair)
        if body.get("stream") or query.get("stream") == "true":
            after = query.get("starting_after")
            write(writer, "text/event-stream", sse(self.stream(None if after is None else int(after))))
        else:
            write(writer, "application/json", json.dumps(self.response("queued" if method == "POST" else "completed")))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            method, target, _ = head[0].split()
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(f"{method} {target}")
            await self.answer(method, target, json.loads(body or "{}"), writer)
            await writer.drain()

        writer.close()


def parts() -> list[str]:
    return [f"{word} " for word in TEXT.split(" ")[:-1]]


def sse(events: list[dict[str, Any]]) -> str:
    return "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)


def write(writer: asyncio.StreamWriter, kind: str, body: str, status: str = "200 OK", headers: str = "") -> None:
    """An answer of HTTP/1.0: it ends with the connection."""
    writer.write(f"HTTP/1.0 {status}\r\ncontent-type: {kind}\r\n{headers}\r\n{body}".encode())


@asynccontextmanager
async def served(stranger: Stranger) -> AsyncGenerator[Stranger]:
    server = await asyncio.start_server(stranger.serve, "127.0.0.1", 0)
    stranger.port = server.sockets[0].getsockname()[1]
    async with server:
        yield stranger


@asynccontextmanager
async def driven(stranger: Stranger, **settings: Any) -> AsyncGenerator[tuple[AgentRuntime, Agent[Any]]]:
    """A runtime and an agent at this server."""
    settings = {"poll": POLL, "stream": STREAM, **settings}
    async with served(stranger), agent_of(stranger.base_url) as agent, bounded(), AgentRuntime(**settings) as runtime:
        yield runtime, agent


@dataclass
class Numberless(Stranger):
    """No sequence numbers: each stream begins at the beginning."""


@dataclass
class GlobalNumbers(Stranger):
    """One counter for all connections, and no ear for a cursor: what is sent again has later numbers."""

    sent: int = 0

    def stream(self, after: int | None) -> list[dict[str, Any]]:
        numbered = [event | {"sequence_number": self.sent + place} for place, event in enumerate(super().stream(after))]
        self.sent += len(numbered)
        return numbered


@dataclass
class OnlyAlive(GlobalNumbers):
    """A stream that is taken up again says that it is alive, under a new number, and ends."""

    def stream(self, after: int | None) -> list[dict[str, Any]]:
        if after is None:
            return super().stream(after)

        self.sent += 1
        return [{"type": "keepalive", "sequence_number": self.sent}]


@dataclass
class Nameless(Stranger):
    """Says that a run goes on, and not which."""

    def response(self, status: str = "completed") -> dict[str, Any]:
        return {"status": status, "output": []}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_run_that_goes_on_without_a_name_is_a_start_whose_answer_is_lost(stream: bool) -> None:
    async with driven(Nameless(cut_after=3)) as (runtime, agent):
        with pytest.raises(SubmitUnknown, match="name"):
            await (await runtime.submit(agent, "Why?", stream=stream))


@dataclass
class OneName(Stranger):
    """Gives all its runs the same id. The first asks for a call."""

    starts: int = 0

    def events(self) -> list[dict[str, Any]]:
        if self.starts > 1:
            return super().events()

        call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
        ended = {"id": "resp_1", "status": "completed", "output": [call]}
        created = {"type": "response.created", "response": self.response("in_progress")}
        return [created, {"type": "response.completed", "response": ended}]

    def stream(self, after: int | None) -> list[dict[str, Any]]:
        numbered = [event | {"sequence_number": place} for place, event in enumerate(self.events())]
        return numbered[0 if after is None else after + 1 :]

    async def answer(self, method: str, target: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        self.starts += method == "POST"
        await super().answer(method, target, body, writer)


async def test_a_stream_is_taken_up_at_each_update_where_all_runs_have_one_name() -> None:
    looked: list[str] = []

    def look() -> str:
        looked.append("there")
        return "Nothing."

    text, response, options = "", None, AgentRunOptions(allow_background_responses=True)
    stranger = OneName()
    async with served(stranger), agent_of(stranger.base_url, tools=[look]) as agent, bounded():
        thread, question = agent.get_new_thread(), "What is there?"
        while response is None:
            async with agent.run_streaming(question, thread, options) as updates:
                update = await anext(updates)

            text = update.text if update.type is UpdateType.RESET else text + update.text
            question, response = None, update.response
            options = AgentRunOptions(allow_background_responses=True, continuation_token=update.continuation_token)

    assert (text, response.text, looked, stranger.starts) == (TEXT, TEXT, ["there"], 2)


@pytest.mark.parametrize("cut_after", [3, 9])
@pytest.mark.parametrize(
    ("kind", "items"), [(Numberless, True), (Numberless, False), (GlobalNumbers, True), (OnlyAlive, True)]
)
async def test_a_stream_that_only_repeats_itself_is_given_up_for_a_poll(
    kind: type[Stranger], items: bool, cut_after: int
) -> None:
    stranger = kind(cut_after=cut_after, items=items)
    async with driven(stranger) as (runtime, agent):
        handle = await runtime.submit(agent, "a story", stream=True)
        updates = await collect(handle.stream())

    check(updates, TEXT)
    assert len(stranger.requests) <= 2 * STREAM.attempts + 2


@dataclass
class EndsWithCancel(Stranger):
    """The answer to a cancel, and the end of the stream, which names no end, come together."""

    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, method: str, target: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        if target.endswith("/cancel"):
            write(writer, "application/json", json.dumps(self.response("cancelled")))
            self.cancelled.set()
            return

        write(writer, "text/event-stream", sse(self.stream(None)[:3]))
        await self.cancelled.wait()


async def test_a_cancel_that_is_answered_while_the_stream_ends_leaves_no_work_undone() -> None:
    """Whether the next connection is given up before it began is a matter of microseconds: hence so many."""
    for _ in range(25):
        async with driven(EndsWithCancel()) as (runtime, agent):
            handle = await runtime.submit(agent, "a story", stream=True)
            await anext(handle.stream())
            assert await handle.cancel() is RunStatus.CANCELLED

    gc.collect()


@dataclass
class OtherKind(Stranger):
    """A stream by another name."""

    kind: str = ""

    async def answer(self, method: str, target: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        write(writer, self.kind, sse(self.stream(None)))


@pytest.mark.parametrize("kind", ["", "text/plain", "application/octet-stream"])
async def test_a_stream_is_one_whatever_its_content_type(kind: str) -> None:
    async with driven(OtherKind(kind=kind)) as (runtime, agent):
        handle = await runtime.submit(agent, "a story", stream=True)
        check(await collect(handle.stream()), TEXT)


@dataclass
class Answers(Stranger):
    """One answer to everything."""

    status: str = "200 OK"
    headers: str = ""
    body: str = ""

    async def answer(self, method: str, target: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        if target.startswith("/moved"):
            write(writer, "application/json", "{}", "405 Method Not Allowed")
        else:
            write(writer, "application/json", self.body, self.status, self.headers)


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_a_wish_for_a_date_is_read_by_the_clock_of_the_service(ahead: int) -> None:
    there = time.time() + ahead
    headers = f"date: {formatdate(there, usegmt=True)}\r\nretry-after: {formatdate(there + 77, usegmt=True)}\r\n"
    stranger = Answers(status="429 Too Many Requests", headers=headers)
    async with served(stranger), agent_of(stranger.base_url) as agent:
        with pytest.raises(ServiceUnavailable) as caught:
            await agent.run("a story")

    assert caught.value.retry_after == 77


async def test_a_start_that_a_redirect_has_lost_names_the_address_to_use() -> None:
    stranger = Answers(status="301 Moved Permanently", headers="location: /moved/responses\r\n")
    async with served(stranger), agent_of(stranger.base_url) as agent:
        with pytest.raises(RequestRejected, match=f"make http://127.0.0.1:{stranger.port}/moved the base URL"):
            await agent.run("a story")


async def test_an_answer_that_is_no_response_is_quoted() -> None:
    stranger = Answers(body=json.dumps({"error": {"message": "The quota of this key is used up."}}))
    async with served(stranger), agent_of(stranger.base_url) as agent:
        with pytest.raises(SubmitUnknown, match="quota of this key"):
            await agent.run("a story")


@pytest.mark.parametrize("index", [300, 20_000, 10**15, -1])
async def test_a_nonsensical_item_number_costs_no_token_and_no_memory(index: int) -> None:
    async with driven(Stranger(index=index, cut_after=8)) as (runtime, agent):
        handle = await runtime.submit(agent, "a story", stream=True)
        updates = await collect(handle.stream())

    check(updates, TEXT)
    assert all(len(str(update.continuation_token)) < 1000 for update in updates)
