"""The client against a Responses server that others wrote, over real HTTP, in a process of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRunResponseUpdate,
    AgentRuntime,
    BackgroundHandle,
    Backoff,
    Message,
    PollPolicy,
    RunFailed,
    RunIncomplete,
    RunStatus,
    StreamPolicy,
)
from agentbg.providers import AzureOpenAIResponses, OpenAIResponses
from agentbg.testing.proxy import CuttingProxy, ResponseCut

from .azure_server import Script

SOON = PollPolicy(initial=0.02, growth=0, faults=Backoff(initial=0.02))
WAIT = 30  # seconds, never reached unless something is broken


def agent_at(base_url: str, **settings: Any) -> Agent[str]:
    return Agent(OpenAIResponses("scripted", base_url=base_url, api_key="none"), **settings)


def ask(**script: Any) -> str:
    return json.dumps(script)


def runtime_of() -> AgentRuntime:
    return AgentRuntime(poll=SOON, stream=StreamPolicy(reconnect=Backoff(initial=0.02), spread=0.0))


async def drain(handle: BackgroundHandle[str], after: int = 0) -> list[AgentRunResponseUpdate]:
    async with handle.stream(after=after) as updates:
        return [update async for update in updates]


async def test_a_polled_run_completes_with_the_whole_text(azure_url: str) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(deltas=20, delay=0.005))
        response = await handle.result(WAIT)

    assert response.text == Script(deltas=20).text
    assert handle.polls >= 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("delay", [0.0, 0.002])
async def test_a_stream_that_is_cut_again_and_again_is_whole(azure_url: str, how: Any, delay: float) -> None:
    cuts = [ResponseCut(events=7, how=how), ResponseCut(bytes=3000, how=how), ResponseCut(events=30, how=how)]
    async with CuttingProxy(azure_url, cuts) as proxy, agent_at(proxy.base_url) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(deltas=100, delay=delay), stream=True)
        updates = await drain(handle)
        cuts_made, reconnects = proxy.cuts_made, handle.reconnects

    assert cuts_made == len(cuts)
    assert reconnects >= len(cuts)
    assert "".join(update.text for update in updates) == Script(deltas=100).text
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))


async def test_a_run_is_taken_up_by_its_token_where_the_stream_was_left(azure_url: str) -> None:
    async with agent_at(azure_url) as agent:
        async with runtime_of() as runtime, (await runtime.submit(agent, ask(deltas=30), stream=True)).stream() as seen:
            before = [await anext(seen) for _ in range(12)]

        async with runtime_of() as runtime:
            after = await drain(await runtime.resume(str(before[-1].continuation_token), agent=agent))

    assert "".join(update.text for update in before + after) == Script(deltas=30).text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("end", "error"), [("failed", RunFailed), ("incomplete", RunIncomplete)])
async def test_a_run_that_ends_badly_says_so(azure_url: str, end: str, error: type[Exception], stream: bool) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(end=end), stream=stream)
        with pytest.raises(error):
            await handle.result(WAIT)

    assert handle.response.text == Script().text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_run_is_cancelled_at_the_service(azure_url: str, stream: bool) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(delay=3600), stream=stream)
        await handle.cancel(reason="superseded")

        assert await handle.wait(WAIT) is RunStatus.CANCELLED
        assert handle.token is None


@pytest.mark.parametrize("version", [None, "2025-04-01-preview"], ids=["v1", "api-version"])
async def test_azures_own_addresses_lead_to_the_same_runs(azure_url: str, version: str | None) -> None:
    endpoint = azure_url.removesuffix("/v1")
    provider = AzureOpenAIResponses("scripted", azure_endpoint=endpoint, api_key="none", api_version=version)
    async with Agent(provider) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(deltas=30), stream=True)
        updates = await drain(handle)

    assert "".join(update.text for update in updates) == Script(deltas=30).text


async def test_a_conversation_goes_on_from_the_run_before(azure_url: str) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        thread = agent.get_new_thread()
        await (await runtime.submit(agent, ask(deltas=2), thread=thread)).result(WAIT)
        response = await (await runtime.submit(agent, ask(deltas=3), thread=thread)).result(WAIT)

    assert response.text == Script(deltas=3).text
    assert response.raw["previous_response_id"].startswith("caresp_")


class Book:
    """A tool, and what it was called with."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def look(self, number: int) -> str:
        self.numbers.append(number)
        return f"{number}! "


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_loop_makes_each_call_once(azure_url: str, stream: bool) -> None:
    book = Book()
    async with agent_at(azure_url, tools=[book.look]) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(rounds=3), stream=stream)
        response = await handle.result(WAIT)
        updates = await drain(handle)

    assert response.text == "".join(update.text for update in updates) == "0! 1! 2! 3! 4! 5! "
    assert sorted(book.numbers) == [0, 1, 2, 3, 4, 5]


