"""What was measured of the seed's Python package, turned round: each defect of it is a promise here."""

from __future__ import annotations

import asyncio
import gc
import json
import math
from typing import Any

import pytest
from pydantic import BaseModel
from served import background, joined, served

from agentbg import (
    AgentRunOptions,
    ContinuationToken,
    RunNotFound,
    RunStatus,
    TokenError,
    TokenExpired,
    TokenForeign,
    TokenMalformed,
    UpdateType,
)
from agentbg.core.model import RunRef
from agentbg.testing.server import CutAfterEvent, FunctionCall, Script, Status, TooOld, Turns

TEXT = "Once upon a time there was a small robot"
STORY = Script.text(TEXT, deltas=9)  # 18 events


async def collect(agent, *arguments: Any) -> list[Any]:
    return [update async for update in agent.run_streaming(*arguments)]


@pytest.mark.parametrize("place", [1, 2, 3, 4, 8, 12, 17])
async def test_a_resume_replays_nothing_and_the_documented_line_works(place: int):
    async with served(STORY) as (server, agent):
        thread, options = agent.get_new_thread(), background()
        seen = []
        async with agent.run_streaming("A story", thread, options) as updates:
            async for update in updates:
                seen.append(update)
                if len(seen) == place:
                    break

        options.continuation_token = update.continuation_token  # the documented line
        assert options.continuation_token is not None
        seen += await collect(agent, None, thread, options)
        assert [update.raw["sequence_number"] for update in seen] == list(range(18))
        assert joined(seen) == TEXT
        assert server.requests[-1].query["starting_after"] == str(place - 1)
        assert [(message.role, message.text) for message in thread.messages] == [
            ("user", "A story"),
            ("assistant", TEXT),
        ]


async def test_the_texts_of_an_uninterrupted_stream_join_to_the_answer():
    async with served(STORY) as (_, agent):
        updates = await collect(agent, "A story", agent.get_new_thread(), background())
        assert joined(updates) == TEXT == updates[-1].response.text


async def test_a_cut_connection_goes_on_by_itself():
    async with served(STORY, CutAfterEvent(8)) as (server, agent):
        updates = await collect(agent, "A story", agent.get_new_thread(), background())
        assert joined(updates) == TEXT
        assert [update.seq for update in updates] == list(range(1, 19))
        assert (server.count("create"), server.count("attach")) == (1, 1)


async def test_a_stream_that_is_too_old_is_polled_and_its_tail_comes_once():
    async with served(STORY, TooOld(times=None)) as (server, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming("A story", thread, background()) as stream:
            seen = [await anext(stream) for _ in range(8)]

        seen += await collect(agent, None, thread, background(seen[-1].continuation_token))
        assert joined(seen) == TEXT
        assert server.count("poll") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script.failed("server_error", "Out of tea.", after="Half of"), RunStatus.FAILED, "server_error"),
        (Script.incomplete("Half of"), RunStatus.INCOMPLETE, "max_output_tokens"),
        (Script(status="cancelled"), RunStatus.CANCELLED, None),
    ],
    ids=["failed", "incomplete", "cancelled"],
)
async def test_a_run_that_ends_badly_does_not_look_like_success(
    script: Script, status: RunStatus, code: str | None, stream: bool
):
    async with served(script) as (_, agent):
        thread = agent.get_new_thread()
        if stream:
            updates = await collect(agent, "A story", thread, background())
            response = updates[-1].response
        else:
            options = background()
            response = await agent.run("A story", thread, options)
            while response.continuation_token is not None:
                options.continuation_token = response.continuation_token
                response = await agent.run(thread=thread, options=options)

        assert response.status is status
        assert response.continuation_token is None
        assert (response.error.code if response.error else None) == code


async def test_an_unknown_run_is_told_as_such():
    async with served() as (_, agent):
        token = ContinuationToken(RunRef("openai", agent.provider.endpoint, {"response": "resp_gone"}))
        with pytest.raises(RunNotFound, match="resp_gone"):
            await agent.run(thread=agent.get_new_thread(), options=background(token))


