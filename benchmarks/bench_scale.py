"""What a large fleet costs in one process: memory per live handle, CPU per submit and per decision, and wake lag.

    python -m benchmarks.bench_scale [--quick]

The service is in the process and answers at once, so that all that is measured is agentbg's own. Where it matters, the
bare service is measured in the same run and taken off. Memory is what tracemalloc counts, and how the resident set
grew; both hold the run's record, its request with an input of a few letters, and, in a MemoryStore, the stored run.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agentbg import Agent, AgentRuntime, PollPolicy
from agentbg.core.messages import Command, Due, Polled, Started, WakeAt
from agentbg.core.model import RunRef, Snapshot, StartRequest
from agentbg.core.queue import PollQueue
from agentbg.core.record import RunRecord
from agentbg.core.run import Run
from agentbg.core.schedule import StreamPolicy
from agentbg.core.status import RunStatus
from agentbg.handle import BackgroundHandle
from agentbg.providers.base import Cap, Resume
from agentbg.stores import MemoryStore, SQLiteStore, Store

MICRO, MILLI = 1e6, 1e3
LATER = PollPolicy(initial=3600, maximum=3600)
AT_ONCE = 50
"""Submits under way at a time."""


@dataclass
class Service:
    """A provider without a wire: it names a run, and then shows that it goes on."""

    name: str = "openai"
    endpoint: str = "3d0d0d1a2b3c"
    caps: Cap = Cap.PREVIOUS | Cap.CANCEL
    resume: Resume = Resume.CURSOR
    retention: float = 30 * 86_400.0
    started: int = 0
    on_poll: Callable[[RunRef], None] | None = None

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        self.started += 1
        ref = RunRef(self.name, self.endpoint, {"response": f"resp_{self.started:048x}"})
        return Snapshot(ref, RunStatus.QUEUED, "queued")

    async def poll(self, ref: RunRef) -> Snapshot:
        if self.on_poll is not None:
            self.on_poll(ref)

        return Snapshot(ref, RunStatus.QUEUED, "queued")

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Weight:
    """What a live handle weighs, in bytes."""

    runs: int
    store: str
    traced: float
    """By tracemalloc."""
    resident: float
    """By the growth of the resident set, without tracemalloc."""
    places: Sequence[tuple[str, float]] = field(default=(), repr=False)
    """Bytes per handle by file and line, the most first."""


@dataclass(frozen=True)
class Cost:
    """CPU microseconds of one call: the medians of the repeats."""

    each: float
    bare: float
    """Of that, the service's own."""

    @property
    def own(self) -> float:
        return self.each - self.bare


@dataclass(frozen=True)
class Lag:
    """Milliseconds from when a poll was due to when the service got it, at so many polls per second."""

    rate: float
    p50: float
    p99: float
    worst: float
    cpu: float
    """The share of one core that it took."""


@asynccontextmanager
async def opened(store: Store | None = None, poll: PollPolicy = LATER) -> AsyncIterator[tuple[AgentRuntime, Agent[str]]]:
    agent = Agent(Service())  # type: ignore[arg-type]  # of a provider it has what runs that are only polled need
    async with agent, AgentRuntime(store, poll=poll) as runtime:
        yield runtime, agent


async def submit(runtime: AgentRuntime, agent: Agent[str], runs: int) -> list[BackgroundHandle[str]]:
    handles: list[BackgroundHandle[str]] = []
    for _ in range(runs // AT_ONCE):
        handles += await asyncio.gather(*[runtime.submit(agent, "x") for _ in range(AT_ONCE)])

    return handles


async def weigh(runs: int, store: Callable[[], Store] = MemoryStore, *, places: bool = False) -> Weight:
    """Memory per live handle."""
    kept = store()
    async with opened(kept) as (runtime, agent):
        await submit(runtime, agent, 100)
        gc.collect()
        before = psutil.Process().memory_info().rss
        handles = await submit(runtime, agent, runs)
        gc.collect()
        resident = (psutil.Process().memory_info().rss - before) / len(handles)

    del handles
    gc.collect()
    async with opened(store()) as (runtime, agent):
        await submit(runtime, agent, 100)
        gc.collect()
        tracemalloc.start()
        handles = await submit(runtime, agent, runs)
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] / len(handles)
        snapshot = tracemalloc.take_snapshot() if places else None
        tracemalloc.stop()

    return Weight(runs, type(kept).__name__, traced, resident, _by_place(snapshot, len(handles)) if snapshot else ())