async def test_a_tool_loop_that_is_cut_again_and_again_makes_each_call_once(azure_url: str) -> None:
    """Within the arguments of a call, too: those of a round are some fifty events."""
    book = Book()
    cuts = [
        ResponseCut(events=7),
        ResponseCut(events=15, how="rst"),
        ResponseCut(bytes=2500),
        ResponseCut(events=3),
    ] * 2
    async with CuttingProxy(azure_url, cuts) as proxy, agent_at(proxy.base_url, tools=[book.look]) as agent:
        async with runtime_of() as runtime:
            updates = await drain(await runtime.submit(agent, ask(rounds=2), stream=True))

        assert proxy.cuts_made == len(cuts)

    assert "".join(update.text for update in updates) == "0! 1! 2! 3! "
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert sorted(book.numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_thread_goes_on_after_a_tool_loop(azure_url: str, stream: bool) -> None:
    book = Book()
    async with agent_at(azure_url, tools=[book.look]) as agent, runtime_of() as runtime:
        thread = agent.get_new_thread()
        for _ in range(2):
            handle = await runtime.submit(agent, ask(rounds=1), thread=thread, stream=stream)
            assert (await handle.result(WAIT)).text == "0! 1! "

        await (await runtime.submit(agent, ask(deltas=2), thread=thread)).result(WAIT)

    assert len(book.numbers) == 4
    assert [message.role for message in thread.messages] == ["user", "assistant"] * 3


async def test_a_tool_loop_of_the_seeds_api_makes_each_call_once(azure_url: str) -> None:
    book = Book()
    async with agent_at(azure_url, tools=[book.look]) as agent:
        thread, options = agent.get_new_thread(), AgentRunOptions(allow_background_responses=True)
        response = await agent.run(ask(rounds=2), thread, options)
        while (token := response.continuation_token) is not None:
            await asyncio.sleep(0.02)
            options.continuation_token = token
            response = await agent.run(thread=thread, options=options)

    assert response.text == "0! 1! 2! 3! "
    assert sorted(book.numbers) == [0, 1, 2, 3]


async def test_a_call_that_nobody_here_can_make_is_answered_by_the_user(azure_url: str) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        handle = await runtime.submit(agent, ask(rounds=1))
        assert await handle.wait(WAIT) is RunStatus.INPUT_REQUIRED
        await handle.respond(*(request.answer(request.id) for request in handle.response.requests))
        assert (await handle.result(WAIT)).text == "call_0call_1"


async def test_a_conversation_that_is_sent_whole_is_taken(azure_url: str) -> None:
    async with agent_at(azure_url) as agent, runtime_of() as runtime:
        thread = agent.get_new_thread()
        thread.client_side = True
        called = [
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "f",
                "arguments": "{}",
                "id": "fc_1",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "x"},
        ]
        await (await runtime.submit(agent, [*called, Message("user", ask(deltas=2))], thread=thread)).result(WAIT)
        response = await (await runtime.submit(agent, ask(deltas=3), thread=thread)).result(WAIT)

    assert response.status is RunStatus.COMPLETED
    assert "previous_response_id" not in response.raw or response.raw["previous_response_id"] is None
    assert len(thread.items) == 6
