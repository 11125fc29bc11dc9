"""A stream's bytes, mangled in any way: what was delivered is what the answer is, or a RESET said so.

The wire is a fake, and time is virtual; all that is above it is real: decoder, provider, driver and core. The polls
tell the truth, sooner or later.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiohttp
import httpx2
import openai
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRunResponseUpdate,
    AgentRuntime,
    RunStatus,
    SubmitUnknown,
    UpdateType,
)
from agentbg.core.model import RunRef, Snapshot
from agentbg.core.sse import EventDecoder, read_blocks, read_data
from agentbg.providers import OpenAIResponses
from agentbg.providers.responses_wire import read_event, read_response
from agentbg.testing import VirtualClock, run
from agentbg.testing.server import FunctionCall, Message, Reasoning, Script
from agentbg.testing.server.play import error_event
from agentbg.testing.server.run import Run
from agentbg.testing.server.wire import encode, error_body, frame

FOLDER = os.environ.get("AGENTBG_RECORDINGS")
NAME = "resp_" + "0123456789abcdef" * 3
S = TypeVar("S", bytes, list[bytes])

# --- what is streamed ---

SCRIPTS = [
    Script.text("Once upon a time the tide turned.", 12),
    Script.text('Zwölf 🦊 boxers — ≤ 3 \u2028 lines\r\nand a \\ in "quotes".\n\n', 20),
    Script.of(Reasoning("Let me think."), Message("First this. ", 3), Message("Then that.", 4)),
    Script.of(Message("", None), Message("aaaaaaaaaaaaaaaa", 16)),
    Script.incomplete("Once upon a"),
    Script.failed("rate_limit", "Too much.", after="Once upon a time"),
    Script.failed("rate_limit", "Too much.", after="Once", error_event="nested"),
    Script.of(Message("I look it up.", 4), FunctionCall("look", '{"word": "tide"}', "call_1")),
]


def scripts() -> Iterator[Script]:
    yield from SCRIPTS
    for name in ("story", "tool_call", "web_search", "failed"):
        yield Script.recording(name, keep_ids=False)

    for file in sorted(Path(FOLDER).glob("*.json")) if FOLDER else []:
        for exchange in json.loads(file.read_text("utf-8"))["exchanges"]:
            body = exchange["body"]
            if isinstance(body, str) and body.startswith("event:"):
                yield Script.from_events(body, keep_ids=False)


@dataclass(frozen=True)
class Story:
    """A run's events, as the service frames them, and the truth about it."""

    place: int
    frames: list[bytes] = field(repr=False)
    numbers: list[int] = field(repr=False)
    truth: Snapshot = field(repr=False)
    body: bytes = field(repr=False)


@cache
def stories() -> list[Story]:
    return [story_of(place, script) for place, script in enumerate(scripts())]


def story_of(place: int, script: Script) -> Story:
    played = Run(0, NAME, {"model": "test", "background": True, "stream": True}, script, lambda: 0.0, 0)
    events = [json.loads(json.dumps(event)) for event in played.events]
    numbers = [event.get("sequence_number", place) for place, event in enumerate(events)]
    frames, final = [frame(event) for event in events], played.final
    return Story(place, frames, numbers, read_response(final, make_ref), encode(final))


def make_ref(run_id: str) -> RunRef:
    return RunRef("openai", "here", {"response": run_id})


# --- what may happen to it ---


def place(share: int, size: int) -> int:
    return share * size // 1000


def cut_out(seq: S, a: int, b: int) -> tuple[S, S, S]:
    """What is before, in, and after a part of some events, or of some bytes."""
    a, b = sorted((place(a, len(seq)), place(b, len(seq))))
    return seq[:a], seq[a:b], seq[b:]


def split(share: int, data: bytes) -> int:
    """Every other place is in the next end of a line: what ends an event is cut in two."""
    at = place(share, len(data))
    end = re.search(rb"[\r\n]", data[at : at + 100_000]) if share % 2 else None
    return at + end.end() if end else at


shares = st.integers(0, 1000)


@dataclass(frozen=True)
class Drop:
    a: int
    b: int

    def __call__(self, seq: S) -> S:
        before, _, after = cut_out(seq, self.a, self.b)
        return before + after


