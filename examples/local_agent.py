"""Functions of your own as background runs, with the same handles and streams. Needs no key and no service.

    python examples/local_agent.py

On a durable store, runs of an idempotent function go on after a restart: they are started again.
"""

import asyncio
from collections.abc import AsyncIterator

from pydantic import BaseModel

from agentbg import Agent, AgentRuntime
from agentbg.providers import Local, LocalRun


class Report(BaseModel):
    topic: str
    words: int


async def tell(topic: str) -> AsyncIterator[str]:
    for word in f"Once upon a time there was {topic}.".split():
        await asyncio.sleep(0.02)
        yield word + " "


async def survey(run: LocalRun) -> Report:
    run.progress(step="counting")
    await asyncio.sleep(0.05 * len(run.text))
    return Report(topic=run.text, words=len(run.text.split()))


async def main() -> None:
    teller = Agent(Local(tell, idempotent=True), name="teller")
    surveyor = Agent(Local(survey, limit=10), name="surveyor", output_type=Report)
    async with teller, surveyor, AgentRuntime() as runtime:
        story = await runtime.submit(teller, "an octopus", stream=True)
        report = await runtime.submit(surveyor, "eight arms", stream=True)
        endless = await runtime.submit(surveyor, "the sea " * 1_000)
        async with story.stream() as updates:
            async for update in updates:
                print(update.text, end="", flush=True)

        print(f"\n{(await report).value}")
        print(await endless.cancel(reason="too much water"))


if __name__ == "__main__":
    asyncio.run(main())
