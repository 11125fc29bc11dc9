"""A run that a runtime takes up by its token begins in the middle: what came before was delivered elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from agentbg import Agent, AgentRuntime
from agentbg.stores import MemoryStore
from agentbg.testing import ScriptedProvider, virtual_time


@pytest.mark.parametrize("after", [0, 2, None])
@virtual_time
async def test_a_stream_from_before_the_token_gives_what_came_since(after: int | None):
    provider = ScriptedProvider.text("a long story", seconds=60, deltas=6)
    agent = Agent(provider)
    async with AgentRuntime() as runtime:
        handle = await runtime.submit(agent, "x", stream=True)
        async with handle.stream() as updates:
            got = [await anext(updates) for _ in range(5)]

    store = MemoryStore()
    async with AgentRuntime(store) as runtime, asyncio.timeout(3600):
        resumed = await runtime.resume(str(got[-1].continuation_token), agent=agent)
        async with resumed.stream(after=got[-1].seq if after is None else after) as updates:
            since = [update async for update in updates]

        # ... and from the store, once it has ended.
        async with resumed.stream(after=after or 0) as updates:
            again = [update async for update in updates]

    assert [update.seq for update in since] == list(range(6, 6 + len(since)))
    assert "".join(update.text for update in [*got, *since]) == "a long story"
    assert [(update.seq, update.text) for update in again] == [(update.seq, update.text) for update in since]
