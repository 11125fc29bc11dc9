"""How much later an event is seen through a handle than by a bare reader; and whether many streams at once are kept up.

The events carry the time at which they were sent (see `stamps.py`). The bare reader is aiohttp, one split of lines and
one `json.loads` per event, no more. "Delay" is from the sending to the user's loop; all connections are made
before the first delta. This process keeps to one core where the system lets it; the server has the other.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from agentbg import AgentRuntime
from agentbg.stores import MemoryStore, SQLiteStore, Store

from .measure import MILLI, ask, percentile, process

RATE = 40.0
"""Deltas a second, per stream: a fast model."""

Read = Callable[[Callable[[str], None]], Awaitable[None]]
"""Starts a run and reads its stream; calls back with each delta."""
Reader = Callable[[str], AbstractAsyncContextManager[Read]]


@dataclass(frozen=True)
class Delays:
    """What one way saw of all events, all rounds together."""

    way: str
    streams: int
    milliseconds: list[float]
    sent: int
    cpu: float
    """The share of one core that this process took while events came."""

    @property
    def dropped(self) -> int:
        return self.sent - len(self.milliseconds)

    def percentile(self, percent: float) -> float:
        return percentile(self.milliseconds, percent)


@dataclass(frozen=True)
class Results:
    """The delays of each way, the bare reader first: at 2,000 events a second, and at 10,000."""

    some: list[Delays]
    many: list[Delays]


@asynccontextmanager
async def bare(base_url: str) -> AsyncGenerator[Read]:
    """The floor: aiohttp, and the JSON of each event."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read(note: Callable[[str], None]) -> None:
            rest = b""
            async with session.post(f"{base_url}/responses", json={"stream": True}) as answer:
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data:") and "delta" in (event := json.loads(line[5:])):
                            note(event["delta"])

        yield read


@asynccontextmanager
async def handle(base_url: str, store: Store, **options: Any) -> AsyncGenerator[Read]:
    """`async for update in handle.stream()`."""
    async with ask(base_url) as agent, AgentRuntime(store, **options) as runtime:

        async def read(note: Callable[[str], None]) -> None:
            submitted = await runtime.submit(agent, "x", stream=True)
            text: list[str] = []
            async with submitted.stream() as updates:
                async for update in updates:
                    if update.text:
                        text.append(update.text)
                        note(update.text)

            assert "".join(text) == (await submitted).text, "the stream is exact"
            assert submitted.reconnects == 0, "no connection was lost"

        yield read


@asynccontextmanager
async def sqlite_handle(base_url: str, **options: Any) -> AsyncGenerator[Read]:
    """With a journal on the disk."""
    with TemporaryDirectory() as folder:
        async with handle(base_url, SQLiteStore(Path(folder) / "runs.db"), **options) as read:
            yield read


WAYS: dict[str, Reader] = {
    "bare aiohttp": bare,
    "agentbg, MemoryStore": lambda url: handle(url, MemoryStore()),
    "agentbg, SQLiteStore": sqlite_handle,
    "agentbg, SQLiteStore, pipelined": lambda url: sqlite_handle(url, flush="pipelined"),
}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep to one core; processes that were started before are free."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def watch(way: str, streams: int, seconds: float) -> Delays:
    """Read so many streams at once, to their ends."""
    delays: list[float] = []
    first = [0.0, 0.0]

    def note(text: str) -> None:
        now = time.monotonic()
        if not delays:
            first[:] = now, time.process_time()

        delays.extend((now - float(stamp)) * MILLI for stamp in text.split())

    async with process("benchmarks.stamps", streams=streams, rate=RATE, seconds=seconds) as stamps:
        with one_core():
            async with WAYS[way](stamps.url) as read:
                await asyncio.gather(*(read(note) for _ in range(streams)))
                cpu = (time.process_time() - first[1]) / (time.monotonic() - first[0])

    return Delays(way, streams, delays, int(RATE * seconds) * streams, cpu)


def joined(rounds: list[Delays]) -> Delays:
    """All rounds as one."""
    delays = [delay for each in rounds for delay in each.milliseconds]
    cpu = sorted(each.cpu for each in rounds)[len(rounds) // 2]
    return Delays(rounds[0].way, rounds[0].streams, delays, sum(each.sent for each in rounds), cpu)


async def measure(streams: int, seconds: float, rounds: int) -> list[Delays]:
    taken: dict[str, list[Delays]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, before in taken.items():
            gc.collect()
            before.append(await watch(way, streams, seconds))

    return [joined(each) for each in taken.values()]


async def results(quick: bool) -> Results:
    seconds, rounds = (0.5, 1) if quick else (3.0, 3)
    return Results(await measure(50, seconds, rounds), await measure(50 if quick else 250, seconds, rounds))
