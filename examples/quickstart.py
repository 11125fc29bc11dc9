"""Submit a run, hold a handle, take a typed result: the runtime drives.

    OPENAI_API_KEY=… python examples/quickstart.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os

from pydantic import BaseModel

from agentbg import Agent, AgentRuntime, RunTimeout
from agentbg.providers import OpenAIResponses


class Report(BaseModel):
    title: str
    findings: list[str]


async def main() -> None:
    provider = OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"))
    async with Agent(provider, name="researcher", output_type=Report) as agent, AgentRuntime() as runtime:
        handle = await runtime.submit(agent, "Survey solid-state batteries: a title and three findings.")
        print(f"{handle.id} is {handle.status}")

        try:
            response = await handle.result(timeout=600)
        except RunTimeout as error:
            print(f"Not done yet. It goes on, and this takes it up again: {error.token}")
            return

        report = response.value  # a Report
        print(report.title)
        for finding in report.findings:
            print(f"- {finding}")


if __name__ == "__main__":
    asyncio.run(main())
