"""Real traffic, recorded: every stream and every answer reads to what the service meant.

The recordings are not part of this repository; AGENTBG_RECORDINGS names their folder.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai.types.responses import Response

from agentbg import Agent, AgentRunOptions, RunStatus
from agentbg.core.messages import Commit, Streamed
from agentbg.core.model import EventKind, RunRef, StreamEvent
from agentbg.core.record import RunRecord
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.sse import EventDecoder, read_blocks, read_data
from agentbg.core.update import AgentRunResponseUpdate, UpdateType
from agentbg.providers import OpenAIResponses
from agentbg.providers._shapes import Shapes
from agentbg.providers.responses_wire import read_event, read_response
from agentbg.testing.server import CutAfterEvent, ResponsesServer, Script

FOLDER = os.environ.get("AGENTBG_RECORDINGS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="AGENTBG_RECORDINGS does not name the folder of the recordings")


class Exchange(NamedTuple):
    name: str
    method: str
    path: str
    query: list[list[str]]
    status: int
    body: Any


def recorded() -> list[Exchange]:
    files = sorted(Path(FOLDER).glob("*.json")) if FOLDER else []
    return [
        Exchange(f"{file.stem}-{number}", each["method"], each["path"], each["query"], each["status"], each["body"])
        for file in files
        for number, each in enumerate(json.loads(file.read_text("utf-8"))["exchanges"])
    ]


ALL = recorded()
STREAMS = [each for each in ALL if isinstance(each.body, str) and each.body.startswith("event:")]
RESPONSES = [each for each in ALL if isinstance(each.body, dict) and each.body.get("object") == "response"]
CUTS = ["whole", "lines", "bytes", "odd"]


def name(exchange: Exchange) -> str:
    return exchange.name


def find(name: str) -> Exchange:
    return next(each for each in ALL if each.name == name)


def make_ref(run_id: str) -> RunRef:
    return RunRef("openai", "here", {"response": run_id})


def cut(body: bytes, how: str) -> Iterable[bytes]:
    match how:
        case "whole":
            return [body]
        case "lines":
            return body.splitlines(keepends=True)
        case "bytes":
            return (body[i : i + 1] for i in range(len(body)))
        case _:
            draw = random.Random(len(body))
            places = sorted({0, len(body), *draw.sample(range(len(body)), 40)})
            return [body[start:end] for start, end in pairwise(places)]


def read(exchange: Exchange, how: str = "whole") -> list[list[StreamEvent]]:
    decoder, shapes = EventDecoder(), Shapes()
    batches = [read_blocks(decoder.feed(chunk)) for chunk in cut(exchange.body.encode(), how)]
    return [[read_block(shapes, block) for block in batch] for batch in batches if batch]


def read_block(shapes: Shapes, block: bytes) -> StreamEvent:
    data = read_data(block)
    event = read_event(json.loads(data), make_ref)
    quick = shapes.read(block + b"\n\n")
    assert quick is None or (quick[0].raw == event.raw and [replace(quick[0], source=event.source)] == [event])
    shapes.learn(block, data, event)
    return quick[0] if quick else event


def final(exchange: Exchange) -> dict[str, Any]:
    """The response in a recorded stream's last event."""
    last = exchange.body.rstrip().rpartition("data: ")[2]
    return json.loads(last)["response"]


def assemble(batches: Sequence[Sequence[StreamEvent]]) -> tuple[Run, list[AgentRunResponseUpdate]]:
    record = RunRecord("run_1", "agent", "openai", "here", stream=True, created_at=0.0)
    run = Run(record, poll=PollPolicy(), stream=StreamPolicy(), draw=lambda: 0.5, now=0.0)
    updates: list[AgentRunResponseUpdate] = []
    for batch in batches:
        for command in run.feed(Streamed(batch), 0.0):
            updates += command.updates if isinstance(command, Commit) else ()

    return run, updates


def joined(updates: Iterable[AgentRunResponseUpdate]) -> str:
    return "".join(update.text for update in updates)


