"""How everything here is measured: in turns, medians of several rounds, ratios within one run, servers of their own."""

from __future__ import annotations

import asyncio
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import openai

from agentbg import Agent
from agentbg.providers import OpenAIResponses

MICRO = 1e6
MILLI = 1e3
ROUNDS = 5
KEY = "none"
"""The local servers ask for no key; the SDK does."""
PATIENCE = 3600.0
"""Seconds. A machine that is slow for a moment, or a clock that runs fast, is not to end a measurement."""

Measure = Callable[[], Awaitable[float]]
"""Measures one way once, in the unit of its comparison."""


@dataclass(frozen=True)
class Comparison:
    """Ways of doing the same thing, measured in turns. The first is what the others are compared with."""

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    """What was measured in each round, by way."""
    goals: Mapping[str, float] = field(default_factory=dict)
    """The ratio that is asked for at most, by way."""

    def median(self, way: str) -> float:
        return statistics.median(self.values[way])

    def ratio(self, way: str) -> float:
        """Of the medians: to the first way."""
        return self.median(way) / self.median(next(iter(self.values)))


@dataclass(frozen=True)
class Figure:
    """One number, and the bound that is asked for, if any."""

    name: str
    value: float
    unit: str
    goal: float | None = None


async def compare(
    name: str, ways: Mapping[str, Measure], rounds: int, *, unit: str = "µs", goals: Mapping[str, float] | None = None
) -> Comparison:
    """Measure round by round, so that a machine whose speed drifts favours none of the ways."""
    values: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            gc.collect()
            values[way].append(await measure())

    return Comparison(name, unit, values, goals or {})


async def cpu_of(work: Sequence[Awaitable[object]]) -> float:
    """Seconds of this process's CPU, all its threads', until all of the work is done."""
    began = time.process_time()
    await asyncio.gather(*work)
    return time.process_time() - began


def results_of(name: str, quick: bool) -> Any:
    """What one benchmark has to say, by the name of its module without `bench_`. For a process of its own."""
    found = import_module(f"benchmarks.bench_{name}").results(quick)
    return asyncio.run(found) if asyncio.iscoroutine(found) else found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not below so many percent of them."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


class Server:
    """A server in a process of its own. Starting and ending it blocks; `process` does both beside the event loop."""

    def __init__(self, module: str, options: Mapping[str, object]) -> None:
        flags = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen([sys.executable, "-m", module, *flags], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]
        """Its base URL, which it says once it is ready."""

    def end(self) -> str:
        """What else it had to say. It can be called twice."""
        if self._process.returncode is not None:
            return ""

        self._process.terminate()
        return self._process.communicate()[0]


@asynccontextmanager
async def process(module: str, **options: object) -> AsyncGenerator[Server]:
    """A server that runs for as long as the block does."""
    started = await asyncio.to_thread(Server, module, options)
    try:
        yield started
    finally:
        await asyncio.to_thread(started.end)


def server(**options: float) -> AbstractAsyncContextManager[Server]:
    """The server of `agentbg.testing`, with a script."""
    return process("agentbg.testing.server", **options)


def sdk(base_url: str, **settings: Any) -> openai.AsyncOpenAI:
    """The bare SDK. Nothing is sent twice: a request that fails is to be seen."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=PATIENCE, **settings)


@asynccontextmanager
async def ask(base_url: str, **settings: Any) -> AsyncGenerator[Agent[str]]:
    """An agent at the same server, with a client like that."""
    client = sdk(base_url, **settings)
    async with client, Agent(OpenAIResponses("m", client=client, timeout=PATIENCE)) as agent:
        yield agent
