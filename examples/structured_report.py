"""A report of nested types: the service answers in JSON that fits, and `value` is a Report.

    OPENAI_API_KEY=… python examples/structured_report.py

OPENAI_BASE_URL names another server that speaks the Responses API, AGENTBG_MODEL another model.
"""

import asyncio
import os
from typing import Literal

from pydantic import BaseModel, Field

from agentbg import Agent, AgentRuntime, OutputInvalid
from agentbg.providers import OpenAIResponses


class Finding(BaseModel):
    claim: str
    confidence: Literal["low", "medium", "high"]
    year: int | None = Field(description="when it was found, if that is known")


class Section(BaseModel):
    heading: str
    findings: list[Finding]


class Report(BaseModel):
    title: str
    sections: list[Section]


async def main() -> None:
    provider = OpenAIResponses(os.environ.get("AGENTBG_MODEL", "gpt-5-mini"))
    async with Agent(provider, name="analyst", output_type=Report) as agent, AgentRuntime() as runtime:
        handle = await runtime.submit(agent, "Survey solid-state batteries, in two sections of two findings each.")
        try:
            report = (await handle).value
        except OutputInvalid as error:  # only from a service that does not keep to the schema
            print(f"No report: {error}\n{error.response.text}")
            return

        print(report.title)
        for section in report.sections:
            print(f"\n{section.heading}")
            for finding in section.findings:
                print(f"- {finding.claim} ({finding.year or 'undated'}, {finding.confidence} confidence)")


if __name__ == "__main__":
    asyncio.run(main())
