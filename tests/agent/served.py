"""An agent and the server it talks to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentbg import Agent, AgentRunOptions, AgentRunResponseUpdate
from agentbg.providers import OpenAIResponses
from agentbg.testing.server import Fault, ResponsesServer
from agentbg.testing.server.script import ScriptSource, echo


@asynccontextmanager
async def served(
    script: ScriptSource = echo, *faults: Fault, output_type: Any = None, tools: Sequence[Any] = (), **settings: Any
) -> AsyncIterator[tuple[ResponsesServer, Agent[Any]]]:
    async with ResponsesServer(script=script, faults=faults, **settings) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        async with Agent(provider, tools=tools, output_type=output_type) as agent:
            yield server, agent


def background(token: Any = None, **extra: Any) -> AgentRunOptions:
    return AgentRunOptions(allow_background_responses=True, continuation_token=token, extra=extra)


def joined(updates: Iterable[AgentRunResponseUpdate]) -> str:
    return "".join(update.text for update in updates)


async def poll_to_end(agent, thread, input="A story", pause=0.01):
    options = background()
    response = await agent.run(input, thread, options)
    while response.continuation_token is not None:
        await asyncio.sleep(pause)
        options.continuation_token = response.continuation_token
        response = await agent.run(thread=thread, options=options)

    return response
