"""What the tests of `Local` share: functions to run, and the rules that every stream of updates keeps."""

from __future__ import annotations

import asyncio

from agentbg import Agent, AgentRunOptions, AgentRuntime, Message, UpdateType
from agentbg.core.model import StartRequest
from agentbg.providers import Local
from agentbg.testing import VirtualClock

WORDS = ["It ", "was ", "a ", "bright ", "cold ", "day."]
BACKGROUND = AgentRunOptions(allow_background_responses=True)


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def agent_of(function, *, output_type=None, stream=None, **settings):
    return Agent(
        Local(function, **settings), name="worker", clock=VirtualClock(), output_type=output_type, stream=stream
    )


def lasting(seconds: float, answer: object = "done"):
    async def work(text: str):
        await asyncio.sleep(seconds)
        return answer

    return work


def asked(text: str = "x", *, background: bool = True) -> StartRequest:
    return StartRequest(input=[Message("user", text).item], background=background)


async def words(text: str):
    for word in WORDS:
        await asyncio.sleep(1)
        yield word


async def read(handle, after: int = 0):
    async with handle.stream(after=after) as updates:
        return [update async for update in updates]


def joined(updates) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def check(updates, text: str) -> None:
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert joined(updates) == text
    assert [update.type for update in updates].count(UpdateType.END) == 1
    assert updates[-1].type is UpdateType.END
