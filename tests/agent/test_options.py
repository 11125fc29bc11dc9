"""What a run may be told besides its input: by name, by `extra`, and by its agent's defaults."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from served import served

from agentbg import Agent, AgentRunOptions, AgentRuntime, ContinuationToken, UsageError
from agentbg.core.model import RunRef
from agentbg.testing import ScriptedProvider
from agentbg.testing.server import ResponsesServer

NAMED: dict[str, Any] = {
    "reasoning_effort": "high",
    "max_output_tokens": 500,
    "service_tier": "flex",
    "completion_window": "2h",
    "metadata": {"team": "research"},
}
SENT = {
    "reasoning": {"effort": "high"},
    "max_output_tokens": 500,
    "service_tier": "flex",
    "background_options": {"completion_window": "2h"},
    "metadata": {"team": "research"},
}


class Report(BaseModel):
    title: str


def told(server: ResponsesServer) -> dict[str, Any]:
    body = server.requests[-1].json
    assert body is not None
    return {name: body[name] for name in (*SENT, "text") if name in body}


async def test_named_options_are_sent_as_the_service_says_them():
    async with served() as (server, agent):
        await agent.run("x", options=AgentRunOptions(**NAMED))
        assert told(server) == SENT
        await agent.run("x")
        assert told(server) == {}


async def test_the_runtime_sends_them_too_and_keeps_its_own_metadata_apart():
    async with served() as (server, agent), AgentRuntime() as runtime:
        handle = await runtime.submit(agent, "x", options=AgentRunOptions(**NAMED), metadata={"user": 7})
        assert server.requests[0].json["background"] is True
        assert server.requests[0].json["metadata"] == {"team": "research"}
        assert handle.metadata == {"user": 7}
        await handle


async def test_extra_parameters_win_and_leave_what_they_do_not_name():
    extra = {"reasoning": {"summary": "auto"}, "text": {"verbosity": "low"}, "max_output_tokens": 9, "top_p": 1}
    async with served(output_type=Report) as (server, agent):
        await agent.run("x", options=AgentRunOptions(**NAMED, extra=extra))
        sent = told(server)
        assert sent["reasoning"] == {"effort": "high", "summary": "auto"}
        assert sent["max_output_tokens"] == 9
        assert (sent["text"]["verbosity"], sent["text"]["format"]["name"]) == ("low", "Report")
        await agent.run("x", options=AgentRunOptions(**NAMED, extra={"reasoning": None, "metadata": {"team": "b"}}))
        assert told(server)["reasoning"] is None
        assert told(server)["metadata"] == {"team": "b"}


async def test_an_agents_options_are_defaults_and_a_runs_own_win():
    async with served() as (server, served_agent):
        defaults = AgentRunOptions(**NAMED, extra={"top_p": 0.5, "user": "a"})
        agent = Agent(served_agent.provider, options=defaults)
        await agent.run("x")
        assert told(server) == SENT
        own = AgentRunOptions(reasoning_effort="low", metadata={"job": "7"}, extra={"user": "b"})
        await agent.run("x", options=own)
        sent = server.requests[-1].json
        assert sent["reasoning"] == {"effort": "low"}
        assert sent["metadata"] == {"team": "research", "job": "7"}
        assert (sent["top_p"], sent["user"], sent["max_output_tokens"]) == (0.5, "b", 500)
        assert defaults.metadata == {"team": "research"}, "nobody's options are changed"
        async with AgentRuntime() as runtime:
            await (await runtime.submit(agent, "x")).result()
            assert server.requests[0].json["reasoning"] == {"effort": "high"}


@pytest.mark.parametrize("options", [{"allow_background_responses": True}, {"continuation_token": "abg1.x.y"}], ids=str)
def test_what_only_a_run_can_say_is_no_default(options: Any):
    with pytest.raises(UsageError, match="said with the run"):
        Agent(ScriptedProvider(), options=AgentRunOptions(**options))


@pytest.mark.parametrize("tokens", [0, -1])
async def test_a_bound_that_leaves_no_answer_is_refused(tokens: int):
    async with served() as (server, agent):
        with pytest.raises(UsageError, match="max_output_tokens"):
            await agent.run("x", options=AgentRunOptions(max_output_tokens=tokens))

        assert server.requests == []


async def test_metadata_that_is_no_json_is_refused_before_anything_is_sent():
    async with served() as (server, agent):
        with pytest.raises(UsageError, match="JSON"):
            await agent.run("x", options=AgentRunOptions(metadata={"a": object()}))

        assert server.requests == []


async def test_a_poll_takes_no_notice_of_them():
    async with served() as (server, agent):
        thread = agent.get_new_thread()
        options = AgentRunOptions(True, **NAMED)
        await agent.run("x", thread, options)
        ref = RunRef("openai", agent.provider.endpoint, {"response": server.run().id})
        options.continuation_token = ContinuationToken(ref)
        assert (await agent.run(thread=thread, options=options)).text == "You said: x"
