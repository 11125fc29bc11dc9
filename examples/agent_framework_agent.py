"""An agent of Microsoft's agent_framework as a background run: submitted, streamed, and held by a handle.

    pip install 'agentbg[agent-framework]' agent-framework-openai
    OPENAI_API_KEY=… python examples/agent_framework_agent.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os
from typing import Annotated

import agent_framework
from agent_framework.openai import OpenAIChatClient
from openai import AsyncOpenAI

from agentbg import Agent, AgentRunOptions, AgentRuntime, UpdateType
from agentbg.providers import AgentFrameworkAgent


@agent_framework.tool(approval_mode="never_require")
async def wind(city: Annotated[str, "Where"]) -> str:
    """The wind in a city now."""
    await asyncio.sleep(0.1)
    return f"Wind in {city}: 5 Beaufort, from the west."


async def main() -> None:
    async with AsyncOpenAI() as client:
        forecaster = agent_framework.Agent(
            OpenAIChatClient(model=os.environ.get("AGENTBG_MODEL", "gpt-5-mini"), async_client=client),
            instructions="Answer in one sentence.",
            tools=[wind],
        )
        # An option of its chat client: the service works in the background, and a stream that breaks costs nothing.
        options = AgentRunOptions(extra={"background": True})
        agent = Agent(AgentFrameworkAgent(forecaster), name="forecaster", options=options)
        async with agent, AgentRuntime() as runtime:
            handle = await runtime.submit(agent, "How windy is it in Amsterdam?", stream=True)
            async with handle.stream() as updates:
                async for update in updates:
                    if update.type is UpdateType.RESET:  # rare: what was printed was wrong
                        print("\r", end="")

                    print(update.text, end="", flush=True)

            response = await handle
            usage = response.usage.total_tokens if response.usage else "unknown"
            print(f"\n{response.status}, tokens: {usage}")


if __name__ == "__main__":
    asyncio.run(main())
