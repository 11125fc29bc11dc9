"""What the tests of tools share: a tool that notes its calls, scripts that call it, and the ways to run them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentbg import Agent, AgentRunResponse, AgentRunResponseUpdate, AgentRuntime, AgentThread, RunContext
from agentbg.testing.server import Fault, FunctionCall, Message, ResponsesServer, Script, Turns, answers

from .helpers import POLL, STREAM, agent_of, background, bounded, check

ASKED = "How is the weather?"


def calls(*cities: str, name: str = "weather") -> Script:
    """A round of calls, one for each city."""
    return Script.of(*(FunctionCall(name, json.dumps({"city": city})) for city in cities))


def told(request: Any) -> Script:
    """A last round that says what the calls gave."""
    return Script.text(", ".join(map(str, answers(request).values())))


LOOKED = Message("Let me look. ")
TWO_ROUNDS = Turns([Script((LOOKED, *calls("Rome", "Oslo").items)), calls("Bern"), told])
"""Two calls at once, then one, then the answer."""
TEXT = "Let me look. rain in Bern"
CITIES = ["Bern", "Oslo", "Rome"]


class Desk:
    """A tool, and a book of its calls. `begun` has the city of each, `ids` the ids."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ids: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()
        """Calls wait for it."""
        self.open.set()
        self.busy = asyncio.Event()
        """Set when a call waits."""

    async def weather(self, city: str, context: RunContext) -> str:
        """The weather of a city."""
        self.begun.append(city)
        self.ids.append(context.call_id)
        try:
            self.busy.set()
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(city)
            raise

        return f"rain in {city}"


@asynccontextmanager
async def house(
    desk: Desk, script: Any = TWO_ROUNDS, *faults: Fault, **settings: Any
) -> AsyncIterator[tuple[ResponsesServer, Agent[Any], AgentRuntime]]:
    """A server, an agent with the desk's tool, and a runtime."""
    tools = settings.pop("tools", [desk.weather])
    async with (
        ResponsesServer(script=script, faults=faults) as server,
        agent_of(server, tools=tools, **settings) as agent,
        AgentRuntime(poll=POLL, stream=STREAM, agents=[agent]) as runtime,
        bounded(),
    ):
        yield server, agent, runtime


# --- four ways to run an agent: each gives the last response ---


async def submitted(agent: Agent[Any], runtime: AgentRuntime) -> AgentRunResponse[Any]:
    return await (await runtime.submit(agent, ASKED)).result()


async def submitted_streamed(agent: Agent[Any], runtime: AgentRuntime) -> AgentRunResponse[Any]:
    handle = await runtime.submit(agent, ASKED, stream=True)
    async with handle.stream() as updates:
        return whole([update async for update in updates])


async def asked(agent: Agent[Any], runtime: AgentRuntime) -> AgentRunResponse[Any]:
    thread, options = agent.get_new_thread(), background()
    response = await agent.run(ASKED, thread, options)
    while response.continuation_token is not None:
        await asyncio.sleep(0.005)
        options.continuation_token = response.continuation_token
        response = await agent.run(thread=thread, options=options)

    check_thread(thread, response)
    return response


async def asked_streamed(agent: Agent[Any], runtime: AgentRuntime) -> AgentRunResponse[Any]:
    thread = agent.get_new_thread()
    async with agent.run_streaming(ASKED, thread, background()) as updates:
        response = whole([update async for update in updates])

    check_thread(thread, response)
    return response


Way = Callable[[Agent[Any], AgentRuntime], Awaitable[AgentRunResponse[Any]]]
WAYS: list[Way] = [submitted, submitted_streamed, asked, asked_streamed]
ways = pytest.mark.parametrize("way", WAYS)
streams = pytest.mark.parametrize("way", [submitted_streamed, asked_streamed])
polls = pytest.mark.parametrize("way", [submitted, asked])


# --- what must hold of each run ---


def whole(updates: list[AgentRunResponseUpdate]) -> AgentRunResponse[Any]:
    """The response of a stream that is held to its rules."""
    response = updates[-1].response
    assert response is not None
    check(updates, response.text)
    return response


def check_thread(thread: AgentThread, response: AgentRunResponse[Any]) -> None:
    assert [(message.role, message.text) for message in thread.messages] == [
        ("user", ASKED),
        *([("assistant", response.text)] if response.text else []),
    ]


def check_context(server: ResponsesServer, calls: int, kind: str = "function_call") -> None:
    """The last round's model has seen the input once, and each call and its output once, whatever was sent when."""
    context = server.run().context
    called = [item["call_id"] for item in context if item["type"] == kind]
    answered = [item["call_id"] for item in context if item["type"] == f"{kind}_output"]
    assert len(called) == len(set(called)) == calls
    assert answered == called
    assert [item.get("role") for item in context if item.get("role") == "user"] == ["user"]


def outputs(server: ResponsesServer) -> list[str]:
    """What the last round's model was told of the calls."""
    return [item["output"] for item in server.run().context if item["type"].endswith("_output")]


def check_whole(server: ResponsesServer, desk: Desk, response: AgentRunResponse[Any], rounds: int = 3) -> None:
    """A run of `TWO_ROUNDS` went as it should."""
    assert response.text == TEXT
    assert sorted(desk.begun) == CITIES
    assert len(set(desk.ids)) == len(desk.ids)
    assert server.count("create") == rounds
    check_context(server, 3)
