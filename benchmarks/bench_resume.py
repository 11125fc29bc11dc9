"""What a reader sees of a streamed run whose connection breaks in its middle: told twice, missing, or thrown away.

A run of 200 words is cut once, after 100 of them: by a broken connection, or by an end that looks like a good one, as
some proxies make it. Each way then does what its documentation says: a handle by itself; the bare SDK by
`starting_after` with a cursor that its user kept; agent-framework by its continuation token; pydantic-ai by itself.
Nothing is timed here: these are counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import openai
from agent_framework.exceptions import ChatClientException
from pydantic_ai.exceptions import ModelAPIError

from agentbg import AgentRuntime
from agentbg.testing.server import CutAfterEvent, ResponsesServer, Script

from .measure import ask, sdk
from .peers import ASK, Pydantic, background_agent, framework

WORDS = [f"word{number}" for number in range(200)]
BEFORE = 5
"""Events of a run before its first word."""

Cut = Literal["broken", "ended"]
HOW = {"broken": "fin", "ended": "clean"}

Tell = Callable[[str], AsyncGenerator[str, None]]
"""Starts a run at a base URL, and yields the words as its user would show them; again after a cut, where it can."""


@dataclass(frozen=True)
class Outcome:
    """What the user of one way saw."""

    way: str
    cut: Cut
    told: int
    """Words that were shown, those shown twice included."""
    repeated: int
    missing: int
    cancelled: bool
    """Whether the run was cancelled at the service, and its work thrown away."""


@dataclass(frozen=True)
class Results:
    """All ways, each with both cuts."""

    outcomes: list[Outcome]


async def bare_sdk(base_url: str) -> AsyncGenerator[str, None]:
    """With all that its user has to write."""
    async with sdk(base_url) as client:
        stream: Any = await client.responses.create(model="m", input="x", background=True, stream=True)
        run_id, cursor, ended = "", 0, False
        while not ended:
            try:
                async for event in stream:
                    cursor = event.sequence_number
                    if event.type == "response.created":
                        run_id = event.response.id
                    elif event.type == "response.output_text.delta":
                        yield event.delta

                    ended = event.type == "response.completed"
            except openai.APIConnectionError:
                pass

            if not ended:
                stream = await client.responses.retrieve(run_id, stream=True, starting_after=cursor)


async def framework_words(base_url: str) -> AsyncGenerator[str, None]:
    """Its updates carry a token until the run has ended. One has the whole text, at its end: it is left out here."""
    async with sdk(base_url) as client:
        chat = framework(client)
        options: Any = {"background": True}
        while options is not None:
            token = None
            try:
                async for update in chat.get_response(ASK, stream=True, options=dict(options)):
                    token = update.continuation_token or token
                    if getattr(update.raw_representation, "type", "") == "response.output_text.delta":
                        yield update.text

                    if update.finish_reason is not None:
                        token = None
            except ChatClientException:
                if token is None:
                    raise

            options = None if token is None else {"continuation_token": token}


async def pydantic_words(base_url: str) -> AsyncGenerator[str, None]:
    """It goes on after an end that is none; on an error it cancels the run."""
    async with sdk(base_url) as client:
        try:
            async with background_agent(Pydantic(client)).run_stream("x") as result:
                async for text in result.stream_text(delta=True, debounce_by=None):
                    yield text
        except ModelAPIError:
            return


async def handle(base_url: str) -> AsyncGenerator[str, None]:
    async with ask(base_url) as agent, AgentRuntime() as runtime:
        submitted = await runtime.submit(agent, "x", stream=True)
        async with submitted.stream() as updates:
            async for update in updates:
                if update.text:
                    yield update.text


WAYS: dict[str, Tell] = {
    "bare SDK, and a cursor of one's own": bare_sdk,
    "agent-framework-openai": framework_words,
    "pydantic-ai-slim": pydantic_words,
    "agentbg": handle,
}


async def watch(way: str, cut: Cut) -> Outcome:
    fault = CutAfterEvent(BEFORE + len(WORDS) // 2, HOW[cut])
    async with ResponsesServer(script=Script.text(" ".join(WORDS)), faults=[fault]) as server:
        async with aclosing(WAYS[way](server.base_url)) as words:
            told = [word.strip() async for word in words]

        different = set(told)
        assert different <= set(WORDS), f"{way} shows what was not said: {different - set(WORDS)}"
        missing, repeated = len(WORDS) - len(different), len(told) - len(different)
        return Outcome(way, cut, len(told), repeated, missing, server.count("cancel") > 0)


async def results(quick: bool) -> Results:
    return Results([await watch(way, cut) for way in WAYS for cut in ("broken", "ended")])
