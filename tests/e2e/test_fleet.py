"""A thousand runs in flight on one loop: all right, none polled more than its schedule says, 32 requests at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from agentbg import AgentRuntime, PollPolicy, RequestBudget, RunStatus
from agentbg.testing.server import Exchange, Fault, Pause, Reply, ResponsesServer, Script, Step
from agentbg.testing.server.fault import Serve

from .helpers import STREAM, agent_of, bounded

RUNS = 1000
POLLING = PollPolicy(initial=1.0, growth=0.1, maximum=15.0)


@dataclass
class Gauge:
    """How many requests the server was at, at a time."""

    now: int = 0
    most: int = 0

    def count(self, body: bytes) -> Iterator[Step]:
        """A body whose sending counts as work, from the request's arrival to the last byte."""
        self.now += 1
        self.most = max(self.most, self.now)
        return self._send(body)

    def _send(self, body: bytes) -> Iterator[Step]:
        try:
            yield Pause(0.005)
            yield body
        finally:
            self.now -= 1


@dataclass(frozen=True)
class Counted(Fault):
    """No fault: each request takes a few milliseconds, and is counted meanwhile."""

    gauge: Gauge = field(default_factory=Gauge, kw_only=True)
    times: int | None = field(default=None, kw_only=True)

    def answer(self, exchange: Exchange, serve: Serve) -> Reply:
        reply = serve()
        assert isinstance(reply.body, bytes)
        return reply.with_body(self.gauge.count(reply.body), content_length=str(len(reply.body)))


def poll_times(server: ResponsesServer) -> dict[str, list[float]]:
    """When each run was polled, in seconds after its creation, by the server's log."""
    times: dict[str, list[float]] = defaultdict(list)
    for request in server.requests:
        if "poll" in request.kinds:
            run = server.runs[request.route[1]]
            times[run.id].append(request.time - run.born)

    return times


async def test_a_thousand_runs_are_driven_by_32_requests_at_a_time_each_by_its_schedule() -> None:
    gauge = Gauge()
    scripts = [Script.text(f"run {i}").lasting(running=1.0 + i % 10 / 10) for i in range(RUNS)]
    faults = [Counted(on="POST", gauge=gauge), Counted(on="GET", gauge=gauge)]
    async with ResponsesServer(script=scripts, faults=faults) as server, agent_of(server) as agent, bounded(120):
        async with AgentRuntime(poll=POLLING, budget=RequestBudget(in_flight=32)) as runtime:
            handles = await asyncio.gather(*(runtime.submit(agent, "go") for _ in range(RUNS)))
            waiters = [handle.result() for handle in handles for _ in range(3)]
            responses = await asyncio.gather(*waiters)
            polls = [handle.polls for handle in handles]

        assert 24 <= gauge.most <= 32
        assert server.count("create") == RUNS
        for response in responses:
            assert response.status is RunStatus.COMPLETED
            assert response.text == server.runs[response.response_id or ""].text

        assert len({response.response_id for response in responses}) == RUNS
        assert sum(polls) == server.count("poll"), "three waiters, one poller"

        for times in poll_times(server).values():
            for earlier, later in pairwise(times):
                own = (POLLING.initial + POLLING.growth * earlier) * (1 - POLLING.jitter)
                assert later - earlier >= own - 0.001

        first = sorted(times[0] for times in poll_times(server).values())
        assert first[RUNS // 2] > 0.1, "the first polls are spread over the first interval"


async def test_many_waiters_and_looks_cost_no_poll() -> None:
    async with ResponsesServer(script=Script.text("done").lasting(running=0.3)) as server, agent_of(server) as agent:
        poll = PollPolicy(initial=0.1, growth=0.0, maximum=0.1)
        async with AgentRuntime(poll=poll, stream=STREAM) as runtime, bounded():
            handle = await runtime.submit(agent, "go")
            again = await runtime.get(handle.id)
            token = await runtime.resume(str(handle.token), agent=agent)
            waiters = [each.result() for each in (handle, again, token) for _ in range(50)]
            waiters += [each.wait() for each in (handle, again, token) for _ in range(50)]
            for _ in range(100):
                assert handle.status.live
                assert not handle.done()

            await asyncio.gather(*waiters)
            assert handle.polls == server.count("poll") <= 5


async def test_streams_do_not_keep_polls_waiting() -> None:
    """Open streams do not count: forty of them leave one request at a time enough room."""
    scripts = [Script.story(5).lasting(running=60)] * 40 + [Script.text("done").lasting(running=0.05)]
    async with ResponsesServer(script=scripts) as server, agent_of(server) as agent, bounded():
        poll = PollPolicy(initial=0.02, growth=0.0, maximum=0.02)
        async with AgentRuntime(poll=poll, stream=STREAM, budget=RequestBudget(in_flight=1)) as runtime:
            streams = [await runtime.submit(agent, "go", stream=True) for _ in range(40)]
            polled = await runtime.submit(agent, "go")
            assert (await polled.result()).text == "done"
            assert all(handle.status.live for handle in streams)
