"""What a run costs this process at scale: bytes per handle and per idle stream, CPU per submit and per decision, lag.

The service is in this process and answers at once, so that all that is measured is agentbg's own. Bytes are the
growth of this process at 100,000 handles, and, of far fewer, what `tracemalloc` counts.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentbg import Agent, AgentRuntime, BackgroundHandle, PollPolicy, RequestBudget
from agentbg.core.model import Cursor, EventKind, RunRef, Snapshot, StartRequest, StreamEvent
from agentbg.core.queue import PollQueue
from agentbg.core.status import RunStatus
from agentbg.errors import Unsupported
from agentbg.providers.base import Cap, Resume

from .measure import MICRO, MILLI, ROUNDS, Figure, percentile

NEVER = 3600.0
SEEN = 20
"""Events that an idle stream has brought before it fell silent."""


class Still:
    """A service in this process: it answers at once, its runs never end, and its streams fall silent."""

    name = "still"
    endpoint = "here"
    caps = Cap.STREAM_START
    resume = Resume.CURSOR
    retention = 1e9

    def __init__(self) -> None:
        self.started = 0

    def _begin(self) -> Snapshot:
        self.started += 1
        return self._show(RunRef(self.name, self.endpoint, {"response": f"resp_{self.started:048x}"}))

    def _show(self, ref: RunRef) -> Snapshot:
        return Snapshot(ref, RunStatus.RUNNING, "in_progress")

    async def start(self, request: StartRequest, *, key: str | None = None) -> Snapshot:
        return self._begin()

    async def open(
        self, request: StartRequest, *, key: str | None = None
    ) -> AsyncGenerator[Sequence[StreamEvent], None]:
        snapshot = self._begin()
        yield [StreamEvent(EventKind.STATUS, {"type": "response.created"}, cursor=0, snapshot=snapshot)]
        for number in range(1, SEEN + 1):
            yield [StreamEvent(EventKind.TEXT, _delta(number), " word", number, 0)]

        await asyncio.get_running_loop().create_future()

    async def poll(self, ref: RunRef) -> Snapshot:
        return self._show(ref)

    async def attach(self, ref: RunRef, *, after: Cursor | None = None) -> AsyncGenerator[Sequence[StreamEvent], None]:
        raise Unsupported("nothing is ever cut here")
        yield []

    async def cancel(self, ref: RunRef) -> Snapshot | None:
        return None

    async def respond(self, ref: RunRef, answers: object) -> Snapshot:
        raise Unsupported("nothing is ever asked here")

    async def delete(self, ref: RunRef) -> None:
        return None

    async def aclose(self) -> None:
        return None


def _delta(number: int) -> dict[str, object]:
    place = {"item_id": f"msg_{1:048x}", "output_index": 0, "content_index": 0}
    return {
        "type": "response.output_text.delta",
        "sequence_number": number,
        **place,
        "delta": " word",
        "logprobs": [],
    }


class Punctual(Still):
    """Notes how late each poll comes, when all are due `interval` after the one before."""

    def __init__(self, interval: float) -> None:
        super().__init__()
        self.interval = interval
        self.lags: list[float] = []
        self._answered: dict[str, float] = {}

    async def poll(self, ref: RunRef) -> Snapshot:
        now = time.monotonic()
        if ref.id in self._answered:
            self.lags.append(now - self._answered[ref.id] - self.interval)

        self._answered[ref.id] = now
        return self._show(ref)


@dataclass(frozen=True)
class Results:
    """What agentbg itself takes, and what was asked for at most."""

    figures: list[Figure]


def resident() -> int:
    """The bytes of memory that this process has; where the system does not tell, the most that it has had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def fill(count: int) -> tuple[float, float]:
    """So many live handles: bytes of each, and microseconds of CPU to submit one."""
    policy = PollPolicy(initial=NEVER, maximum=NEVER)
    async with Agent(Still()) as agent, AgentRuntime(poll=policy) as runtime:
        held = [await runtime.submit(agent, "x") for _ in range(100)]
        gc.collect()
        before, began = resident(), time.process_time()
        held += [await runtime.submit(agent, "x") for _ in range(count)]
        cpu = time.process_time() - began
        return (resident() - before) / count, cpu / count * MICRO


async def weigh(count: int, *, stream: bool) -> float:
    """Bytes per live run as `tracemalloc` counts them; with a stream, of a reader who waits for its next event, too."""
    policy = PollPolicy(initial=NEVER, maximum=NEVER)
    async with Agent(Still()) as agent, AgentRuntime(poll=policy) as runtime:

        async def read(handle: BackgroundHandle[str]) -> None:
            async for _ in handle.stream():
                pass

        async def hold(runs: int) -> list[object]:
            handles = [await runtime.submit(agent, "x", stream=stream) for _ in range(runs)]
            readers = [asyncio.create_task(read(handle)) for handle in handles] if stream else []
            await asyncio.sleep(0.5)
            return [*handles, *readers]

        held = await hold(50)
        gc.collect()
        tracemalloc.start()
        held += await hold(count)
        gc.collect()
        weight = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        for each in held:
            if isinstance(each, asyncio.Task):
                each.cancel()

        return weight


def decide(runs: int, decisions: int) -> float:
    """Microseconds to take the next of so many runs that is due, to draw its next time, and to put it back."""
    policy, queue, draw = PollPolicy(), PollQueue(), random.Random(1).random
    ids = [f"run_{number:032x}" for number in range(runs)]
    for run_id in ids:
        queue.set(run_id, policy.first(draw))

    began = time.process_time()
    for _ in range(decisions):
        now = queue.next_at() or 0.0
        run_id = queue.pop_due(now)
        assert run_id is not None, "one is due at that time"
        queue.set(run_id, now + policy.interval(now, draw))

    return (time.process_time() - began) / decisions * MICRO


async def lag(rate: int, seconds: float) -> list[float]:
    """Milliseconds by which polls come late, at so many a second."""
    interval = 5.0
    provider = Punctual(interval)
    policy = PollPolicy(initial=interval, growth=0, maximum=interval, jitter=0)
    async with Agent(provider) as agent, AgentRuntime(poll=policy, budget=RequestBudget(in_flight=1000)) as runtime:
        held = [await runtime.submit(agent, "x") for _ in range(int(rate * interval))]
        await asyncio.sleep(interval)
        provider.lags.clear()  # of what came while the runs were submitted
        await asyncio.sleep(seconds)
        assert all(handle.status is RunStatus.RUNNING for handle in held)

    return [late * MILLI for late in provider.lags]


async def results(quick: bool) -> Results:
    rate, seconds = (200, 1.0) if quick else (2000, 8.0)
    handles = 2_000 if quick else 100_000
    each, submit = await fill(handles)
    late = await lag(rate, seconds)
    rounds = 1 if quick else ROUNDS
    decision = statistics.median(decide(handles, 5_000 if quick else 100_000) for _ in range(rounds))
    streams = await weigh(100 if quick else 1000, stream=True)
    return Results(
        [
            Figure(f"memory per handle, at {handles:,}", each / 1000, "kB", 2.5),
            Figure("the same, as tracemalloc counts", await weigh(200 if quick else 3000, stream=False) / 1000, "kB"),
            Figure("memory per idle stream and its reader", streams / 1000, "kB", 40),
            Figure("CPU of a submit, the request excluded", submit, "µs", 30),
            Figure(f"CPU of a decision of the scheduler, {handles:,} runs", decision, "µs", 10),
            Figure(f"lag of a poll at {rate:,} polls a second, p50", percentile(late, 50), "ms"),
            Figure("the same, p99", percentile(late, 99), "ms", 10),
        ]
    )
