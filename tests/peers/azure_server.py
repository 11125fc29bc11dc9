"""A Responses server that others wrote (azure-ai-agentserver-responses), with a scripted answer.

The input says what happens, as JSON: {"deltas": 50, "delay": 0.01, "end": "completed"}. `delay` is in seconds, before
each delta; `end` is completed, incomplete or failed. Other input gets the defaults of `Script`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from azure.ai.agentserver.responses import CreateResponse, ResponseContext, ResponseEventStream

from examples.main_job.host import new_host, serve, wait


@dataclass(frozen=True)
class Script:
    """What the server answers."""

    deltas: int = 5
    delay: float = 0.0
    end: str = "completed"

    @classmethod
    def parse(cls, text: str) -> Script:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls()

    @property
    def text(self) -> str:
        """The whole answer: numbered words, so that a lost, repeated or swapped one shows."""
        return "".join(map(self.delta, range(self.deltas)))

    @staticmethod
    def delta(number: int) -> str:
        return f"w{number} "


host = new_host()


@host.response_handler
async def respond(request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event) -> AsyncIterator[Any]:
    script = Script.parse(await context.get_input_text())
    response = ResponseEventStream(response_id=context.response_id, request=request)
    yield response.emit_created()
    yield response.emit_in_progress()
    message = response.add_output_item_message()
    yield message.emit_added()
    text = message.add_text_content()
    yield text.emit_added()
    for number in range(script.deltas):
        if script.delay and await wait(cancelled, script.delay):
            return

        yield text.emit_delta(script.delta(number))

    yield text.emit_text_done()
    yield text.emit_done()
    yield message.emit_done()
    match script.end:
        case "completed":
            yield response.emit_completed()
        case "incomplete":
            yield response.emit_incomplete(reason="max_output_tokens")
        case _:
            yield response.emit_failed(code="server_error", message="as the script says")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A scripted Responses server on the loopback.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    asyncio.run(serve(host, parser.parse_args().port))
