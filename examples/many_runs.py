"""Many runs at once: a few at a time, each result as soon as it is there, and a bad end of one is no end of the others.

    OPENAI_API_KEY=… python examples/many_runs.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os

from agentbg import Agent, AgentRuntime, RunError
from agentbg.providers import OpenAIResponses

CITIES = ["Amsterdam", "Bergen", "Cusco", "Dakar", "Edinburgh", "Fez", "Galway", "Hanoi"]


async def main() -> None:
    agent = Agent(OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini")), name="guide")
    questions = [f"One sentence about {city}." for city in CITIES]
    async with agent, AgentRuntime(deadline=3600) as runtime:
        done = 0
        async for outcome in runtime.submit_many(agent, questions, max_active=4):
            done += 1
            city = CITIES[outcome.index]
            try:
                response = await outcome.result()
                print(f"[{done}/{len(CITIES)}] {city}: {response.text}")
            except RunError as error:
                print(f"[{done}/{len(CITIES)}] {city}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