@pytest.mark.parametrize("token", ["", "{}", "resp_123", "abg1.x.y", {}, {"response_id": "resp_1"}, 7, b"abg1"])
async def test_what_is_no_token_is_a_token_error_before_any_request(token: Any):
    async with served() as (server, agent):
        for call in (agent.run, collect_of(agent)):
            with pytest.raises(TokenMalformed):
                await call(None, agent.get_new_thread(), background(token))

        assert server.requests == []


def collect_of(agent):
    async def call(*arguments):
        return await collect(agent, *arguments)

    return call


@pytest.mark.parametrize(
    ("provider", "elsewhere", "issued_at", "kind"),
    [("a2a", False, 0, TokenForeign), ("openai", True, 0, TokenForeign), ("openai", False, 1, TokenExpired)],
    ids=["another protocol", "another address", "another age"],
)
async def test_a_foreign_or_old_token_is_refused_before_any_request(
    provider: str, elsewhere: bool, issued_at: int, kind: type[TokenError]
):
    async with served() as (server, agent):
        endpoint = "elsewhere" if elsewhere else agent.provider.endpoint
        token = ContinuationToken(RunRef(provider, endpoint, {"response": "resp_1"}), issued_at=issued_at)
        with pytest.raises(kind):
            await agent.run(thread=agent.get_new_thread(), options=background(token))

        with pytest.raises(kind):
            agent.run_streaming(thread=agent.get_new_thread(), options=background(token))

        assert server.requests == []


async def test_a_stream_without_background_has_no_tokens():
    async with served(STORY) as (server, agent):
        updates = await collect(agent, "A story")
        assert joined(updates) == TEXT
        assert [update.continuation_token for update in updates] == [None] * len(updates)
        assert "background" not in server.requests[0].json


async def test_cancelling_the_task_that_iterates_leaves_the_run_alive():
    async with served(STORY.lasting(delay=0.02)) as (server, agent):
        thread, seen = agent.get_new_thread(), []

        async def iterate() -> None:
            async for update in agent.run_streaming("A story", thread, background()):
                seen.append(update)

        task = asyncio.create_task(iterate())
        while len(seen) < 7:
            await asyncio.sleep(0.01)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert server.count("cancel") == 0
        seen += await collect(agent, None, thread, background(seen[-1].continuation_token))
        assert joined(seen) == TEXT


async def test_a_polled_run_is_one_input_and_one_message_in_the_thread():
    async with served(STORY.lasting(running=0.1)) as (server, agent):
        thread, options = agent.get_new_thread(), background()
        response = await agent.run("A story", thread, options)
        while response.continuation_token is not None:
            options.continuation_token = response.continuation_token
            await asyncio.sleep(0.02)
            response = await agent.run(thread=thread, options=options)

        assert server.count("poll") > 2
        assert [(message.role, message.text) for message in thread.messages] == [
            ("user", "A story"),
            ("assistant", TEXT),
        ]
        last = ContinuationToken(RunRef("openai", agent.provider.endpoint, {"response": server.run().id}))
        await agent.run(thread=thread, options=background(last))
        assert len(thread.messages) == 2, "a poll after the end adds nothing"


async def test_a_start_that_was_refused_leaves_no_input_in_the_thread():
    async with served(STORY, Status(400, on="create", times=2)) as (_, agent):
        thread = agent.get_new_thread()
        with pytest.raises(Exception, match="400"):
            await agent.run("A story", thread, background())

        with pytest.raises(Exception, match="400"):
            await collect(agent, "A story", thread, background())

        assert thread.messages == []


class Report(BaseModel):
    title: str