def _by_place(snapshot: tracemalloc.Snapshot, count: int) -> list[tuple[str, float]]:
    weights: Counter[str] = Counter()
    for each in snapshot.statistics("lineno"):
        frame = each.traceback[0]
        weights[f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"] += each.size

    return [(place, size / count) for place, size in weights.most_common() if size / count >= 1]


async def submit_cost(runs: int, repeat: int) -> Cost:
    """CPU of `runtime.submit`, into a MemoryStore, one after the other."""
    whole: list[float] = []
    bare: list[float] = []
    for _ in range(repeat):
        async with opened() as (runtime, agent):
            await submit(runtime, agent, 100)
            gc.collect()
            began = time.process_time()
            for _ in range(runs):
                await runtime.submit(agent, "x")

            whole.append((time.process_time() - began) / runs)
            request = agent.request("x")
            began = time.process_time()
            for _ in range(runs):
                await agent.provider.start(request)

            bare.append((time.process_time() - began) / runs)

    return Cost(statistics.median(whole) * MICRO, statistics.median(bare) * MICRO)


def decision_cost(runs: int, repeat: int) -> Cost:
    """CPU of what the core does about one poll: take the run that is due, say "poll", take the answer, say when next."""
    shown = Snapshot(RunRef("openai", "e", {"response": "r"}), RunStatus.RUNNING, "in_progress")
    taken: list[float] = []
    for _ in range(repeat):
        queue, fleet = PollQueue(), {f"run_{n:032x}": _machine(f"run_{n:032x}") for n in range(runs)}
        for run_id, run in fleet.items():
            _queue(queue, run_id, run.feed(Started(shown), 0.0))

        gc.collect()
        began = time.process_time()
        for _ in range(runs):
            now = queue.next_at()
            assert now is not None
            run_id = queue.pop_due(now)
            assert run_id is not None
            run = fleet[run_id]
            run.feed(Due(), now)
            _queue(queue, run_id, run.feed(Polled(shown), now))

        taken.append((time.process_time() - began) / runs)

    return Cost(statistics.median(taken) * MICRO, 0.0)


def _machine(run_id: str) -> Run:
    record = RunRecord(run_id, "agent", "openai", "e", stream=False, created_at=0.0, request=StartRequest(()))
    return Run(record, poll=PollPolicy(), stream=StreamPolicy(), draw=random.random, now=0.0)


def _queue(queue: PollQueue, run_id: str, commands: Sequence[Command]) -> None:
    for command in commands:
        if isinstance(command, WakeAt):
            queue.set(run_id, command.at)


async def wake_lag(rate: float, runs: int, seconds: float) -> Lag:
    """How late polls are. Each run is polled at a fixed interval after its last answer."""
    interval = runs / rate
    async with opened(poll=PollPolicy(initial=interval, growth=0, maximum=interval, jitter=0)) as (runtime, agent):
        answered: dict[str, float] = {}
        lags: list[float] = []

        def note(ref: RunRef) -> None:
            now = time.perf_counter()
            before = answered.get(ref.id)
            if before is not None:
                lags.append(now - before - interval)

            answered[ref.id] = now

        service = agent.provider
        assert isinstance(service, Service)
        service.on_poll = note
        await submit(runtime, agent, runs)
        await asyncio.sleep(interval * 1.2)  # every run has been polled once, at its random moment
        lags.clear()
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        taken, cpu = time.perf_counter() - began, time.process_time() - cpu

    cuts = statistics.quantiles(lags, n=100)
    return Lag(len(lags) / taken, cuts[49] * MILLI, cuts[98] * MILLI, max(lags) * MILLI, cpu / taken)


async def run(*, quick: bool) -> None:
    runs, repeat = (2_000, 1) if quick else (100_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        for store in (MemoryStore, lambda: SQLiteStore(Path(folder) / f"{time.monotonic_ns()}.db", durable=False)):
            weight = await weigh(runs, store, places="--places" in sys.argv)
            print(
                f"a live handle of {weight.runs:,}, {weight.store}: {weight.traced:,.0f} bytes traced, "
                f"{weight.resident:,.0f} resident",
                flush=True,
            )
            for place, size in weight.places:
                print(f"    {size:8.0f}  {place}")

    cost = await submit_cost(runs // 20, repeat)
    print(f"a submit: {cost.own:.1f} us of CPU, and {cost.bare:.1f} us of the service")
    cost = decision_cost(min(runs, 20_000), repeat)
    print(f"a scheduler decision: {cost.own:.1f} us")
    lag = await wake_lag(500 if quick else 2_000, min(runs, 20_000), 1 if quick else 10)
    print(
        f"wake lag at {lag.rate:,.0f} polls/s: p50 {lag.p50:.2f} ms, p99 {lag.p99:.2f} ms, worst {lag.worst:.2f} ms; "
        f"{lag.cpu:.0%} of a core"
    )


def main() -> None:
    asyncio.run(run(quick="--quick" in sys.argv[1:]))


if __name__ == "__main__":
    main()
