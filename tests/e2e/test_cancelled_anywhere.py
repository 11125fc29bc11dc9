"""Over real connections: whatever step of the event loop a task is cancelled at, its connections are closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from agentbg import Agent, AgentRuntime, resume_stream
from agentbg.testing import VirtualClock
from agentbg.testing.server import ResponsesServer, Script
from tests.runtime.stepped import cancel_at, run_stepped

from .helpers import agent_of, background

LONG = Script.story(600).lasting(delay=0.1)
Scene = Callable[[Agent[Any]], Awaitable[None]]


async def taken(stream: Any, updates: int) -> None:
    async with stream:
        for _ in range(updates):
            await anext(stream)


async def stream_of_an_agent(agent: Agent[Any]) -> None:
    await taken(agent.run_streaming("a story", agent.get_new_thread(), background()), 5)


async def stream_by_a_token(agent: Agent[Any]) -> None:
    thread = agent.get_new_thread()
    response = await agent.run("a story", thread, background())
    assert response.continuation_token is not None
    await taken(resume_stream(agent, response.continuation_token, thread=thread), 1)


async def stream_of_a_handle(agent: Agent[Any]) -> None:
    async with AgentRuntime(clock=VirtualClock()) as runtime:
        handle = await runtime.submit(agent, "a story", stream=True)
        await taken(handle.stream(), 5)


async def several_waiters(agent: Agent[Any]) -> None:
    async with AgentRuntime(clock=VirtualClock()) as runtime, asyncio.TaskGroup() as group:
        handle = await runtime.submit(agent, "a story", stream=True)
        waiters = [group.create_task(handle.wait(timeout=0.5)) for _ in range(2)]
        await taken(handle.stream(), 4)
        await asyncio.wait(waiters)


@pytest.mark.parametrize("scene", [stream_of_an_agent, stream_by_a_token, stream_of_a_handle, several_waiters])
def test_a_task_that_is_cancelled_anywhere_leaves_no_connection_and_its_run_alive(scene: Scene) -> None:
    def attempts() -> Iterator[int]:
        for at in count(1):
            yield at
            if ended:
                return

    ended: list[int] = []
    for at in attempts():
        uncaught: list[dict[str, Any]] = []

        async def play(at: int = at, uncaught: list[dict[str, Any]] = uncaught) -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
            async with ResponsesServer(script=LONG) as server, agent_of(server, clock=VirtualClock()) as agent:
                serving = asyncio.all_tasks()
                if await cancel_at(at, scene(agent)) is None:
                    ended.append(at)

                gc.collect(0)
                await asyncio.sleep(0.1)
                streams = [request for request in server.requests if "stream" in request.kinds]
                left = server._listener._connections
                assert asyncio.all_tasks() - serving <= left
                assert not streams or not left, f"cancelled at {at}"
                assert [run.status for run in server.runs.values() if run.status != "in_progress"] == []

        run_stepped(play())
        assert uncaught == [], f"cancelled at {at}"

    assert ended[0] > 20