@dataclass(frozen=True)
class DropOne(Drop):
    def __call__(self, seq: S) -> S:
        at = place(self.a, len(seq))
        return seq[:at] + seq[at + 1 :]


@dataclass(frozen=True)
class Repeat:
    """A part comes again, elsewhere."""

    a: int
    b: int
    to: int

    def __call__(self, seq: S) -> S:
        _, part, _ = cut_out(seq, self.a, self.b)
        at = place(self.to, len(seq))
        return seq[:at] + part + seq[at:]


@dataclass(frozen=True)
class Swap:
    """Two parts that follow each other change places."""

    a: int
    b: int
    c: int

    def __call__(self, seq: S) -> S:
        a, b, c = sorted(place(share, len(seq)) for share in (self.a, self.b, self.c))
        return seq[:a] + seq[b:c] + seq[a:b] + seq[c:]


@dataclass(frozen=True)
class Insert:
    """Something else comes in between."""

    at: int
    what: bytes

    def __call__(self, seq: S) -> S:
        at, what = place(self.at, len(seq)), self.what if isinstance(seq, bytes) else [self.what]
        return seq[:at] + what + seq[at:]


@dataclass(frozen=True)
class Flip:
    """Bits of a byte change."""

    at: int
    bits: int

    def __call__(self, data: bytes) -> bytes:
        at = place(self.at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ self.bits]) + data[at + 1 :] if data else data


@dataclass(frozen=True)
class Replace:
    """A value in an event's JSON is another."""

    at: int
    key: str
    value: bytes

    def __call__(self, frames: list[bytes]) -> list[bytes]:
        if not frames:
            return frames

        at = place(self.at, len(frames) - 1)
        value = rb'"%b":(-?\d+|null|"[^"\\]*")' % self.key.encode()
        changed = re.sub(value, lambda _: b'"%b":%b' % (self.key.encode(), self.value), frames[at], count=1)
        return [*frames[:at], changed, *frames[at + 1 :]]


ODD_FRAMES = [
    b": a comment\n\n",
    b"\n",
    b"data: [DONE]\n\n",
    b"data:\n\n",
    b"data: {}\n\n",
    b"data: 7\n\n",
    b"data: [[[[\n\n",
    b"event: x\n\n",
    b"\xef\xbb\xbf",
    b"<html>502 Bad Gateway</html>",
    frame({"type": "keepalive"}),
    frame({"type": "keepalive", "sequence_number": 9}),
    frame({"type": "response.future.delta", "delta": "?", "sequence_number": 9}),
    frame({"type": "response.output_text.delta", "delta": "!", "output_index": 0}),
    frame({"type": "response.output_text.delta", "delta": None, "output_index": None, "sequence_number": None}),
    frame({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}}),
    frame({"type": "response.output_item.added", "output_index": 5, "item": None, "sequence_number": 5}),
    frame({"type": "response.completed", "sequence_number": 9}),
    frame({"type": "response.completed", "response": None}),
    frame({"type": "response.in_progress", "response": {}}),
    frame({"type": "response.in_progress", "response": {"id": 7, "status": "queued", "output": 7}}),
    frame(error_event({"code": "server_error", "message": "Oops."}, nested=True)),
    frame(error_event({"code": "server_error", "message": "Oops."}, nested=False)),
]
ODD_VALUES = [
    b"null",
    b"-1",
    b"0",
    b"7",
    b"12",
    b"999999",
    b"1e3",
    b"1" + b"0" * 400,
    b'"7"',
    b"true",
    b"[]",
    b'"\\ud83d"',
]
KEYS = ["sequence_number", "output_index", "delta", "type", "status"]

either = (
    st.builds(Drop, shares, shares)
    | st.builds(DropOne, shares, shares)
    | st.builds(Repeat, shares, shares, shares)
    | st.builds(Swap, shares, shares, shares)
)
event_change = (
    either
    | st.builds(Insert, shares, st.sampled_from(ODD_FRAMES))
    | st.builds(Replace, shares, st.sampled_from(KEYS), st.sampled_from(ODD_VALUES))
)
byte_change = either | st.builds(Insert, shares, st.binary(max_size=8)) | st.builds(Flip, shares, st.integers(1, 255))
Ending = Literal["clean", "break", "stall", "timeout"]