def waits(exchange: Exchange) -> bool:
    return any(item["type"] == "function_call" for item in final(exchange)["output"])


def count_of(exchange: Exchange) -> int:
    """How many updates a stream makes: one for each event, and one to say that the run waits."""
    return exchange.body.count("\ndata: ") + waits(exchange)


@pytest.mark.skipif(bool(FOLDER) and not STREAMS, reason="the folder holds no recordings")
def test_the_recordings_are_there():
    assert len(STREAMS) >= 8
    assert len(RESPONSES) >= 50


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("exchange", STREAMS, ids=name)
def test_a_recorded_stream_assembles_to_its_final_response(exchange: Exchange, how: str):
    truth = final(exchange)
    run, updates = assemble(read(exchange, how))
    assert joined(updates) == Response.construct(**truth).output_text == run.response.text
    assert UpdateType.RESET not in {update.type for update in updates}
    assert run.response.raw == truth
    assert run.response.response_id == truth["id"]
    assert run.response.raw_status == truth["status"]
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    last = UpdateType.WAITING if waits(exchange) else UpdateType.END
    assert (updates[-1].type, updates[-1].continuation_token) == (last, None)
    assert all(update.continuation_token for update in updates[:-1])
    assert run.response.usage is not None
    assert run.response.usage.total_tokens == truth["usage"]["total_tokens"]


@pytest.mark.parametrize("exchange", STREAMS, ids=name)
def test_a_recorded_stream_loses_no_event_and_names_each_item_once(exchange: Exchange):
    _, updates = assemble(read(exchange))
    assert len(updates) == count_of(exchange)
    begun = [update.raw["item"] for update in updates if update.type is UpdateType.ITEM and update.raw]
    output = final(exchange)["output"]
    assert [(item["id"], item["type"]) for item in begun] == [(item["id"], item["type"]) for item in output]


@pytest.mark.parametrize("exchange", STREAMS, ids=name)
def test_a_recorded_stream_ends_as_its_items_say(exchange: Exchange):
    run, _ = assemble(read(exchange))
    assert run.response.status is (RunStatus.INPUT_REQUIRED if waits(exchange) else RunStatus.COMPLETED)


@pytest.mark.parametrize("exchange", STREAMS, ids=name)
def test_a_stream_that_is_cut_anywhere_and_goes_on_there_is_the_same(exchange: Exchange):
    [events] = read(exchange)
    _, whole = assemble([events])
    for place in range(1, len(events)):
        replayed = events[max(place - 3, 0) :]  # what was seen comes again, too
        _, updates = assemble([events[:place], replayed])
        assert [(update.seq, update.text, update.type) for update in updates] == [
            (update.seq, update.text, update.type) for update in whole
        ]


@pytest.mark.parametrize("exchange", RESPONSES, ids=name)
def test_a_recorded_response_reads_as_openai_reads_it(exchange: Exchange):
    snapshot = read_response(exchange.body, make_ref)
    theirs = Response.construct(**exchange.body)
    assert snapshot.text == theirs.output_text
    assert snapshot.ref == make_ref(theirs.id)
    assert snapshot.raw_status == theirs.status
    assert [item["id"] for item in snapshot.items] == [item["id"] for item in exchange.body["output"]]
    assert (snapshot.usage is None) == (theirs.usage is None)
    if exchange.body["status"] == "completed":
        asks = {"function_call", "mcp_approval_request", "apply_patch_call"}
        waits = any(item["type"] in asks for item in exchange.body["output"])
        assert snapshot.status is (RunStatus.INPUT_REQUIRED if waits else RunStatus.COMPLETED)
    else:
        assert snapshot.status == exchange.body["status"]


def test_the_recorded_limit_is_told():
    snapshot = read_response(find("max_tokens-0").body, make_ref)
    assert snapshot.status is RunStatus.INCOMPLETE
    assert snapshot.error is not None
    assert snapshot.error.code == "max_output_tokens"


