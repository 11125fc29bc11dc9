"""Many runs at once: each result as soon as it is there, and a bad end of one is no end of the others.

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
    async with agent, AgentRuntime() as runtime:
        handles = await asyncio.gather(
            *(
                runtime.submit(agent, f"One sentence about {city}.", metadata={"city": city}, deadline=3600)
                for city in CITIES
            )
        )

        done = 0
        async for handle in runtime.as_completed(handles):
            done += 1
            city = handle.metadata["city"]
            try:
                response = await handle.result()
                print(f"[{done}/{len(handles)}] {city}: {response.text}")
            except RunError as error:
                print(f"[{done}/{len(handles)}] {city}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
