"""CPU per poll and per stream event, through a handle and by the bare SDK, in one run; and what a handle weighs.

    python benchmarks/bench_client.py [--repeat 5] [--quick]

The server is `agentbg.testing.server` in a process of its own; CPU is this process's. Figures are medians of the
repeats; the two ways take turns, so that a machine whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import openai

from agentbg import Agent, AgentRuntime, PollPolicy, RequestBudget
from agentbg.providers import OpenAIResponses
from agentbg.stores import MemoryStore, SQLiteStore, Store

MICRO = 1e6


@dataclass(frozen=True)
class Sample:
    """CPU seconds spent, for so many polls or events."""

    cpu: float
    count: int

    @property
    def each(self) -> float:
        return self.cpu / self.count * MICRO


Way = Callable[[], Awaitable[Sample]]


@contextmanager
def server(**options: float) -> Iterator[str]:
    """A server process with a script; its base URL."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentbg.testing.server", "--port=0", *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait()


def ask(base_url: str) -> Agent[str]:
    """An agent at the server."""
    return Agent(OpenAIResponses("m", base_url=base_url, api_key="none"))


async def sdk_polls(base_url: str, runs: int, seconds: float, interval: float) -> Sample:
    """The loop that people write."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
        created = [await client.responses.create(model="m", input="x", background=True) for _ in range(runs)]
        polls, until = 0, time.perf_counter() + seconds

        async def watch(run_id: str) -> None:
            nonlocal polls
            while time.perf_counter() < until:
                await client.responses.retrieve(run_id)
                polls += 1
                await asyncio.sleep(interval)

        began = time.process_time()
        await asyncio.gather(*(watch(response.id) for response in created))
        return Sample(time.process_time() - began, polls)


async def handle_polls(base_url: str, runs: int, seconds: float, interval: float) -> Sample:
    """The same through a runtime."""
    policy = PollPolicy(initial=interval, growth=0, maximum=interval, jitter=0)
    async with ask(base_url) as agent, AgentRuntime(poll=policy, budget=RequestBudget(in_flight=runs)) as runtime:
        handles = [await runtime.submit(agent, "x") for _ in range(runs)]
        before, began = sum(handle.polls for handle in handles), time.process_time()
        await asyncio.sleep(seconds)
        cpu = time.process_time() - began
        return Sample(cpu, sum(handle.polls for handle in handles) - before)


async def sdk_events(base_url: str, streams: int) -> Sample:
    """`async for event in stream`, as people write it."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:

        async def read() -> int:
            stream = await client.responses.create(model="m", input="x", background=True, stream=True)
            return sum([1 async for _ in stream])

        began = time.process_time()
        counts = await asyncio.gather(*(read() for _ in range(streams)))
        return Sample(time.process_time() - began, sum(counts))


async def handle_events(base_url: str, streams: int, store: Store) -> Sample:
    """The same through handles: journaled, numbered, resumable."""
    async with ask(base_url) as agent, AgentRuntime(store) as runtime:

        async def read() -> int:
            handle = await runtime.submit(agent, "x", stream=True)
            async with handle.stream() as updates:
                return sum([1 async for _ in updates])

        began = time.process_time()
        counts = await asyncio.gather(*(read() for _ in range(streams)))
        return Sample(time.process_time() - began, sum(counts))


async def weigh(base_url: str, runs: int) -> float:
    """Bytes per live handle, the request's own included."""
    policy = PollPolicy(initial=3600, maximum=3600)
    async with ask(base_url) as agent, AgentRuntime(poll=policy) as runtime:
        await asyncio.gather(*[runtime.submit(agent, "x") for _ in range(100)])
        gc.collect()
        tracemalloc.start()
        handles = []
        for _ in range(runs // 50):
            handles += await asyncio.gather(*[runtime.submit(agent, "x") for _ in range(50)])

        gc.collect()
        weight = tracemalloc.get_traced_memory()[0] / len(handles)
        tracemalloc.stop()
        return weight


async def compare(name: str, repeat: int, bare: Way, ways: dict[str, Way]) -> None:
    samples: dict[str, list[Sample]] = {"bare SDK": [], **{way: [] for way in ways}}
    for _ in range(repeat):
        for way, measure in {"bare SDK": bare, **ways}.items():
            gc.collect()
            samples[way].append(await measure())

    base = statistics.median(sample.each for sample in samples["bare SDK"])
    for way, taken in samples.items():
        each = statistics.median(sample.each for sample in taken)
        print(f"{name:<34} {way:<22} {each:>9.1f} us   {each / base:>6.2f}x   ({taken[0].count} counted)")


async def run(repeat: int, quick: bool) -> None:
    print(f"Python {platform.python_version()}, openai {openai.__version__}, medians of {repeat}\n")
    seconds = 1.0 if quick else 4.0
    with server(deltas=1, running=3600) as url:
        await compare(
            "CPU per poll, 50 runs",
            repeat,
            lambda: sdk_polls(url, 50, seconds, 0.05),
            {"handle": lambda: handle_polls(url, 50, seconds, 0.05)},
        )
        weight = await weigh(url, 500 if quick else 3000)
        print(f"\n{'a live handle':<34} {'MemoryStore':<22} {weight:>9.0f} bytes, {2**20 / weight:.0f} per MB\n")

    with TemporaryDirectory() as folder:

        def sqlite() -> Store:
            return SQLiteStore(Path(folder) / f"{time.monotonic_ns()}.db")

        for name, streams, options in (
            ("CPU per event, replay", 1, {"deltas": 1000 if quick else 5000}),
            ("CPU per event, live, 50 streams", 50, {"deltas": 20 if quick else 100, "delay": 0.02}),
        ):
            with server(**options) as url:
                await compare(
                    name,
                    repeat,
                    lambda url=url, streams=streams: sdk_events(url, streams),
                    {
                        "handle, MemoryStore": lambda url=url, streams=streams: handle_events(
                            url, streams, MemoryStore()
                        ),
                        "handle, SQLiteStore": lambda url=url, streams=streams: handle_events(url, streams, sqlite()),
                    },
                )
                print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small counts, to see that it runs")
    options = parser.parse_args()
    asyncio.run(run(options.repeat, options.quick))


if __name__ == "__main__":
    main()
