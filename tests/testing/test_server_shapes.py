"""The server's wire against recorded traffic of the real service: key sets, order of events, framing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from responses_client import ask, attach, create, poll

from agentbg.testing.server import (
    FunctionCall,
    McpApprovalRequest,
    McpCall,
    Message,
    ResponsesServer,
    Script,
    WebSearch,
)

FOLDER = os.environ.get("AGENTBG_RECORDINGS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="AGENTBG_RECORDINGS names no folder of recorded traffic")

NEWER = {"completed_at", "frequency_penalty", "presence_penalty", "prompt_cache_retention", "moderation"}
"""Keys that older, or newer, recordings do not share."""


def recorded(name, method="POST", place=0):
    exchanges = json.loads(Path(FOLDER, f"{name}.json").read_text())["exchanges"]
    return [each for each in exchanges if each["method"] == method][place]["body"]


def events_of(sse):
    return [json.loads(line[6:]) for line in sse.split("\n") if line.startswith("data: ")]


def shape(value, depth=9):
    """The keys and types of a JSON value; of a list only its first element counts."""
    if isinstance(value, dict):
        return {key: shape(each, depth - 1) for key, each in value.items()} if depth else dict

    if isinstance(value, list):
        return [shape(value[0], depth - 1)] if value else []

    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def without(body, *keys):
    return {key: value for key, value in body.items() if key not in keys}


async def test_a_queued_body_has_the_real_shape():
    real = events_of(recorded("can_stream_background_responses"))[0]["response"]
    async with ResponsesServer() as server:
        ours = (await create(server)).json
        assert list(ours) == list(real)
        assert shape(ours) == shape(real)


async def test_a_completed_poll_has_the_real_shape():
    real = recorded("can_stream_background_responses", "GET")
    async with ResponsesServer() as server:
        await create(server)
        assert shape((await poll(server)).json) == shape(real)


async def test_a_streamed_text_has_the_real_order_shapes_and_framing():
    real = recorded("can_stream_background_responses")
    deltas = sum(event["type"] == "response.output_text.delta" for event in events_of(real))
    async with ResponsesServer(script=Script.story(deltas)) as server:
        answer = await create(server, stream=True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert [shape(event) for event in answer.events] == [shape(event) for event in events_of(real)]
        assert outline(answer.text.decode()) == outline(real)


async def test_a_replay_has_the_real_order():
    real = events_of(recorded("can_stream_background_responses", "GET", 1))
    async with ResponsesServer(script=Script.story(327)) as server:
        await create(server, stream=True)
        ours = (await attach(server, 1)).events
        assert [(e["type"], e["sequence_number"]) for e in ours] == [(e["type"], e["sequence_number"]) for e in real]


def outline(sse):
    """The stream with each event's data replaced by a word: what is left is the framing."""
    return re.sub(r"(?m)^data: \{.*\}$", "data: JSON", sse)


async def test_a_cancelled_body_has_the_real_shape():
    real = recorded("can_cancel_background_responses", place=1)
    async with ResponsesServer(script=Script.text("Hi").lasting(running=9)) as server:
        await create(server)
        ours = (await ask(server, "POST", f"/responses/{server.run().id}/cancel")).json
        assert shape(without(ours, *NEWER)) == shape(without(real, *NEWER))


async def test_deletion_and_what_is_not_found_have_the_real_shape():
    async with ResponsesServer() as server:
        await create(server)
        run = server.run()
        assert shape((await ask(server, "DELETE", f"/responses/{run.id}")).json) == shape(
            recorded("can_delete_response", "DELETE")
        )
        real = json.dumps(recorded("can_delete_response", "GET", 1))
        assert (await poll(server, run)).json == json.loads(re.sub(r"resp_\w+", run.id, real))


async def test_an_incomplete_body_has_the_real_shape():
    real = recorded("max_tokens")
    async with ResponsesServer(script=Script.incomplete("Half a")) as server:
        ours = (await create(server, background=False, max_output_tokens=20)).json
        assert shape(without(ours, *NEWER)) == shape(without(real, *NEWER))


