"""How others stream, poll and resume the same runs: as their documentation has it, at their fastest settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import openai
from agent_framework import Message
from agent_framework.openai import OpenAIChatClient
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from .measure import sdk

ASK = [Message("user", ["x"])]


def framework(client: openai.AsyncOpenAI) -> OpenAIChatClient:
    """agent-framework's client of the Responses API."""
    return OpenAIChatClient(model="m", async_client=client)


def background_agent(model: OpenAIResponsesModel) -> Agent[None, str]:
    """An agent of pydantic-ai whose runs are in the background."""
    return Agent(model, model_settings=OpenAIResponsesModelSettings(openai_background=True))


class Pydantic(OpenAIResponsesModel):
    """pydantic-ai's model of the Responses API, with another interval than its 2 s, and a count of its polls."""

    def __init__(self, client: openai.AsyncOpenAI, interval: float | None = None) -> None:
        super().__init__("m", provider=OpenAIProvider(openai_client=client))
        self.interval = interval
        self.polls = 0

    def continuation_delay(self, response: ModelResponse) -> float | None:
        """Asked before each poll."""
        delay = super().continuation_delay(response)
        self.polls += delay is not None
        return delay if delay is None or self.interval is None else self.interval


def suspended(run_id: str, cursor: int = 0) -> list[ModelMessage]:
    """The history from which pydantic-ai streams a run on, after `cursor`."""
    response = ModelResponse(
        parts=[],
        model_name="m",
        provider_name="openai",
        provider_response_id=run_id,
        state="suspended",
        provider_details={"background": True, "last_sequence_number": cursor},
    )
    return [ModelRequest(parts=[UserPromptPart("x")]), response]


@asynccontextmanager
async def framework_stream(base_url: str) -> AsyncGenerator:
    """Reads a run's stream by its continuation token; how much text it had."""
    async with sdk(base_url) as client:
        chat = framework(client)

        async def read(run_id: str) -> int:
            options = {"continuation_token": {"response_id": run_id}}
            return sum([len(update.text) async for update in chat.get_response(ASK, stream=True, options=options)])

        yield read


@asynccontextmanager
async def pydantic_stream(base_url: str) -> AsyncGenerator:
    """Reads a run's stream from a suspended response; how much text it had."""
    async with sdk(base_url) as client:
        agent = background_agent(Pydantic(client))

        async def read(run_id: str) -> int:
            async with agent.run_stream(message_history=suspended(run_id)) as result:
                return sum([len(text) async for text in result.stream_text(delta=True, debounce_by=None)])

        yield read
