"""One budget for all requests to a service, through the runtime, in virtual time: bounds, fairness, storms, outages."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import pairwise

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    PollPolicy,
    RequestBudget,
    RunStatus,
    RuntimeClosed,
    ServiceUnavailable,
    StreamPolicy,
)
from agentbg.core.pace import LONGEST_PAUSE, SPREAD
from agentbg.core.schedule import FLOOR_SPREAD
from agentbg.errors import RunExpired
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time

HOUR = 3600.0
EVERY_2_S = PollPolicy(initial=2.0, growth=0.0, maximum=2.0, max_age=None)


def runtime(budget: RequestBudget | None = None, poll: PollPolicy = EVERY_2_S, **settings) -> AgentRuntime:
    draw = random.Random(5).random
    return AgentRuntime(budget=budget, poll=poll, draw=draw, clock=settings.pop("clock", VirtualClock()), **settings)


def lasting(seconds: float, **settings) -> ScriptedProvider:
    return ScriptedProvider.text("done", seconds=seconds, deltas=1, **settings)


def times(provider: ScriptedProvider, *methods: str) -> list[float]:
    return [call.at for call in provider.calls if not methods or call.method in methods]


def most_in(seconds: float, at: list[float]) -> int:
    """The most of these within any so many seconds."""
    return max(bisect_right(at, time + seconds + 1e-9) - place for place, time in enumerate(at))


def now() -> float:
    return asyncio.get_running_loop().time()


async def submit(running: AgentRuntime, agent: Agent[str], count: int):
    return await asyncio.gather(*(running.submit(agent, "x") for _ in range(count)))


# --- the user's bounds ---


@virtual_time
async def test_one_request_per_second_is_shared_fairly_by_500_runs():
    provider = lasting(3 * HOUR, latency=0.05)
    async with runtime(RequestBudget(per_second=1)) as running:
        await submit(running, Agent(provider), 500)
        since = now() + 1000
        await asyncio.sleep(6000)

    sent = times(provider)
    assert min(later - earlier for earlier, later in pairwise(sent)) > 0.99
    polls = {run: [call.at for call in provider.calls if call.run == run and call.at >= since] for run in provider.runs}
    counts = Counter(len(each) for each in polls.values())
    assert set(counts) <= {9, 10, 11}, "5,000 turns for 500 runs"
    gaps = [later - earlier for each in polls.values() for earlier, later in pairwise(each)]
    assert max(gaps) <= 500 * 1.2, "their intervals have a jitter of 15 %"
    assert sum(counts.values()) == 500


@virtual_time
async def test_a_start_and_a_cancel_do_not_wait_for_500_polls():
    provider = lasting(3 * HOUR)
    async with runtime(RequestBudget(per_second=1), stream=StreamPolicy(idle=HOUR, quiet=120)) as running:
        agent = Agent(provider)
        handles = await submit(running, agent, 500)
        await asyncio.sleep(100)
        began = now()
        await running.submit(agent, "x")
        assert now() - began <= 2.0
        began = now()
        await handles[0].cancel()
        assert now() - began <= 2.0


@virtual_time
async def test_polls_go_where_they_are_worth_most():
    """Runs that want to be asked every 10 s, and every 40 s: when there are too many, they slow down alike."""
    scripts = [RunScript([At(0, status="running", poll_after=10.0 if n % 2 else 40.0)]) for n in range(40)]
    provider = ScriptedProvider(*scripts)
    async with runtime(RequestBudget(per_second=1)) as running:
        await submit(running, Agent(provider), 40)
        since = now() + 200
        await asyncio.sleep(4000)

    polls = Counter(provider.runs[call.run].number % 2 for call in provider.calls if call.at >= since and call.run)
    assert polls[0] / polls[1] == pytest.approx(4.0, rel=0.2)


@virtual_time
async def test_ten_thousand_cancellations_at_once():
    provider = lasting(HOUR, latency=0.01)
    poll = PollPolicy(initial=20.0, growth=0.0, maximum=20.0)
    async with runtime(RequestBudget(per_second=1000, in_flight=64), poll) as running:
        agent = Agent(provider)
        handles = await submit(running, agent, 10_000)
        began = now()
        cancelling = asyncio.gather(*(handle.cancel() for handle in handles))
        await asyncio.sleep(1)
        fresh = await running.submit(agent, "x")
        assert now() - began <= 1.2, "a start does not wait for them"
        await cancelling
        cancelled = now()
        for handle in handles:
            await handle.wait()

        assert fresh.status.live

    cancels = times(provider, "cancel")
    assert len(cancels) == 10_000
    assert cancelled - began <= 21
    assert most_in(1.0, times(provider)) <= 1000 + 100
    assert len([at for at in times(provider, "poll") if began <= at <= began + 5]) >= 1500, "polls go on"
    assert {handle.status for handle in handles} == {RunStatus.CANCELLED}


@virtual_time
async def test_no_more_are_under_way_than_allowed_attaches_too():
    provider = lasting(60, latency=1.0)
    async with runtime(RequestBudget(in_flight=5)) as running:
        agent = Agent(provider)
        handles = await asyncio.gather(*(running.submit(agent, "x", stream=n % 2 == 0) for n in range(60)))
        provider.cut(0, times=30)
        assert {(await handle).text for handle in handles} == {"done"}

    busy = [(call.at, call.at + 1.0) for call in provider.calls]
    assert max(sum(begin <= at < end for begin, end in busy) for at, _ in busy) <= 5


@virtual_time
async def test_open_streams_leave_room():
    provider = lasting(HOUR)
    async with runtime(RequestBudget(in_flight=1)) as running:
        agent = Agent(provider)
        for _ in range(20):
            await running.submit(agent, "x", stream=True)

        assert (provider.open_streams, running._gates.stats()[0].in_flight) == (20, 0)


@virtual_time
async def test_a_machine_that_slept_for_an_hour_makes_nothing_good():
    provider = lasting(3 * HOUR)
    async with runtime(RequestBudget(per_second=10, burst=5)) as running:
        await submit(running, Agent(provider), 100)
        await asyncio.sleep(100)
        asyncio.get_running_loop()._jumper.now += HOUR
        await asyncio.sleep(100)

    sent = times(provider)
    for seconds in (0.0, 0.5, 1.0, 10.0):
        assert most_in(seconds, sent) <= 5 + 10 * seconds


@virtual_time
async def test_the_clock_on_the_wall_may_jump():
    provider = lasting(HOUR)
    clock = VirtualClock()
    async with runtime(RequestBudget(per_second=10), clock=clock) as running:
        await submit(running, Agent(provider), 100)
        for jump in (-86_400.0, 86_400.0, 1e9):
            clock.start += jump
            await asyncio.sleep(100)

    late = [at for at in times(provider) if at > 20]
    assert most_in(1.0, late) <= 11
    assert len(late) == pytest.approx(10 * (now() - 20), rel=0.01)


@virtual_time
async def test_who_shares_a_budget():
    """All agents of a runtime with one service and key; another endpoint, and another key, has its own."""
    one, same, other, foreign = (lasting(HOUR, endpoint=name) for name in ("a", "a", "b", "a"))
    foreign.credential = "another key"
    async with runtime(RequestBudget(per_second=1)) as running:
        began = now()
        await asyncio.gather(*(running.submit(Agent(provider), "x") for provider in (one, same, other, foreign)))
        assert now() - began == 1.0
        stats = running._gates.stats()

    assert [(each.endpoint, each.sent["start"]) for each in stats] == [("a", 2), ("b", 1), ("a", 1)]


@virtual_time
async def test_the_figures():
    provider = lasting(60)
    async with runtime(RequestBudget(per_second=10, burst=2)) as running:
        agent = Agent(provider)
        handles = await submit(running, agent, 10)
        streamed = await running.submit(agent, "x", stream=True)
        await handles[0].cancel()
        await streamed
        [stats] = running._gates.stats()

    assert (stats.provider, stats.endpoint, stats.in_flight, stats.down) == ("scripted", "scripted", 0, False)
    assert stats.sent == {
        "start": 11,
        "poll": provider.count("poll"),
        "cancel": 1,
        "attach": 0,
        "respond": 0,
    }
    assert 2 <= stats.per_second <= 10
    assert (stats.allowed_per_second, stats.paused_for) == (10, 0.0)


# --- a service in trouble ---


class Limited(ScriptedProvider):
    """Takes so many requests per second, and refuses the others."""

    limit = 50

    async def poll(self, ref):
        self.refuse_if_many()
        return await super().poll(ref)

    async def start(self, request, *, key=None):
        self.refuse_if_many()
        return await super().start(request, key=key)

    def refuse_if_many(self) -> None:
        self.asked = [at for at in getattr(self, "asked", []) if at > now() - 1.0]
        self.asked.append(now())
        self.refused = getattr(self, "refused", 0)
        if len(self.asked) > self.limit:
            self.refused += 1
            raise ServiceUnavailable("Too many requests", status_code=429, retry_after=1.0, unsent=True)


@virtual_time
async def test_a_storm_of_429_settles_near_what_the_service_takes():
    provider = Limited.text("done", seconds=HOUR, deltas=1, latency=0.1)
    async with runtime() as running:
        await asyncio.gather(*(running.submit(Agent(provider), "x") for _ in range(40)))
        provider.limit = 10  # forty runs want twenty polls per second
        since = now() + 20
        provider.refused = 0
        await asyncio.sleep(320)

    answered = len([at for at in times(provider, "poll") if at > since])
    assert answered >= 300 * 10 * 0.5
    assert provider.refused <= answered * 0.15


@virtual_time
async def test_a_refusal_slows_the_whole_endpoint_and_no_other():
    provider, other = lasting(HOUR), lasting(HOUR, endpoint="other")
    async with runtime() as running:
        await submit(running, Agent(provider), 100)
        await submit(running, Agent(other), 10)
        await asyncio.sleep(20)
        provider.fail("poll", ServiceUnavailable("busy", status_code=503, retry_after=30.0, unsent=True))
        await asyncio.sleep(20)
        [stats, _] = running._gates.stats()
        assert 10 < stats.paused_for <= 14
        await asyncio.sleep(80)
        refused = next(call.at for call in provider.calls if call.error is not None)
        after = [at for at in times(provider) if at > refused]
        assert refused + 30 <= after[0] <= refused + 34
        seconds = [bisect_left(after, after[0] + n + 1) - bisect_left(after, after[0] + n) for n in range(30)]
        assert seconds[0] <= 35
        assert max(seconds[-5:]) >= 45, "fifty per second, as before"

    assert len([at for at in times(other, "poll") if refused < at < refused + 30]) >= 140


@virtual_time
async def test_a_wish_beyond_reason_is_not_heeded_in_full():
    provider = lasting(HOUR)
    provider.fail("poll", ServiceUnavailable("busy", status_code=429, retry_after=1e9, unsent=True))
    async with runtime() as running:
        await (await running.submit(Agent(provider), "x"))

    first, second, *_ = times(provider, "poll")
    assert second - first <= LONGEST_PAUSE * (1 + SPREAD) * (1 + FLOOR_SPREAD) + 1


@virtual_time
async def test_a_service_that_was_down_for_an_hour_is_not_overrun():
    """2,000 runs. It is tried by a few; when it is back, requests grow by a tenth per second until all have been
    seen."""
    provider = lasting(3 * HOUR, latency=0.05)
    poll = PollPolicy(initial=15.0, growth=0.0, maximum=15.0)
    async with runtime(RequestBudget(in_flight=200), poll) as running:
        handles = await submit(running, Agent(provider), 2000)
        await asyncio.sleep(45)
        down = now()
        provider.fail("poll", ServiceUnavailable("refused"), times=None)
        provider.fail("start", ServiceUnavailable("refused", unsent=True), times=None)
        await asyncio.sleep(HOUR)
        up = now()
        provider.faults.clear()
        await asyncio.sleep(120)
        assert all(handle.status.live for handle in handles)

    tries = [at for at in times(provider) if down + 60 < at < up]
    assert len(tries) <= 3 * HOUR / 15, "three each half minute, by backoff with jitter"
    after = [at for at in times(provider) if at >= up]
    assert after[0] - up <= 31
    seen: dict[str, float] = {}
    for call in provider.calls:
        if call.at >= up and call.run:
            seen.setdefault(call.run, call.at)

    assert len(seen) == 2000
    assert max(seen.values()) - up <= 31 + 35
    assert most_in(0.1, after) <= 60
    assert most_in(1.0, after) <= 350, "2,000 runs that are asked each 15 s are 133 per second"


@virtual_time
async def test_one_sick_run_slows_nobody():
    provider = lasting(HOUR)
    provider.fail("poll", ServiceUnavailable("broken", status_code=500), run=1, times=None)
    async with runtime() as running:
        await submit(running, Agent(provider), 5)
        await asyncio.sleep(1000)
        [stats] = running._gates.stats()

    assert stats.allowed_per_second is None
    healthy = [run.id for run in provider.runs.values() if run.number != 1]
    for run in healthy:
        polls = [call.at for call in provider.calls if call.run == run and call.method == "poll"]
        assert max(later - earlier for earlier, later in pairwise(polls)) <= 2.31


@virtual_time
async def test_a_start_at_a_service_that_is_down_fails_soon_and_is_not_sent():
    provider = lasting(HOUR)
    async with runtime() as running:
        agent = Agent(provider)
        handles = await submit(running, agent, 20)
        provider.fail("poll", ServiceUnavailable("refused"), times=None)
        await asyncio.sleep(120)
        began = now()
        with pytest.raises(ServiceUnavailable, match="Not sent, since the service is in trouble: refused"):
            await running.submit(agent, "x")

        assert now() - began <= 10
        assert provider.count("start") == 20
        with pytest.raises(ServiceUnavailable, match="Not sent"):
            await handles[0].cancel()

        provider.faults.clear()
        await asyncio.sleep(60)
        await running.submit(agent, "x")


# --- those who wait ---


@virtual_time
async def test_a_deadline_does_not_wait_for_a_turn():
    provider = lasting(HOUR)
    async with runtime(RequestBudget(per_second=0.01)) as running:
        agent = Agent(provider)
        handle = await running.submit(agent, "x", deadline=150)
        asyncio.get_running_loop().create_task(running.submit(agent, "x"))  # it takes the second turn
        began = now()
        with pytest.raises(RunExpired):
            await handle

        assert now() - began == pytest.approx(150, abs=1)
        assert provider.count("poll") <= 1


@virtual_time
async def test_a_run_that_has_ended_leaves_the_line():
    provider = lasting(HOUR)
    async with runtime(RequestBudget(per_second=0.05)) as running:
        agent = Agent(provider)
        handles = await submit(running, agent, 2)
        await asyncio.sleep(5)
        assert running._gates.stats()[0].waiting == 2
        await asyncio.gather(*(handle.cancel() for handle in handles))
        await asyncio.gather(*(handle.wait() for handle in handles))
        assert running._gates.stats()[0].waiting == 0


@virtual_time
async def test_closing_does_not_wait_for_turns():
    provider = lasting(HOUR)
    async with runtime(RequestBudget(per_second=0.001)) as running:
        agent = Agent(provider)
        handle = await running.submit(agent, "x")
        late = asyncio.create_task(running.submit(agent, "x"))
        polled = asyncio.create_task(handle.result())
        await asyncio.sleep(100)
        began = now()

    assert now() - began <= 10.1, "starts under way have their grace"
    for task in (late, polled):
        with pytest.raises(RuntimeClosed):
            await task

    assert provider.count("start") == 1


@virtual_time
async def test_a_runtime_with_thousands_of_waiting_polls_closes_quietly(caplog):
    provider = lasting(HOUR, latency=0.5)
    running = runtime(RequestBudget(in_flight=2))
    async with running:
        handles = await submit(running, Agent(provider), 2000)
        await asyncio.sleep(5)
        assert running.stats().endpoints[0].waiting > 1500

    at_the_end = running.stats().endpoints[0]
    assert (at_the_end.waiting, at_the_end.in_flight) == (0, 0)
    assert sum(at_the_end.sent.values()) == len(provider.calls)
    assert not caplog.records
    for handle in handles:
        with pytest.raises(RuntimeClosed):
            await handle.wait()


@virtual_time
async def test_500_streams_taken_up_at_one_request_per_second_wait_for_it_and_connect_once():
    story = "A story that is long enough to be told in twenty pieces."
    provider, store = ScriptedProvider(RunScript.text(story, seconds=1000, deltas=20, queued=0)), MemoryStore()
    agent = Agent(provider)
    async with runtime(store=store) as running:
        await asyncio.gather(*(running.submit(agent, "x", stream=True) for _ in range(500)))

    async with runtime(RequestBudget(per_second=1), store=store, agents=[agent]) as running:
        handles = await running.list()
        assert [response.text for response in await running.gather(handles)] == [story] * 500

    assert provider.count("attach") == 500
    assert all(handle.reconnects == 1 for handle in handles)
