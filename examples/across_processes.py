"""Submit in one process, exit, and take the run up in another: by its id in a store, or by its token anywhere.

    python examples/across_processes.py submit "Tell me a long story."
    python examples/across_processes.py get RUN_ID      # on the same store
    python examples/across_processes.py resume TOKEN    # on any machine

OPENAI_API_KEY is needed, OPENAI_BASE_URL and AGENTBG_MODEL are read too.
"""

import asyncio
import os
import sys
from typing import Any

from agentbg import Agent, AgentRuntime, BackgroundHandle
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore


async def submit(agent: Agent[str], text: str) -> None:
    async with AgentRuntime(SQLiteStore("runs.db")) as runtime:
        handle = await runtime.submit(agent, text, stream=True)
        print(handle.id)
        print(handle.token)  # a short text without secrets: put it into a database, a cookie, a URL


async def get(agent: Agent[str], run_id: str) -> None:
    # A runtime that knows the agent goes on with its unfinished runs by itself.
    async with AgentRuntime(SQLiteStore("runs.db"), agents=[agent]) as runtime:
        await show(await runtime.get(run_id))


async def resume(agent: Agent[str], token: str) -> None:
    async with AgentRuntime() as runtime:
        await show(await runtime.resume(token, agent=agent))


async def show(handle: BackgroundHandle[Any]) -> None:
    async with handle.stream() as updates:
        async for update in updates:
            print(update.text, end="", flush=True)

    print(f"\n{handle.status} after {handle.elapsed:.1f} s")


async def main(command: str, argument: str) -> None:
    async with Agent(OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini")), name="teller") as agent:
        await {"submit": submit, "get": get, "resume": resume}[command](agent, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
