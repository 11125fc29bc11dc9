"""SmolLM2-135M-Instruct behind a real Responses server: no key, no network, an ordinary CPU.

    python -m examples.main_job.model_server --port 8000

Texts, streams, conversations, function calls and structured outputs all go the real way, and the JSON in them is valid,
since llama.cpp samples only what the schema allows. What it says is another matter: a model of this size writes fluent
nonsense, and a function that it is given is always called, once for each question.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol
from uuid import uuid4

from azure.ai.agentserver.responses import (
    CreateResponse,
    ResponseContext,
    ResponseEventStream,
    ResponsesAgentServerHost,
    models,
)

from .host import EXPORT, READY, new_host, serve
from .schemas import Schema, one_of
from .turn import Function, Message, Turn, read_turn

Chunk = dict[str, Any]
Events = AsyncIterator[Any]


class ChatModel(Protocol):
    """What answers."""

    def chunks(
        self, messages: Sequence[Message], limit: int, schema: Schema | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The answer as chunks of a chat completion; with a schema, a JSON text that fits it."""
        ...


class ModelError(Exception):
    """llama.cpp refused, such as a question that is longer than its context."""


class Answer:
    """One answer: turns the model's chunks into deltas, and remembers the text and how it ended."""

    def __init__(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        self._chunks = chunks
        self.text = ""
        self.complete = False
        self.usage: models.ResponseUsage | None = None

    async def deltas(self, cancelled: asyncio.Event) -> AsyncGenerator[str, None]:
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                if cancelled.is_set():
                    return

                self._note_end(chunk)
                if delta := chunk["choices"][0]["delta"].get("content"):
                    self.text += delta
                    yield delta

    def _note_end(self, chunk: Chunk) -> None:
        if "error" in chunk:
            raise ModelError(chunk["error"]["message"])

        self.complete = chunk["choices"][0]["finish_reason"] == "stop"
        if timings := chunk.get("timings"):
            read, written = timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]
            self.usage = models.ResponseUsage(
                input_tokens=read,
                output_tokens=written,
                total_tokens=read + written,
                input_tokens_details={"cached_tokens": timings["cache_n"]},
                output_tokens_details={"reasoning_tokens": 0},
            )


def new_server(model: ChatModel) -> ResponsesAgentServerHost:
    """A Responses server that asks the model."""
    host = new_host()

    @host.response_handler
    async def respond(
        request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event
    ) -> AsyncIterator[Any]:
        turn = await read_turn(request, context)
        response = ResponseEventStream(response_id=context.response_id, request=request)
        yield response.emit_created()
        yield response.emit_in_progress()
        try:
            if turn.functions:
                function = await chosen(model, turn, cancelled)
                messages = turn.told(f"Call {function.name} ({function.description}). Its arguments, as JSON:")
                answer = Answer(model.chunks(messages, turn.limit, function.parameters))
                events = call_events(response, function, answer, cancelled)
            else:
                answer = Answer(model.chunks(turn.messages, turn.limit, turn.schema))
                events = message_events(response, answer, cancelled)

            async for event in events:
                yield event
        except ModelError as error:
            yield response.emit_failed(message=str(error))
            return

        if answer.complete:
            yield response.emit_completed(usage=answer.usage)
        else:
            yield response.emit_incomplete(reason="max_output_tokens", usage=answer.usage)

    return host


async def chosen(model: ChatModel, turn: Turn, cancelled: asyncio.Event) -> Function:
    """The function that the model would call."""
    functions = {function.name: function for function in turn.functions}
    if len(functions) > 1:
        menu = "\n".join(f"{name}: {function.description}" for name, function in functions.items())
        answer = Answer(model.chunks(turn.told(f"Which one function helps?\n{menu}"), turn.limit, one_of(functions)))
        async for _ in answer.deltas(cancelled):
            pass

        if answer.complete:
            return functions[json.loads(answer.text)]

    return turn.functions[0]


async def message_events(response: ResponseEventStream, answer: Answer, cancelled: asyncio.Event) -> Events:
    """The one message of a response: its beginning, a delta for each token, its end."""
    message = response.add_output_item_message()
    yield message.emit_added()
    text = message.add_text_content()
    yield text.emit_added()
    async with aclosing(answer.deltas(cancelled)) as deltas:
        async for delta in deltas:
            yield text.emit_delta(delta)

    yield text.emit_text_done()
    yield text.emit_done()
    yield message.emit_done()


async def call_events(
    response: ResponseEventStream, function: Function, answer: Answer, cancelled: asyncio.Event
) -> Events:
    """The one call of a response: its beginning, its arguments as they come, its end."""
    call = response.add_output_item_function_call(function.name, f"call_{uuid4().hex}")
    yield call.emit_added()
    async with aclosing(answer.deltas(cancelled)) as deltas:
        async for delta in deltas:
            yield call.emit_arguments_delta(delta)

    yield call.emit_arguments_done(answer.text)
    yield call.emit_done()


async def main(port: int, greeting: str) -> None:
    from .model import Model

    model = Model()
    try:
        await serve(new_server(model), port, greeting)
    finally:
        model.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SmolLM2 behind a Responses server on the loopback.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--export", action="store_true", help="print what a shell is to know")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):  # while the model loads
        asyncio.run(main(options.port, EXPORT if options.export else READY))
