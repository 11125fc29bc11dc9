"""What the tests of the OpenAI provider share: an address, a question, and the service's answers to it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import httpx
import pytest
import respx

from agentbg.core.model import JSON, RunRef, StartRequest, StreamEvent

ON_THE_SDK = pytest.mark.parametrize("api", ["sdk"], indirect=True)
"""For a test of what only respx can do: stand in for the SDK's transport."""
BASE = "http://api.test/v1"
QUESTION = StartRequest([{"type": "message", "role": "user", "content": "Why?"}])
REF = RunRef("openai", "elsewhere", {"response": "resp_1"})
QUEUED: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "queued", "output": []}
COMPLETED: dict[str, Any] = {
    **QUEUED,
    "status": "completed",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Because.", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}


def ok(body: Any = QUEUED, **headers: str) -> httpx.Response:
    return httpx.Response(200, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def sse(*events: JSON) -> httpx.Response:
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return httpx.Response(200, text=body, headers={"content-type": "text/event-stream; charset=utf-8"})


def sent(route: respx.Route) -> Any:
    """The JSON body of the last request."""
    return json.loads(route.calls.last.request.content)


async def gather(stream: AsyncGenerator[Sequence[StreamEvent], None]) -> list[StreamEvent]:
    return [event async for batch in stream for event in batch]


def kinds(events: Iterable[StreamEvent]) -> list[str]:
    return [event.kind.value for event in events]
