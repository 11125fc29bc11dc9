"""The seed's own tests, and those of its OpenAI client, in Python. Names carry the numbers of the conformance table.

Lines of that table that have no twin here, with the reason:

- 2, 4 (options given in two places): we have one place; the service's own parameters, `extra`, win over it.
- 13, 14, 17 in their letter (tokens that hold input messages and updates): our tokens hold a place, not a history;
  what they are for, a whole conversation after a resume, is tested at 15 and 16, and that a kept token stays as it
  was at 17.
- 21 to 52 (A2A agents): another provider, which belongs to a later issue.
- 60, 61 (mapping to a chat client's types): there is no second layer of types to map to.
- 63 (a telemetry decorator): agents have no decorators; hooks see what happens to a runtime's runs.
- 64, 65 (a decorator that keeps history after each call of the service): a thread takes a run as a whole, however many
  rounds of functions it took.
- 66 to 74 (hosting over A2A and OpenAI's protocol): serving runs belongs to a later issue.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

import pytest
from pydantic import BaseModel, TypeAdapter
from served import background, joined, poll_to_end, served

from agentbg import AgentRunOptions, ContinuationToken, Message, RunStatus, UpdateType, UsageError
from agentbg.testing.server import Fault, FunctionCall, Reply, Script, Status, Turns
from agentbg.testing.server.wire import encode

STORY = Script.text("Once upon a time there was a small robot", deltas=9)  # 18 events
RUNNING = STORY.lasting(running=3600.0)


async def token_of_a_running_run(agent, thread) -> ContinuationToken:
    response = await agent.run("A story", thread, background())
    assert response.continuation_token is not None
    return response.continuation_token


# --- ChatClientAgent: background responses ---


async def test_c01_background_and_token_reach_the_service():
    async with served(RUNNING) as (server, agent):
        thread = agent.get_new_thread()
        token = await token_of_a_running_run(agent, thread)
        assert server.requests[0].json["background"] is True
        await agent.run(thread=thread, options=background(token))
        poll = server.requests[1]
        assert (poll.method, poll.path, poll.query) == ("GET", f"/v1/responses/{server.run().id}", {})


async def test_c01_background_may_be_said_by_the_services_own_parameter():
    async with served(RUNNING) as (server, agent):
        response = await agent.run("A story", options=AgentRunOptions(extra={"background": True}))
        assert server.requests[0].json["background"] is True
        assert response.continuation_token is not None


async def test_c02_the_services_own_parameter_wins_over_the_option():
    async with served(STORY) as (server, agent):
        thread = agent.get_new_thread()
        response = await agent.run("A story", thread, background(background=False))
        assert server.requests[0].json["background"] is False
        assert (response.status, response.continuation_token) == (RunStatus.COMPLETED, None)
        updates = [update async for update in agent.run_streaming("Go on", thread, background(background=False))]
        assert {update.continuation_token for update in updates} == {None}, "a foreground run cannot be resumed"


async def test_c03_background_and_token_reach_the_service_when_streaming():
    async with served(STORY) as (server, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming("A story", thread, background()) as stream:
            update = await anext(stream)

        sent = server.requests[0].json
        assert (sent["background"], sent["stream"]) == (True, True)
        async with agent.run_streaming(thread=thread, options=background(update.continuation_token)) as stream:
            await anext(stream)

        assert server.requests[1].path == f"/v1/responses/{server.run().id}"
        assert server.requests[1].query == {"stream": "true", "starting_after": "0"}


async def test_c05_the_token_of_a_response_stands_for_the_run():
    async with served(RUNNING) as (server, agent):
        thread = agent.get_new_thread()
        token = await token_of_a_running_run(agent, thread)
        assert token.ref.id == server.run().id
        response = await agent.run(thread=thread, options=background(token))
        assert response.continuation_token == token, "a poll moves no stream"


async def test_c06_every_update_carries_a_token_and_the_last_one_none():
    async with served(STORY) as (server, agent):
        updates = [update async for update in agent.run_streaming("A story", agent.get_new_thread(), background())]
        assert len(updates) == 18
        tokens = [update.continuation_token for update in updates]
        assert [token.position.cursor for token in tokens[:-1]] == list(range(17))
        assert tokens[-1] is None
        assert {token.ref.id for token in tokens[:-1]} == {server.run().id}


@pytest.mark.parametrize("input", ["More", [Message("user", "More")], [{"role": "user", "content": "More"}], "", []])
async def test_c07_token_with_messages_is_refused(input: object):
    async with served(RUNNING) as (server, agent):
        thread = agent.get_new_thread()
        token = await token_of_a_running_run(agent, thread)
        with pytest.raises(UsageError, match="continuation token"):
            await agent.run(input, thread, background(token))

        assert server.count("GET") == 0
        assert [message.text for message in thread.messages] == ["A story"]


@pytest.mark.parametrize("input", ["More", [Message("user", "More")], "", []])
async def test_c08_token_with_messages_is_refused_when_streaming(input: object):
    async with served(RUNNING) as (server, agent):
        thread = agent.get_new_thread()
        token = await token_of_a_running_run(agent, thread)
        with pytest.raises(UsageError, match="continuation token"):
            agent.run_streaming(input, thread, background(token))

        assert server.count("GET") == 0


@pytest.mark.parametrize("stream", [False, True], ids=["c09", "c10 streaming"])
async def test_c09_c10_with_a_token_nothing_of_the_thread_is_sent(stream: bool):
    async with served([STORY, STORY]) as (server, agent):
        thread = agent.get_new_thread()
        await agent.run("Before", thread)
        async with agent.run_streaming("A story", thread, background()) as updates:
            token = (await anext(updates)).continuation_token

        if stream:
            assert [update async for update in agent.run_streaming(thread=thread, options=background(token))]
        else:
            await agent.run(thread=thread, options=background(token))

        assert server.requests[-1].method == "GET"
        assert server.requests[-1].json is None
        assert server.count("create") == 2


async def test_c11_background_without_a_thread_is_refused():
    async with served() as (server, agent):
        with pytest.raises(UsageError, match="get_new_thread"):
            await agent.run("A story", options=background())

        assert server.requests == []


async def test_c12_background_without_a_thread_is_refused_when_streaming():
    async with served() as (server, agent):
        with pytest.raises(UsageError, match="get_new_thread"):
            agent.run_streaming("A story", options=background())

        assert server.requests == []


async def test_c11_a_token_alone_needs_no_thread():
    async with served(STORY.lasting(running=0.05)) as (_, agent):
        token = await token_of_a_running_run(agent, agent.get_new_thread())
        await asyncio.sleep(0.1)
        response = await agent.run(options=AgentRunOptions(continuation_token=token))
        assert response.text == "Once upon a time there was a small robot"


async def test_c13_c14_a_resume_is_one_request():
    async with served(STORY) as (server, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming("A story", thread, background()) as stream:
            token = [await anext(stream) for _ in range(7)][-1].continuation_token

        before = len(server.requests)
        assert [update async for update in agent.run_streaming(thread=thread, options=background(token))]
        assert len(server.requests) == before + 1


async def test_c15_c16_a_broken_and_resumed_run_is_one_input_and_one_message_in_the_thread():
    async with served(STORY) as (_, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming([Message("user", "a story")], thread, background()) as stream:
            token = [await anext(stream) for _ in range(9)][-1].continuation_token

        assert [message.text for message in thread.messages] == ["a story"]
        async with agent.run_streaming(thread=thread, options=background(token)) as stream:
            token = [await anext(stream) for _ in range(3)][-1].continuation_token

        assert [update async for update in agent.run_streaming(thread=thread, options=background(token))]
        assert [(message.role, message.text) for message in thread.messages] == [
            ("user", "a story"),
            ("assistant", "Once upon a time there was a small robot"),
        ]


async def test_c17_a_kept_token_stays_as_it_was():
    async with served(STORY) as (_, agent):
        updates = [update async for update in agent.run_streaming("A story", agent.get_new_thread(), background())]
        for place in (1, 6, 12, 16):
            token = updates[place].continuation_token
            tail = [update async for update in agent.run_streaming(options=AgentRunOptions(continuation_token=token))]
            assert joined(updates[: place + 1]) + joined(tail) == "Once upon a time there was a small robot"
            assert [update.seq for update in tail] == [update.seq for update in updates[place + 1 :]]


# --- tokens, options and responses as values ---


async def test_c18_c20_a_token_its_text_and_its_json_all_resume():
    class Saved(BaseModel):
        token: ContinuationToken

    async with served(STORY) as (_, agent):
        updates = [update async for update in agent.run_streaming("A story", agent.get_new_thread(), background())]
        token = updates[9].continuation_token
        assert token is not None
        saved = Saved.model_validate_json(Saved(token=token).model_dump_json()).token
        assert ContinuationToken.parse(str(token)) == saved == token
        for form in (token, str(token), saved, json.loads(json.dumps(str(token)))):
            tail = agent.run_streaming(options=AgentRunOptions(continuation_token=form))
            assert [update.seq async for update in tail] == list(range(11, 19))


def test_c53_c55_options_are_copied_and_survive_json():
    text = "abg1.eyJwIjoib3BlbmFpIn0.x"
    options = AgentRunOptions(allow_background_responses=True, continuation_token=text, extra={"a": [1]})
    assert replace(options) == options
    adapter = TypeAdapter(AgentRunOptions)
    assert json.loads(adapter.dump_json(options, exclude_defaults=True)) == {
        "allow_background_responses": True,
        "continuation_token": text,
        "extra": {"a": [1]},
    }
    assert AgentRunOptions() == AgentRunOptions(allow_background_responses=False, continuation_token=None)


async def test_c56_c59_responses_and_updates_keep_their_token_when_they_are_copied():
    async with served(RUNNING) as (_, agent):
        response = await agent.run("A story", agent.get_new_thread(), background())
        assert replace(response).continuation_token == response.continuation_token
        async with agent.run_streaming("A story", agent.get_new_thread(), background()) as stream:
            update = await anext(stream)
            assert replace(update).continuation_token == update.continuation_token


# --- the OpenAI client of dotnet/extensions ---


async def test_x1_the_first_call_sends_background_and_returns_a_token_without_a_sequence_number():
    async with served(RUNNING) as (server, agent):
        response = await agent.run("A story", agent.get_new_thread(), background())
        assert server.requests[0].json["background"] is True
        assert "stream" not in server.requests[0].json
        assert response.status is RunStatus.QUEUED
        assert response.response_id == server.run().id
        assert list(response.messages) == []
        assert response.continuation_token is not None
        assert response.continuation_token.position.cursor is None


@dataclass(frozen=True)
class Shows(Fault):
    """A poll shows this status, whatever the run does."""

    status: str = ""

    def answer(self, exchange, serve) -> Reply:
        body = {**json.loads(exchange.run.snapshot()), "status": self.status}
        if self.status not in ("queued", "in_progress"):
            part = {"type": "output_text", "text": "So far.", "annotations": []}
            message = {"id": "msg_1", "type": "message", "role": "assistant", "status": self.status, "content": [part]}
            body["output"] = [message]

        return Reply(encode(body))


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"])
async def test_x2_a_poll_of_each_status(status: str):
    async with served(RUNNING, Shows(status, on="poll")) as (_, agent):
        thread = agent.get_new_thread()
        token = await token_of_a_running_run(agent, thread)
        response = await agent.run(thread=thread, options=background(token))
        assert response.raw_status == status
        if status in ("queued", "in_progress"):
            assert response.continuation_token == token
            assert list(response.messages) == []
            assert response.text == ""
        else:
            assert response.continuation_token is None
            assert response.text == "So far."


async def test_x3_a_run_that_waits_for_its_user_has_no_token():
    async with served(Script.of(FunctionCall("lookup", "{}"))) as (_, agent):
        thread = agent.get_new_thread()
        response = await poll_to_end(agent, thread, "Look it up")
        assert response.status is RunStatus.INPUT_REQUIRED
        assert response.continuation_token is None


async def test_x4_an_18_event_stream_is_resumed_from_9_and_yields_exactly_10_to_17():
    async with served(STORY) as (server, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming("A story", thread, background()) as stream:
            before = [await anext(stream) for _ in range(10)]

        assert [update.raw["sequence_number"] for update in before] == list(range(10))
        options = background(before[-1].continuation_token)
        after = [update async for update in agent.run_streaming(thread=thread, options=options)]
        assert server.requests[-1].query == {"stream": "true", "starting_after": "9"}
        assert [update.raw["sequence_number"] for update in after] == list(range(10, 18))
        tokens = [update.continuation_token for update in after]
        assert [token.position.cursor for token in tokens[:-1]] == list(range(10, 17))
        assert tokens[-1] is None
        assert after[-1].response.response_id == server.run().id
        assert joined(before) + joined(after) == after[-1].response.text == server.run().text


async def test_x5_a_resumed_stream_has_tokens_without_allowing_background_again():
    """The seed's own client loses them: a resumed stream could not be resumed again."""
    async with served(STORY) as (_, agent):
        async with agent.run_streaming("A story", agent.get_new_thread(), background()) as stream:
            token = (await anext(stream)).continuation_token

        options = AgentRunOptions(continuation_token=token)
        updates = [update async for update in agent.run_streaming(options=options)]
        assert all(update.continuation_token for update in updates[:-1])