async def test_a_streamed_function_call_has_the_real_shapes():
    real = events_of(recorded("function_call_streaming_works"))
    deltas = sum(event["type"].endswith(".delta") for event in real)
    tools = real[0]["response"]["tools"]
    async with ResponsesServer(script=Script.of(FunctionCall("look", '{"at": "sea"}', deltas=deltas))) as server:
        ours = (await create(server, background=False, stream=True, tools=tools)).events
        assert [event["type"] for event in ours] == [event["type"] for event in real]
        for mine, theirs in zip(ours, real, strict=True):
            assert shape(without(mine, "response")) == shape(without(theirs, "response"))
            bodies = [without(event.get("response", {}), *NEWER) for event in (mine, theirs)]
            assert shape(bodies[0]) == shape(bodies[1])


async def test_a_web_search_has_the_real_shapes():
    real = events_of(recorded("tool_web_search_call_streaming"))
    citation = {"type": "url_citation", "end_index": 4, "start_index": 0, "title": "T", "url": "https://example.com"}
    script = Script.of(WebSearch("tides"), Message("High water", annotations=(citation,)))
    async with ResponsesServer(script=script) as server:
        ours = {
            event["type"]: shape(without(event, "response")) for event in (await create(server, stream=True)).events
        }
        for event in real:
            if event["type"] in ours and event["type"] not in (
                "response.output_item.added",
                "response.output_item.done",
            ):
                assert ours[event["type"]] == shape(without(event, "response", "obfuscation"))


async def test_an_approval_request_has_the_real_shape():
    real = recorded("tool_mcptool_always_requires_approval_true_")["output"][-1]
    async with ResponsesServer(script=Script.of(McpApprovalRequest("roll"))) as server:
        assert shape((await create(server, background=False)).json["output"][-1]) == shape(real)


async def test_a_followup_to_an_approval_has_the_real_shape():
    real = recorded("tool_mcptool_always_requires_approval_true_", place=1)
    call = McpCall("roll", output="7", approval_request_id="mcpr_1")
    async with ResponsesServer(script=Script.of(call, Message("7"))) as server:
        ours = (await create(server, background=False)).json
        assert [shape(item) for item in ours["output"]] == [shape(item) for item in real["output"]]


async def test_a_call_of_an_mcp_server_is_streamed_as_the_real_one():
    real = [event for event in events_of(recorded("tool_mcptool_streaming_works")) if event.get("output_index") == 4]
    async with ResponsesServer(script=Script.of(McpCall("roll", output="7"))) as server:
        ours = (await create(server, background=False, stream=True)).events[2:-1]
        assert [shape(event) for event in ours] == [shape(event) for event in real]
        assert [event["type"] for event in ours] == [event["type"] for event in real]


async def test_the_input_items_of_a_followup_are_all_that_it_saw_as_at_the_real_one():
    real = recorded("function_call_works", "GET")
    async with ResponsesServer(script=Script.call("look", {})) as server:
        await create(server)
        said = {"type": "function_call_output", "call_id": server.run().output[0]["call_id"], "output": "blue"}
        await create(server, previous_response_id=server.run().id, input=[said])
        ours = (await ask(server, "GET", f"/responses/{server.run().id}/input_items")).json
        assert [list(item) for item in ours["data"]] == [list(item) for item in real["data"]]
        assert shape(ours) == shape(real)


async def test_a_conversation_has_the_real_shapes():
    name = "response_using_conversations"
    async with ResponsesServer() as server:
        request = {"metadata": {"topic": "test"}, "items": [{"role": "system", "content": "Be brief"}]}
        made = (await ask(server, "POST", "/conversations", request)).json
        assert shape(made) == shape(recorded(name))
        run = (await create(server, background=False, conversation=made["id"])).json
        order = [key for key in recorded(name, place=1) if key in run and key != "billing"]
        assert order == [key for key in run if key in order]
        items = (await ask(server, "GET", f"/conversations/{made['id']}/items")).json
        assert shape(items) == shape(recorded(name, "GET"))
        deleted = (await ask(server, "DELETE", f"/conversations/{made['id']}")).json
        assert shape(deleted) == shape(recorded(name, "DELETE"))


async def test_input_items_have_the_real_shape():
    real = recorded("store_get_input_items_with_minimal_limits", "GET")
    async with ResponsesServer() as server:
        await create(server, input=[{"role": "user", "content": word} for word in "xyz"])
        ours = (await ask(server, "GET", f"/responses/{server.run().id}/input_items?limit=1")).json
        assert shape(ours) == shape(real)
        assert ours["data"][0]["content"] == real["data"][0]["content"]