@dataclass(frozen=True)
class Mangling:
    """What happens to one connection."""

    events: Sequence[Callable[[list[bytes]], list[bytes]]] = ()
    bytes: Sequence[Callable[[bytes], bytes]] = ()
    line_end: bytes = b"\n"
    upto: int = 1000
    """Where the connection ends, in thousandths."""
    chunks: Sequence[int] = ()
    """Where the body is split."""
    ending: Ending = "clean"
    replays: bool = False
    """The cursor is ignored."""

    def __call__(self, frames: list[bytes]) -> list[bytes]:
        for change in self.events:
            frames = change(frames)

        data = b"".join(frames)
        for change in self.bytes:
            data = change(data)

        data = data.replace(b"\n", self.line_end)
        data = data[: place(self.upto, len(data))]
        ends = sorted({0, *(split(share, data) for share in self.chunks), len(data)})
        return [data[a:b] for a, b in pairwise(ends)]


manglings = st.builds(
    Mangling,
    events=st.lists(event_change, max_size=3),
    bytes=st.lists(byte_change, max_size=2) | st.just([]),
    line_end=st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]),
    upto=st.just(1000) | shares,
    chunks=st.lists(shares, max_size=12),
    ending=st.sampled_from(["clean", "break", "stall", "timeout"]),
    replays=st.sampled_from([False, False, True]),
)

# --- the service, without a network ---


@dataclass
class Service:
    """A `Wire` to one run, whose connections are mangled in turn; once all are used up they are whole, or go on so."""

    story: Story
    manglings: list[Mangling]
    named: bool
    """The first event, which names the run, comes whole."""
    for_ever: bool
    """All later connections are as the last one that is mangled."""
    done_at: float
    """When polls show the end."""
    said: list[bytes] = field(default_factory=list[bytes])
    """The bodies that were sent."""
    requests: int = 0

    @property
    def many(self) -> int:
        """More requests than a run needs whose every connection brings one event more."""
        return 2 * len(self.story.frames) + 60

    def body(self, after: int | None) -> tuple[list[bytes], Ending]:
        self.requests += 1
        last = self.manglings[-1:] if self.for_ever and self.requests < self.many else []
        mangling = next(iter([*self.manglings[len(self.said) :], *last]), Mangling())
        after = None if mangling.replays else after
        frames = [f for f, n in zip(self.story.frames, self.story.numbers, strict=True) if after is None or n > after]
        first = self.named and not self.said
        chunks = [*frames[:1], *mangling(frames[1:])] if first else mangling(frames)
        self.said.append(b"".join(chunks))
        return chunks, mangling.ending

    async def poll(self, run_id: str) -> tuple[Mapping[str, str], bytes]:
        self.requests += 1
        if run_id != NAME:
            request = httpx2.Request("GET", f"http://service.test/v1/responses/{run_id[:9]}")
            answer = httpx2.Response(404, request=request)
            raise openai.NotFoundError("not found", response=answer, body=error_body("not found")["error"])

        done = asyncio.get_running_loop().time() >= self.done_at
        return {}, self.story.body if done else encode({"id": NAME, "status": "in_progress", "output": []})

    @asynccontextmanager
    async def attach(self, run_id: str, after: int | None) -> AsyncIterator[Answer]:
        yield Answer(*self.body(after))

    @asynccontextmanager
    async def open(self, body: Mapping[str, Any], key: str | None) -> AsyncIterator[Answer]:
        yield Answer(*self.body(None))

    async def aclose(self) -> None:
        pass

    def claims(self) -> list[Snapshot]:
        """The ends that were told: the true one, and what mangling has made of it."""
        found = [self.story.truth]
        for body in self.said:
            for data in map(read_data, read_blocks(EventDecoder().feed(body + b"\n\n"))):
                try:
                    event = read_event(json.loads(data), make_ref)
                except (ValueError, AttributeError):
                    continue

                found += [event.snapshot] if event.snapshot is not None else []

        return found


