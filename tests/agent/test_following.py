"""What a cancellation does to a stream that its consumer drives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentbg import Agent, AgentRunOptions, StreamPolicy
from agentbg.testing import ScriptedProvider, VirtualClock, virtual_time


class SlowToClose(ScriptedProvider):
    """Its streams bring nothing, and take their time to close."""

    async def attach(self, ref, *, after=None):
        try:
            await asyncio.sleep(1000)
            yield []
        finally:
            await asyncio.sleep(5)


@virtual_time
async def test_a_cancellation_while_a_connection_is_being_closed_is_not_swallowed():
    agent = Agent(SlowToClose.text("x", seconds=3600), stream=StreamPolicy(quiet=10, idle=2000), clock=VirtualClock())
    thread = agent.get_new_thread()
    token = (await agent.run("x", thread, AgentRunOptions(allow_background_responses=True))).continuation_token
    assert token is not None
    options = AgentRunOptions(continuation_token=replace(token, streamed=True))

    async def read() -> None:
        async for _ in agent.run_streaming(thread=thread, options=options):
            pass

    # At 10 s the silent connection begins to be closed, at 12 the time is over.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 12)
