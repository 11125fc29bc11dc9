"""200 runs side by side in real time: how often each way polls, and how late it sees the ends.

The lengths are those of W2 (see `bench_polling.py`): 160 chats (median 8 s, sigma 0.7) and 40 of deep research (median
600 s, sigma 0.6), lognormal, at evenly spread quantiles. All times, the ways' intervals too, are shortened by one
factor, so that the longest run takes a minute: the loop that polls every 2 s polls every 52 ms. The runs start within
40 s, the long ones first. The service counts the polls, and knows when each run ended. agentbg's ways run beside each
other, each with a service of its own; the others alone, since they need most of a core.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from statistics import NormalDist

from agentbg import AgentRuntime, PollPolicy

from .measure import ask, percentile, process, sdk
from .peers import Pydantic, background_agent

POLL_COST = 0.2
"""Seconds of waiting that one poll is worth."""


@dataclass(frozen=True)
class Load:
    """Jobs: when each starts, and how long it takes, in seconds of this machine."""

    starts: list[float]
    lengths: list[float]
    scale: float
    """Seconds of the workload in a second of this machine."""


@dataclass(frozen=True)
class Outcome:
    """What one way did. Delays are in seconds of the workload."""

    way: str
    polls: list[int]
    delays: list[float]
    cpu: float | None
    """Seconds of this process; None where it was shared."""

    @property
    def polls_per_run(self) -> float:
        return statistics.fmean(self.polls)

    @property
    def mean_delay(self) -> float:
        return statistics.fmean(self.delays)

    @property
    def late(self) -> float:
        return percentile(self.delays, 95)

    @property
    def cost(self) -> float:
        """Seconds: what the polls of a run are worth, and its delay."""
        return POLL_COST * self.polls_per_run + self.mean_delay


@dataclass(frozen=True)
class Results:
    """The outcome of each way on the same load."""

    load: Load
    outcomes: list[Outcome]


def quantiles(count: int, median: float, sigma: float) -> list[float]:
    """So many lengths of a lognormal distribution, the longest first."""
    normal = NormalDist(math.log(median), sigma)
    return [math.exp(normal.inv_cdf((place + 0.5) / count)) for place in reversed(range(count))]


def workload(runs: int, longest: float, within: float) -> Load:
    """W2, shortened until its longest run takes `longest` seconds, with starts `within` so many."""
    research, chats = quantiles(runs // 5, 600, 0.6), quantiles(runs - runs // 5, 8, 0.7)
    draw = random.Random(1)
    draw.shuffle(chats)
    starts = [within * place / len(group) for group in (research, chats) for place in range(len(group))]
    scale = research[0] / longest
    return Load(starts, [length / scale for length in (*research, *chats)], scale)


Run = Callable[[str], Awaitable[None]]
"""Asks for a run by its input, and returns when its end is seen."""
Way = Callable[[str, float], AbstractAsyncContextManager[Run]]
"""Opens a way, at a base URL and on a scale."""


@asynccontextmanager
async def bare_sdk(base_url: str, scale: float) -> AsyncGenerator[Run]:
    """The loop of OpenAI's guide."""
    async with sdk(base_url) as client:

        async def run(text: str) -> None:
            response = await client.responses.create(model="m", input=text, background=True)
            while response.status in ("queued", "in_progress"):
                await asyncio.sleep(2 / scale)
                response = await client.responses.retrieve(response.id)

        yield run


@asynccontextmanager
async def pydantic_ai(base_url: str, scale: float) -> AsyncGenerator[Run]:
    """`openai_background`, whose interval is 2 s."""
    async with sdk(base_url) as client:
        agent = background_agent(Pydantic(client, 2 / scale))

        async def run(text: str) -> None:
            await agent.run(text)

        yield run


@asynccontextmanager
async def handles(base_url: str, policy: PollPolicy) -> AsyncGenerator[Run]:
    """`await handle`."""
    async with ask(base_url) as agent, AgentRuntime(poll=policy) as runtime:

        async def run(text: str) -> None:
            await (await runtime.submit(agent, text))

        yield run


def scaled(scale: float, policy: PollPolicy | None = None) -> PollPolicy:
    """The default policy, in the load's time."""
    policy = policy or PollPolicy()
    return PollPolicy(initial=policy.initial / scale, maximum=policy.maximum / scale)


OTHERS: dict[str, Way] = {"bare SDK, every 2 s": bare_sdk, "pydantic-ai, background": pydantic_ai}
OURS: dict[str, Way] = {"agentbg, exponential": lambda url, scale: handles(url, scaled(scale))}


async def watch(name: str, way: Way, load: Load, *, alone: bool) -> Outcome:
    """Let one way do all the jobs."""
    ended: dict[str, float] = {}
    async with process("benchmarks.service") as service:
        async with way(service.url, load.scale) as run:
            loop = asyncio.get_running_loop()
            began, cpu = loop.time(), time.process_time()

            async def do(number: int) -> None:
                await asyncio.sleep(began + load.starts[number] - loop.time())
                await run(f"{number} {load.lengths[number]:.6f}")
                ended[str(number)] = time.monotonic()

            await asyncio.gather(*(do(number) for number in range(len(load.lengths))))
            cpu = time.process_time() - cpu

        seen: dict[str, tuple[float, int]] = json.loads(await asyncio.to_thread(service.end))

    delays = [(at - seen[number][0]) * load.scale for number, at in ended.items()]
    return Outcome(name, [polls for _, polls in seen.values()], delays, cpu if alone else None)


async def results(quick: bool) -> Results:
    load = workload(20, 2, 1) if quick else workload(200, 60, 40)
    outcomes = [await watch(name, way, load, alone=True) for name, way in OTHERS.items()]
    ours = (watch(name, way, load, alone=False) for name, way in OURS.items())
    return Results(load, [*outcomes, *await asyncio.gather(*ours)])
