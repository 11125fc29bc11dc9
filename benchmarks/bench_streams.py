"""CPU per text event: a stream by the bare SDK, by peers, and through a handle, which journals and numbers it.

All ways read the same runs by the same request, `GET /responses/{id}?stream=true`, which the bare SDK calls
`client.responses.retrieve(id, stream=True)`. "Replay" is one finished run, many events in a chunk; "live" is 50 runs
at once, each event in its own packet. CPU is this process's, connections included; the server is another process.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentbg import AgentRuntime
from agentbg.core.model import RunRef
from agentbg.core.token import ContinuationToken
from agentbg.stores import MemoryStore, SQLiteStore, Store

from .measure import MICRO, ROUNDS, Comparison, Measure, ask, compare, cpu_of, sdk, server
from .peers import framework_stream, pydantic_stream

Read = Callable[[str], Awaitable[int]]
"""Reads a run's stream to its end; how many characters of text it had."""
Reader = Callable[[str], AbstractAsyncContextManager[Read]]
"""Opens a way to read, at a base URL."""


@dataclass(frozen=True)
class Load:
    """Runs to be read at once."""

    name: str
    streams: int
    deltas: int
    delay: float
    """Seconds between the events of a run; 0 for as fast as they are read."""
    queued: float
    """Seconds in which all readers can connect before the first delta."""
    goals: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """CPU per text event, and what was read."""

    replay: Comparison
    live: Comparison
    replayed: Load
    lived: Load


@asynccontextmanager
async def bare_sdk(base_url: str) -> AsyncGenerator[Read]:
    """`async for event in stream`, as people write it."""
    async with sdk(base_url) as client:

        async def read(run_id: str) -> int:
            stream = await client.responses.retrieve(run_id, stream=True)
            return sum([len(event.delta) async for event in stream if event.type == "response.output_text.delta"])

        yield read


@asynccontextmanager
async def handle(base_url: str, store: Store, **options: Any) -> AsyncGenerator[Read]:
    """The same through handles."""
    async with ask(base_url) as agent, AgentRuntime(store, **options) as runtime:

        async def read(run_id: str) -> int:
            ref = RunRef("openai", agent.provider.endpoint, {"response": run_id})
            resumed = await runtime.resume(ContinuationToken(ref, streamed=True), agent=agent)
            async with resumed.stream() as updates:
                return sum([len(update.text) async for update in updates])

        yield read


@asynccontextmanager
async def sqlite_handle(base_url: str, **options: Any) -> AsyncGenerator[Read]:
    """With a journal on the disk."""
    with TemporaryDirectory() as folder:
        async with handle(base_url, SQLiteStore(Path(folder) / "runs.db"), **options) as read:
            yield read


WAYS: dict[str, Reader] = {
    "bare SDK": bare_sdk,
    "agent-framework-openai": framework_stream,
    "pydantic-ai-slim": pydantic_stream,
    "agentbg, MemoryStore": lambda url: handle(url, MemoryStore()),
    "agentbg, SQLiteStore": sqlite_handle,
    "agentbg, SQLiteStore, pipelined": lambda url: sqlite_handle(url, flush="pipelined"),
    "agentbg, SQLiteStore, checkpoint": lambda url: sqlite_handle(url, journal="checkpoint"),
    "agentbg, SQLiteStore, no journal": lambda url: sqlite_handle(url, journal="off"),
}


async def begin(base_url: str, count: int) -> list[str]:
    """The ids of so many streamed background runs."""
    ids: list[str] = []
    async with sdk(base_url) as client:
        for _ in range(count):
            stream = await client.responses.create(model="m", input="x", background=True, stream=True)
            ids.append((await anext(aiter(stream))).response.id)
            await stream.close()

    return ids


def per_event(reader: Reader, base_url: str, load: Load) -> Measure:
    """Microseconds of CPU per text event."""

    async def measure() -> float:
        ids = await begin(base_url, load.streams)
        lengths: list[int] = []
        async with reader(base_url) as read:

            async def note(run_id: str) -> None:
                lengths.append(await read(run_id))

            cpu = await cpu_of([note(run_id) for run_id in ids])

        assert len(set(lengths)) == 1, "every way reads the same text"
        assert lengths[0] > load.deltas, "of at least one character and a blank per delta"
        return cpu / load.streams / load.deltas * MICRO

    return measure


async def measure(load: Load, rounds: int) -> Comparison:
    async with server(deltas=load.deltas, delay=load.delay, queued=load.queued) as service:
        measures = {way: per_event(reader, service.url, load) for way, reader in WAYS.items()}
        return await compare(load.name, measures, rounds, goals=load.goals)


async def results(quick: bool) -> Results:
    memory, sqlite = "agentbg, MemoryStore", "agentbg, SQLiteStore"
    replay = Load("replay", 1, 500 if quick else 5000, 0, 0, {memory: 1 / 15, sqlite: 1 / 8})
    live = Load("live, 50 streams", 50, 10 if quick else 75, 0.02, 1, {memory: 1 / 5, sqlite: 1 / 4})
    rounds = 1 if quick else ROUNDS
    return Results(await measure(replay, rounds), await measure(live, rounds), replay, live)
