"""A Responses server that others wrote (azure-ai-agentserver-responses), with a scripted answer.

The input says what happens, as JSON: {"deltas": 50, "delay": 0.01, "end": "completed"}. `delay` is in seconds, before
each delta; `end` is completed, incomplete or failed. Other input gets the defaults of `Script`. With "rounds", so many
rounds of two calls of the function `look` come first, and the answer is what all of them gave, as the server keeps it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Iterator
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
    rounds: int = 0

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


def said(item: Any) -> str:
    """The text of a message."""
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def calling(response: ResponseEventStream, number: int) -> Iterator[Any]:
    """The events of one call."""
    call = response.add_output_item_function_call("look", f"call_{number}")
    yield call.emit_added()
    arguments = json.dumps({"number": number})
    for letter in arguments:
        yield call.emit_arguments_delta(letter)

    yield call.emit_arguments_done(arguments)
    yield call.emit_done()


@host.response_handler
async def respond(request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event) -> AsyncIterator[Any]:
    seen = [*await context.get_history(), *await context.get_input_items()]
    asked = [place for place, item in enumerate(seen) if item.get("role") == "user"]
    script = Script.parse(await context.get_input_text() or said(seen[asked[-1]]))
    outputs = [item["output"] for item in seen[asked[-1] :] if item["type"] == "function_call_output"]
    response = ResponseEventStream(response_id=context.response_id, request=request)
    yield response.emit_created()
    yield response.emit_in_progress()
    if len(outputs) < 2 * script.rounds:
        for number in (len(outputs), len(outputs) + 1):
            for event in calling(response, number):
                yield event

        yield response.emit_completed()
        return

    message = response.add_output_item_message()
    yield message.emit_added()
    text = message.add_text_content()
    yield text.emit_added()
    for delta in outputs or map(script.delta, range(script.deltas)):
        if script.delay and await wait(cancelled, script.delay):
            return

        yield text.emit_delta(delta)

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
