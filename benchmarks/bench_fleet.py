"""200 runs side by side in real time: how often each way polls, and how late it sees the ends.

The lengths are those of W2 (see `bench_polling.py`): 160 chats (median 8 s, sigma 0.7) and 40 of deep research (median
600 s, sigma 0.6), lognormal, at evenly spread quantiles. The clocks of all event loops, the service's among them, run
so fast that the longest run takes a minute: all libraries go by their own intervals, and everything in between is real,
the requests and the CPU that they take. The runs start one after the other, the long ones first. The service counts the
polls, and knows when each run ended. agentbg's ways run beside each other, each with a service of its own; the others
alone, since they need most of a core.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from pydantic_ai.exceptions import UnexpectedModelBehavior

from agentbg import AgentRunOptions, AgentRuntime, PollPolicy
from agentbg.learning import PREFIX
from agentbg.stores import MemoryStore

from . import haste
from .measure import ask, percentile, process, sdk
from .peers import Pydantic, background_agent
from .polling import POLL_COST, W2, learn
from .service import SECRET


@dataclass(frozen=True)
class Load:
    """Jobs: when each starts, and how long it takes, in seconds of the loop."""

    starts: list[float]
    lengths: list[float]
    factor: float
    """How many times as fast as others the loop's clock runs."""


@dataclass(frozen=True)
class Outcome:
    """What one way did."""

    way: str
    polls: list[int]
    delays: list[float]
    """Seconds of the loop from each run's end to when its user sees it."""
    cpu: float | None
    """Seconds of this process, real ones; None where it was shared."""

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


def workload(runs: int, real: float) -> Load:
    """W2 in a hurry: its longest run takes so many real seconds, and the last one starts when two thirds are over."""
    lengths = W2.even(runs)
    chats, research = lengths[: -runs // 5], lengths[-runs // 5 :][::-1]
    random.Random(1).shuffle(chats)
    within = research[0] * 2 / 3
    starts = [within * place / len(group) for group in (research, chats) for place in range(len(group))]
    return Load(starts, [*research, *chats], research[0] / real)


Run = Callable[[str], Awaitable[None]]
"""Asks for a run by its input, and returns when its end is seen."""
Way = Callable[[str], AbstractAsyncContextManager[Run]]
"""Opens a way, at a base URL."""


@asynccontextmanager
async def bare_sdk(base_url: str) -> AsyncGenerator[Run]:
    """The loop of OpenAI's guide."""
    async with sdk(base_url) as client:

        async def run(text: str) -> None:
            response = await client.responses.create(model="m", input=text, background=True)
            while response.status in ("queued", "in_progress"):
                await asyncio.sleep(2)
                response = await client.responses.retrieve(response.id)

        yield run


@asynccontextmanager
async def pydantic_ai(base_url: str) -> AsyncGenerator[Run]:
    """`openai_background`, whose interval is 2 s. It gives a run up after 1,000 polls."""
    async with sdk(base_url) as client:
        agent = background_agent(Pydantic(client))

        async def run(text: str) -> None:
            try:
                await agent.run(text)
            except UnexpectedModelBehavior as error:
                raise GivenUp from error

        yield run


@asynccontextmanager
async def exponential(base_url: str) -> AsyncGenerator[Run]:
    """`await handle`, with the default policy."""
    async with ask(base_url) as agent, AgentRuntime() as runtime:

        async def run(text: str) -> None:
            await (await runtime.submit(agent, text))

        yield run


@asynccontextmanager
async def adaptive(base_url: str) -> AsyncGenerator[Run]:
    """The same, with a schedule that has seen a hundred such runs end, and sees these."""
    policy, store = PollPolicy(schedule="adaptive"), MemoryStore()
    taught, _ = learn(policy, W2.random(100, seed=1))
    async with ask(base_url) as agent:
        await store.open()
        await store.note(PREFIX + json.dumps([agent.name, "m"]), taught.to_json())
        await store.aclose()
        async with AgentRuntime(store, poll=policy) as runtime:

            async def run(text: str) -> None:
                await (await runtime.submit(agent, text))

            yield run


@asynccontextmanager
async def webhooks(base_url: str) -> AsyncGenerator[Run]:
    """The service tells of each end; a poll brings the answer."""
    async with ask(base_url, webhook_secret=SECRET) as agent, AgentRuntime(agents=[agent], webhooks=True) as runtime:

        async def take(request: web.BaseRequest) -> web.Response:
            runtime.webhook(await request.read(), request.headers)
            return web.Response()

        async with listening(take) as url:
            options = AgentRunOptions(metadata={"webhook": url})

            async def run(text: str) -> None:
                await (await runtime.submit(agent, text, options=options))

            yield run


@asynccontextmanager
async def listening(take: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> AsyncGenerator[str]:
    """An address that takes requests for as long as the block runs."""
    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()


class GivenUp(Exception):
    """A way does not wait for a run's end."""


OTHERS: dict[str, Way] = {"bare SDK, every 2 s": bare_sdk, "pydantic-ai, background": pydantic_ai}
OURS: dict[str, Way] = {
    "agentbg, exponential": exponential,
    "agentbg, adaptive": adaptive,
    "agentbg, webhooks": webhooks,
}


async def watch(name: str, way: Way, load: Load, *, alone: bool) -> Outcome:
    """Let one way do all the jobs."""
    ended: dict[str, float] = {}
    async with process("benchmarks.service", factor=load.factor) as service:
        async with way(service.url) as run:
            loop = asyncio.get_running_loop()
            began, cpu = loop.time(), time.process_time()

            async def do(number: int) -> None:
                await asyncio.sleep(began + load.starts[number] - loop.time())
                await run(f"{number} {load.lengths[number]:.6f}")
                ended[str(number)] = loop.time()

            jobs = [do(number) for number in range(len(load.lengths))]
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            if errors := [error for error in outcomes if error is not None and not isinstance(error, GivenUp)]:
                raise errors[0]

            cpu = time.process_time() - cpu

        seen: dict[str, tuple[float, int]] = json.loads(await asyncio.to_thread(service.end))

    delays = [at - seen[number][0] for number, at in ended.items()]
    lost = len(load.lengths) - len(ended)
    name = f"{name}; gave up on {lost} of {len(load.lengths)}" if lost else name
    return Outcome(name, [polls for _, polls in seen.values()], delays, cpu if alone else None)


async def watch_all(load: Load) -> list[Outcome]:
    outcomes = [await watch(name, way, load, alone=True) for name, way in OTHERS.items()]
    ours = (watch(name, way, load, alone=False) for name, way in OURS.items())
    return [*outcomes, *await asyncio.gather(*ours)]


def results(quick: bool) -> Results:
    load = workload(20, 5) if quick else workload(200, 60)
    return Results(load, haste.run(watch_all(load), load.factor))
