"""What the end-to-end tests share: clients that do not wait long, and the rules that every stream of updates keeps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRunResponseUpdate,
    Backoff,
    PollPolicy,
    RetryPolicy,
    StreamPolicy,
    UpdateType,
)
from agentbg.providers import OpenAIResponses
from agentbg.testing.server import ResponsesServer

ROOT = Path(__file__).parents[2]
SOON = Backoff(initial=0.01, maximum=0.02)
POLL = PollPolicy(initial=0.01, growth=0.0, maximum=0.02, faults=SOON)
STREAM = StreamPolicy(idle=10.0, quiet=10.0, reconnect=SOON, spread=0.0)
RESTLESS = StreamPolicy(idle=0.3, quiet=0.5, reconnect=SOON, spread=0.0)
"""For tests in which something hangs. Too strict for a machine under load."""
RETRY = RetryPolicy(backoff=SOON)
LIMIT = 20.0
"""Seconds after which a test has hung."""


def agent_of(url: str | ResponsesServer, *, timeout: float = 5.0, key: str = "any", **settings: Any) -> Agent[Any]:
    """An agent whose retries and polls come at once."""
    url = url if isinstance(url, str) else url.base_url
    provider = OpenAIResponses(settings.pop("model", "test"), base_url=url, api_key=key, timeout=timeout)
    return Agent(provider, **{"poll": POLL, "stream": STREAM, "retry": RETRY, **settings})


def background(token: Any = None) -> AgentRunOptions:
    """Options of a background run."""
    return AgentRunOptions(allow_background_responses=True, continuation_token=token)


def joined(updates: Iterable[AgentRunResponseUpdate]) -> str:
    """The text as a consumer holds it: what came since the last RESET."""
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def check(updates: Sequence[AgentRunResponseUpdate], text: str, *, after: int = 0, before: str = "") -> None:
    """Hold updates to their rules: every seq once, one END, and exactly this text."""
    assert [update.seq for update in updates] == list(range(after + 1, after + 1 + len(updates)))
    assert [update.type for update in updates].count(UpdateType.END) == 1
    last = updates[-1]
    assert last.type is UpdateType.END
    assert last.response is not None
    assert last.continuation_token is None
    reset = any(update.type is UpdateType.RESET for update in updates)
    assert joined(updates) == text if reset else before + joined(updates) == text
    assert last.response.text == text


async def collect(stream: AsyncIterator[AgentRunResponseUpdate]) -> list[AgentRunResponseUpdate]:
    """All updates, to the end."""
    async with asyncio.timeout(LIMIT):
        return [update async for update in stream]


@asynccontextmanager
async def bounded(seconds: float = LIMIT) -> AsyncIterator[None]:
    """Fail rather than hang."""
    async with asyncio.timeout(seconds):
        yield


async def python(code: str, *arguments: str, options: Sequence[str] = ()) -> tuple[Any, str]:
    """Run code in a new process: what it printed last, as JSON, and what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *options, "-c", code, *arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, err.decode()
    lines = out.decode().strip().splitlines()
    return json.loads(lines[-1]) if lines else None, err.decode()
