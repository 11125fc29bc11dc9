"""CPU per poll: the loop that people write, peers, and the whole runtime; the same runs, server, number and interval.

50 runs that do not end, each polled every 50 ms. CPU is this process's; the server is another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agentbg import AgentRuntime, PollPolicy, RequestBudget

from .measure import MICRO, ROUNDS, Comparison, Measure, ask, compare, sdk, server
from .peers import ASK, Pydantic, background_agent, framework

RUNS = 50
INTERVAL = 0.05
WARM_UP = 0.5
"""Seconds in which connections are made and code is warmed, before the measurement."""

Count = Callable[[], int]
Poller = Callable[[str], AbstractAsyncContextManager[Count]]
"""Polls runs at a base URL for as long as it is open; how many polls it has made."""


@dataclass(frozen=True)
class Results:
    """CPU per poll."""

    polls: Comparison


@asynccontextmanager
async def tasks(work: list[Coroutine[Any, Any, object]]) -> AsyncGenerator[None]:
    """Runs coroutines beside the block, and cancels them after it."""
    running = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in running:
            task.cancel()

        await asyncio.gather(*running, return_exceptions=True)


async def begin(base_url: str) -> list[str]:
    async with sdk(base_url) as client:
        return [(await client.responses.create(model="m", input="x", background=True)).id for _ in range(RUNS)]


@asynccontextmanager
async def bare_sdk(base_url: str) -> AsyncGenerator[Count]:
    """`await client.responses.retrieve(id)`, `asyncio.sleep`."""
    polls = 0
    async with sdk(base_url) as client:

        async def watch(run_id: str) -> None:
            nonlocal polls
            while (await client.responses.retrieve(run_id)).status in ("queued", "in_progress"):
                polls += 1
                await asyncio.sleep(INTERVAL)

        async with tasks([watch(run_id) for run_id in await begin(base_url)]):
            yield lambda: polls


@asynccontextmanager
async def framework_polls(base_url: str) -> AsyncGenerator[Count]:
    """agent-framework has the poll; its loop is the user's."""
    polls = 0
    async with sdk(base_url) as client:
        chat = framework(client)

        async def watch(run_id: str) -> None:
            nonlocal polls
            token: Any = {"response_id": run_id}
            while token is not None:
                token = (await chat.get_response(ASK, options={"continuation_token": token})).continuation_token
                polls += 1
                await asyncio.sleep(INTERVAL)

        async with tasks([watch(run_id) for run_id in await begin(base_url)]):
            yield lambda: polls


@asynccontextmanager
async def pydantic_polls(base_url: str) -> AsyncGenerator[Count]:
    """pydantic-ai polls every 2 s; here, as often as the others."""
    async with sdk(base_url) as client:
        model = Pydantic(client, INTERVAL)
        agent = background_agent(model)
        async with tasks([agent.run("x") for _ in range(RUNS)]):
            yield lambda: model.polls


@asynccontextmanager
async def handles(base_url: str) -> AsyncGenerator[Count]:
    """Through the whole runtime."""
    policy = PollPolicy(initial=INTERVAL, growth=0, maximum=INTERVAL, jitter=0)
    async with ask(base_url) as agent, AgentRuntime(poll=policy, budget=RequestBudget(in_flight=RUNS)) as runtime:
        held = [await runtime.submit(agent, "x") for _ in range(RUNS)]
        yield lambda: sum(handle.polls for handle in held)


def per_poll(poller: Poller, base_url: str, seconds: float) -> Measure:
    """Microseconds of CPU per poll."""

    async def measure() -> float:
        async with poller(base_url) as count:
            await asyncio.sleep(WARM_UP)
            before, began = count(), time.process_time()
            await asyncio.sleep(seconds)
            return (time.process_time() - began) / (count() - before) * MICRO

    return measure


WAYS: dict[str, Poller] = {
    "bare SDK": bare_sdk,
    "agent-framework-openai": framework_polls,
    "pydantic-ai-slim": pydantic_polls,
    "agentbg": handles,
}


async def results(quick: bool) -> Results:
    seconds, rounds = (0.5, 1) if quick else (2.5, ROUNDS)
    async with server(deltas=1, running=3600) as service:
        measures = {way: per_poll(poller, service.url, seconds) for way, poller in WAYS.items()}
        return Results(await compare("polls", measures, rounds, goals={"agentbg": 1 / 6}))
