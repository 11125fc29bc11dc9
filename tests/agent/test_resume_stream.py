"""`resume_stream`: `run_streaming` with a token, as one plain call."""

from __future__ import annotations

import pytest
from served import background, joined, served

from agentbg import AgentRunOptions, TokenError, UpdateType, UsageError, resume_stream
from agentbg.testing.server import CutAfterEvent, FunctionCall, Script, Turns

STORY = Script.story(deltas=12)


@pytest.mark.parametrize("written", [str, lambda token: token], ids=["text", "token"])
async def test_it_goes_on_exactly_after_any_update_and_over_cuts(written):
    async with served(STORY, CutAfterEvent(3)) as (server, agent):
        thread = agent.get_new_thread()
        updates = [update async for update in agent.run_streaming("A story", thread, background())]
        for place, update in enumerate(updates[:-1], 1):
            async with resume_stream(agent, written(update.continuation_token)) as rest:
                resumed = [update async for update in rest]

            assert [each.seq for each in resumed] == [each.seq for each in updates[place:]]
            assert joined(updates[:place]) + joined(resumed) == updates[-1].response.text

        assert server.count("create") == 1


async def test_its_thread_gets_the_answer_and_its_tokens_go_on():
    async with served(STORY) as (_, agent):
        thread = agent.get_new_thread()
        async with agent.run_streaming("A story", thread, background()) as stream:
            first = await anext(stream)

        async with resume_stream(agent, first.continuation_token, thread=thread) as stream:
            second = await anext(stream)

        last = [update async for update in resume_stream(agent, second.continuation_token, thread=thread)][-1]
        assert last.type is UpdateType.END
        assert thread.answer is not None
        assert [message.text for message in thread.messages] == ["A story", last.response.text]


async def test_a_run_that_calls_tools_goes_on_in_the_background():
    calls = []

    def look() -> str:
        calls.append(1)
        return "the sea"

    async with served(Turns([Script.of(FunctionCall("look", "{}")), STORY]), tools=[look]) as (server, agent):
        async with agent.run_streaming("Look", agent.get_new_thread(), background()) as stream:
            first = await anext(stream)

        updates = [update async for update in resume_stream(agent, first.continuation_token)]
        assert all(update.continuation_token for update in updates[:-1])
        assert calls == [1]
        assert [request.json["background"] for request in server.requests if "create" in request.kinds] == [True, True]


async def test_what_cannot_be_right_is_refused_at_once():
    async with served(STORY) as (server, agent):
        thread = agent.get_new_thread()
        token = (await agent.run("A story", thread, background())).continuation_token
        with pytest.raises(TokenError):
            resume_stream(agent, "no token")

        with pytest.raises(UsageError, match="as an argument"):
            resume_stream(agent, token, options=background(token))

        with pytest.raises(UsageError, match="thread"):
            resume_stream(agent, token, options=AgentRunOptions(allow_background_responses=True))

        with pytest.raises(UsageError, match="output_type"):
            resume_stream(agent, token, partial=True)

        assert len(server.requests) == 1