async def test_an_output_type_stays_with_the_agent_over_polls_and_resumes():
    async with served(Script.json({"title": "Robots"}), output_type=Report) as (server, agent):
        thread, options = agent.get_new_thread(), background()
        response = await agent.run("A report", thread, options)
        options.continuation_token = response.continuation_token
        response = await agent.run(thread=thread, options=options)
        assert response.value == Report(title="Robots")
        assert server.requests[0].json["text"]["format"]["name"] == "Report"

        async with agent.run_streaming("A report", thread, background()) as stream:
            token = [await anext(stream) for _ in range(5)][-1].continuation_token

        updates = await collect(agent, None, thread, background(token))
        assert updates[-1].response.value == Report(title="Robots")


async def test_two_outages_on_a_poll_are_waited_out():
    async with served(STORY, Status(503, on="poll", times=2)) as (server, agent):
        thread = agent.get_new_thread()
        response = await agent.run("A story", thread, background())
        response = await agent.run(thread=thread, options=background(response.continuation_token))
        assert response.text == TEXT
        assert server.count("poll") == 3


def test_the_documented_bare_break_leaves_nothing_behind():
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        async with served(STORY.lasting(running=math.inf, delay=0.01)) as (_, agent):
            async for update in agent.run_streaming("A story", agent.get_new_thread(), background()):
                if update.type is UpdateType.TEXT:
                    break

            del update
            gc.collect()

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())

    assert complaints == []


CALLS = Turns(
    [Script.of(FunctionCall("look", json.dumps({"at": "the sea"}), deltas=10)), Script.text("I have looked.")]
)


@pytest.mark.parametrize("repeated", [False, True], ids=["the documented options", "background repeated"])
async def test_a_poll_that_calls_a_function_returns_and_the_run_goes_on_in_the_background(repeated: bool):
    looked: list[str] = []

    def look(at: str) -> str:
        looked.append(at)
        return "waves"

    script = Turns([CALLS.scripts[0], CALLS.scripts[1].lasting(running=3600.0)])
    async with served(script, tools=[look]) as (server, agent):
        thread = agent.get_new_thread()
        response = await agent.run("Look", thread, background())
        for _ in range(3):
            options = background(response.continuation_token)
            options.allow_background_responses = repeated
            response = await agent.run(thread=thread, options=options)
            assert response.status.live

        assert [request.json["background"] for request in server.requests if request.method == "POST"] == [True, True]
        server.run().finish()
        response = await agent.run(thread=thread, options=background(response.continuation_token))
        assert (response.text, looked) == ("I have looked.", ["the sea"])


@pytest.mark.parametrize("way", ["break", "cut"])
@pytest.mark.parametrize("place", [5, 8, 13])
async def test_a_stream_that_breaks_in_a_calls_arguments_calls_the_function_once(place: int, way: str):
    looked: list[str] = []

    def look(at: str) -> str:
        looked.append(at)
        return "waves"

    faults = [CutAfterEvent(place)] if way == "cut" else []
    async with served(CALLS, *faults, tools=[look]) as (server, agent):
        thread, options, seen = agent.get_new_thread(), background(), []
        async with agent.run_streaming("Look", thread, options) as updates:
            async for update in updates:
                seen.append(update)
                if way == "break" and len(seen) == place:
                    break

        assert seen[place - 1].raw["type"] == "response.function_call_arguments.delta"
        options.continuation_token = update.continuation_token
        if way == "break":
            seen += await collect(agent, None, thread, options)

        assert joined(seen) == seen[-1].response.text == "I have looked."
        assert [update.seq for update in seen] == list(range(1, len(seen) + 1))
        assert looked == ["the sea"]
        assert server.count("create") == 2
        assert server.count("GET") == (way == "cut"), "what had come when it was left is not asked for again"


async def test_a_token_may_be_used_twice():
    async with served(STORY) as (_, agent):
        async with agent.run_streaming("A story", agent.get_new_thread(), background()) as stream:
            seen = [await anext(stream) for _ in range(9)]

        options = AgentRunOptions(continuation_token=seen[-1].continuation_token)
        once, twice = await asyncio.gather(collect(agent, None, None, options), collect(agent, None, None, options))
        assert joined(seen + once) == joined(seen + twice) == TEXT