def test_the_recorded_cancel_ends_a_queued_run():
    queued, cancelled = (
        read_response(find(f"can_cancel_background_responses-{number}").body, make_ref) for number in (0, 1)
    )
    assert (queued.status, cancelled.status) == (RunStatus.QUEUED, RunStatus.CANCELLED)
    assert queued.ref == cancelled.ref
    assert (cancelled.text, cancelled.error, cancelled.usage) == ("", None, None)


def test_the_recorded_resume_continues_exactly():
    """GET …?stream=true&starting_after=1, as the service answered it."""
    whole, resumed = find("can_stream_background_responses-0"), find("can_stream_background_responses-2")
    assert ["starting_after", "1"] in resumed.query
    [events], [later] = read(whole), read(resumed)
    assert [event.cursor for event in later] == [event.cursor for event in events[2:]]
    _, straight = assemble([events])
    _, broken = assemble([events[:2], later])
    assert [(update.seq, update.text, update.raw) for update in broken] == [
        (update.seq, update.text, update.raw) for update in straight
    ]
    assert joined(broken) == read_response(find("can_stream_background_responses-1").body, make_ref).text


# --- the same over real HTTP ---


def served(exchange: Exchange) -> Script:
    return Script.from_events(exchange.body)


async def texts(server: ResponsesServer, background: bool = True) -> tuple[list[AgentRunResponseUpdate], str]:
    async with Agent(OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)) as agent:
        options = AgentRunOptions(allow_background_responses=background)
        async with agent.run_streaming("Go on.", agent.get_new_thread(), options) as stream:
            updates = [update async for update in stream]

    response = updates[-1].response
    assert response is not None
    return updates, response.text


@pytest.mark.parametrize("exchange", [each for each in STREAMS if each.method == "POST"], ids=name)
async def test_a_recording_that_is_served_streams_to_its_text_wherever_it_is_cut(exchange: Exchange):
    truth = Response.construct(**final(exchange)).output_text
    count = exchange.body.count("\ndata: ")
    for place in sorted({1, 2, 3, count // 3, count // 2, count - 2, count - 1}):
        async with ResponsesServer(script=served(exchange), faults=[CutAfterEvent(place)]) as server:
            updates, text = await texts(server)
            assert joined(updates) == text == truth, place
            assert len(updates) == count_of(exchange), place
            assert server.count("create") == 1, place
            assert server.count("attach") == 1, place


async def test_a_recording_is_broken_off_and_resumed_by_its_token_at_every_tenth_event():
    exchange = find("can_stream_background_responses-0")
    [events] = read(exchange)
    truth = Response.construct(**final(exchange)).output_text
    for place in range(1, len(events), 10):
        async with (
            ResponsesServer(script=served(exchange)) as server,
            Agent(OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)) as agent,
        ):
            thread, options = agent.get_new_thread(), AgentRunOptions(allow_background_responses=True)
            before: list[AgentRunResponseUpdate] = []
            async with agent.run_streaming("Go on.", thread, options) as stream:
                async for update in stream:
                    before.append(update)
                    if len(before) == place:
                        break

            options.continuation_token = str(before[-1].continuation_token)
            after = [update async for update in agent.run_streaming(thread=thread, options=options)]
            assert joined(before) + joined(after) == truth
            assert len(before) + len(after) == len(events)
            [attach] = [request for request in server.requests if "attach" in request.kinds]
            assert attach.query["starting_after"] == str(place - 1)
            assert after[0].raw is not None
            assert after[0].raw["sequence_number"] == place
            assert [message.text for message in thread.messages] == ["Go on.", truth]


@pytest.mark.parametrize(
    "kind", [EventKind.ITEM, EventKind.TEXT, EventKind.PROGRESS, EventKind.STATUS, EventKind.END], ids=str
)
def test_every_kind_of_event_is_in_the_recordings(kind: EventKind):
    assert any(event.kind is kind for exchange in STREAMS for batch in read(exchange) for event in batch)