# --- functions ---

WEATHER = Turns([Script.call("weather", {"city": "Amsterdam"}), Script.text("It rains in Amsterdam.")])


class Weather:
    """A function, and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def weather(self, city: str) -> str:
        self.calls += 1
        return f"rain in {city}"


async def test_x6_a_function_is_called_exactly_once_over_a_background_poll_loop():
    tool = Weather()
    async with served(WEATHER, tools=[tool.weather]) as (server, agent):
        response = await poll_to_end(agent, agent.get_new_thread(), "The weather?")
        assert response.text == "It rains in Amsterdam."
        assert tool.calls == 1
        assert server.run().request["input"][0]["output"] == "rain in Amsterdam"


async def test_x6_a_function_is_called_exactly_once_over_a_background_stream():
    tool = Weather()
    async with served(WEATHER, tools=[tool.weather]) as (server, agent):
        updates = [update async for update in agent.run_streaming("Weather?", agent.get_new_thread(), background())]
        assert joined(updates) == "It rains in Amsterdam."
        assert all(update.continuation_token for update in updates[:-1])
        assert tool.calls == 1
        assert server.run().request["input"][0]["output"] == "rain in Amsterdam"


@pytest.mark.parametrize("stream", [False, True])
async def test_c62_x7_a_round_of_functions_leaves_the_callers_options_alone_and_brings_a_new_token(stream: bool):
    """The follow-up is in the background, too: the loop goes on with the token of the round that it began."""
    tool = Weather()
    running = WEATHER.scripts[1].lasting(running=3600.0)
    async with served(Turns([WEATHER.scripts[0], running]), tools=[tool.weather]) as (server, agent):
        thread = agent.get_new_thread()
        options = background((await agent.run("Weather?", thread, background())).continuation_token)
        given = replace(options)
        if stream:
            async for update in agent.run_streaming(None, thread, options):
                token = update.continuation_token
                if len(server.runs) == 2 and token.ref.id == server.run().id:
                    break
        else:
            token = (await agent.run(thread=thread, options=options)).continuation_token

        assert options == given
        assert [request.json["background"] for request in server.requests if request.method == "POST"] == [True, True]
        assert token.ref.id == server.run().id != given.continuation_token.ref.id
        server.run().finish()
        response = await agent.run(thread=thread, options=background(token))
        assert (response.text, tool.calls) == ("It rains in Amsterdam.", 1)


async def test_a_failed_poll_is_not_a_failed_run():
    async with served(STORY, Status(503, on="poll", times=2, retry_after=0.01)) as (server, agent):
        response = await poll_to_end(agent, agent.get_new_thread())
        assert response.status is RunStatus.COMPLETED
        assert server.count("create") == 1


async def test_the_end_of_a_stream_is_an_update_of_its_own_kind():
    async with served(STORY) as (_, agent):
        updates = [update async for update in agent.run_streaming("A story", agent.get_new_thread(), background())]
        assert [update.type for update in updates[:4]] == [UpdateType.STATUS] * 3 + [UpdateType.ITEM]
        assert updates[-1].type is UpdateType.END
        assert [update.response for update in updates[:-1]] == [None] * 17