@dataclass
class Answer:
    """A `Streamed` answer."""

    chunks: Sequence[bytes]
    ending: Ending
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            await asyncio.sleep(0)
            yield chunk

        match self.ending:
            case "break":
                raise aiohttp.ClientPayloadError("Response payload is not completed")
            case "timeout":
                raise httpx2.ReadTimeout("silence")
            case "stall":
                await asyncio.Event().wait()
            case "clean":
                pass

    async def read(self) -> bytes:
        return b"".join(self.chunks)


@cache
def client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="any", base_url="http://service.test/v1")


class Provider(OpenAIResponses):
    def __init__(self, service: Service) -> None:
        super().__init__("test", client=client())
        self._wire = service


# --- the consumer ---


async def by_runtime(agent: Agent[str]) -> list[AgentRunResponseUpdate]:
    async with AgentRuntime(clock=VirtualClock(), draw=lambda: 0.5) as runtime:
        handle = await runtime.submit(agent, "a story", stream=True)
        updates = [update async for update in handle.stream()]
        assert updates == [update async for update in handle.stream()], "the store holds what was seen"
        return updates


async def by_agent(agent: Agent[str]) -> list[AgentRunResponseUpdate]:
    options = AgentRunOptions(allow_background_responses=True)
    return [update async for update in agent.run_streaming("a story", agent.get_new_thread(), options)]


ways = st.sampled_from([by_runtime, by_agent])


async def told(way: Any, service: Service) -> list[AgentRunResponseUpdate]:
    async with asyncio.timeout(3 * 86_400):
        return await way(Agent(Provider(service)))


def joined(updates: Sequence[AgentRunResponseUpdate]) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def check(updates: Sequence[AgentRunResponseUpdate], service: Service) -> None:
    assert service.requests < service.many, "it went in circles"
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    last = updates[-1]
    assert last.type in (UpdateType.END, UpdateType.WAITING)
    assert [update.type for update in updates].count(last.type) == 1
    response = last.response
    assert response is not None
    assert joined(updates) == response.text, "what a consumer holds is the answer"
    if response.response_id != NAME:  # a name that was mangled is another run's: it is not found
        assert not service.named or response.status is RunStatus.EXPIRED
        return

    ends = [end for end in service.claims() if end.status is response.status]
    assert any(end.text == response.text or end.hides for end in ends), "it is the end that the service told"
    if service.story.truth.status is RunStatus.INPUT_REQUIRED and last.type is UpdateType.WAITING:
        assert [request.name for request in response.requests]


cuts = st.builds(
    Mangling,
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    upto=st.just(1000) | shares,
    chunks=st.lists(shares, max_size=40),
    ending=st.sampled_from(["clean", "break", "stall", "timeout"]),
    replays=st.booleans(),
)


@given(story=st.deferred(lambda: st.sampled_from(stories())), cuts=st.lists(cuts, max_size=3), way=ways)
def test_a_stream_that_is_cut_split_and_replayed_is_exactly_what_was_sent(
    story: Story, cuts: list[Mangling], way: Any
) -> None:
    """So few connections may bring nothing that the stream is not given up for polls."""
    service = Service(story, cuts, named=True, for_ever=False, done_at=math.inf)
    updates = run(told(way, service))
    check(updates, service)
    sent = [json.loads(frame.partition(b"data: ")[2]) for frame in story.frames]
    told_of = [update.raw for update in updates if update.raw is not None and update.type is not UpdateType.WAITING]
    assert told_of == sent
    assert UpdateType.RESET not in [update.type for update in updates]


@settings(max_examples=10 * settings.default.max_examples)  # an example takes a few milliseconds
@given(
    story=st.deferred(lambda: st.sampled_from(stories())),
    manglings=st.lists(manglings, max_size=4),
    named=st.sampled_from([True, True, True, False]),
    for_ever=st.booleans(),
    done_at=st.sampled_from([0.0, 0.0, 30.0]),
    way=ways,
)
def test_whatever_happens_to_its_bytes_a_stream_delivers_the_answer(
    story: Story, manglings: list[Mangling], named: bool, for_ever: bool, done_at: float, way: Any
) -> None:
    service = Service(story, manglings, named, for_ever, done_at)
    try:
        updates = run(told(way, service))
    except SubmitUnknown:
        assert not named
    else:
        check(updates, service)
