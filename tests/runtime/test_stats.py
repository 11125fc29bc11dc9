"""What `runtime.stats()` counts. In virtual time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg import (
    Agent,
    AgentRuntime,
    Lag,
    PollPolicy,
    RequestBudget,
    RequestRejected,
    RunStatus,
    RuntimeStats,
    StoreError,
)
from agentbg.stats import Histogram
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time


def runtime(store=None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def test_a_runtime_that_was_never_opened_has_counted_nothing():
    stats = AgentRuntime().stats()
    assert (stats.runs, stats.ended, stats.live, stats.requests, stats.requests_per_second) == ({}, {}, 0, 0, 0.0)
    assert stats.detection_lag == stats.scheduler_lag == Lag()
    assert stats.endpoints == []
    with pytest.raises(FrozenInstanceError):
        stats.polls = 1  # type: ignore[misc]


@virtual_time
async def test_runs_are_counted_by_how_they_stand_and_how_they_ended():
    scripts = [
        RunScript.text("good", seconds=100),
        RunScript.asks(),
        RunScript([At(0, status="running"), At(5, status="failed")]),
        RunScript.text("good", seconds=100),
    ]
    provider = ScriptedProvider(*scripts)
    async with runtime() as running:
        agent = Agent(provider)
        handles = [await running.submit(agent, "x") for _ in range(4)]
        await asyncio.sleep(20)
        stats = running.stats()
        assert stats.runs == {RunStatus.RUNNING: 2, RunStatus.INPUT_REQUIRED: 1}
        assert (stats.ended, stats.live) == ({RunStatus.FAILED: 1}, 3)
        await handles[3].cancel()
        await handles[0]
        assert running.stats().ended == {
            RunStatus.FAILED: 1,
            RunStatus.CANCELLED: 1,
            RunStatus.COMPLETED: 1,
        }

    assert running.stats().ended[RunStatus.COMPLETED] == 1, "also once it is closed"


@virtual_time
async def test_a_start_that_fails_leaves_no_run_behind():
    provider = ScriptedProvider().fail("start", RequestRejected("400"))
    async with runtime() as running:
        with pytest.raises(RequestRejected):
            await running.submit(Agent(provider), "x")

        stats = running.stats()
        assert (stats.runs, stats.ended, stats.requests) == ({}, {RunStatus.FAILED: 1}, 1)


@virtual_time
async def test_polls_that_fail_or_show_nothing_new_are_told_apart():
    script = RunScript([At(0, status="running"), At(10, text="News."), At(30, status="completed")])
    provider = ScriptedProvider(script).fail("poll", call=2)
    async with runtime(poll=PollPolicy(initial=4, growth=0, maximum=4, jitter=0)) as running:
        handle = await running.submit(Agent(provider), "x")
        await handle
        stats = running.stats()
        assert stats.polls == handle.polls == provider.count("poll")
        assert (stats.polls_failed, stats.polls_wasted) == (1, stats.polls - 3), "it has news, and ends"
        assert stats.requests == stats.polls + 1


@virtual_time
async def test_streams_that_are_open_are_counted_while_they_are():
    provider = ScriptedProvider.text("done", seconds=50)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        await asyncio.sleep(10)
        assert running.stats().open_streams == 1
        await handle
        await asyncio.sleep(1)
        assert running.stats().open_streams == 0


@virtual_time
async def test_requests_are_counted_by_endpoint_and_added_up():
    here, there = (
        ScriptedProvider.text("done", seconds=1000),
        ScriptedProvider.text("done", endpoint="there", seconds=1),
    )
    async with runtime(poll=PollPolicy(schedule="fixed", initial=1)) as running:
        for provider in (here, here, there):
            await running.submit(Agent(provider), "x")

        await asyncio.sleep(60.25)
        stats = running.stats()
        assert [each.endpoint for each in stats.endpoints] == ["scripted", "there"]
        assert stats.requests == len(here.calls) + len(there.calls)
        assert stats.requests_per_second == pytest.approx(2, rel=0.3)


@virtual_time
async def test_the_bound_on_requests_is_seen_at_work():
    provider = ScriptedProvider.text("done", seconds=5, latency=10.0)
    async with runtime(budget=RequestBudget(in_flight=2)) as running:
        starting = [asyncio.ensure_future(running.submit(Agent(provider), "x")) for _ in range(5)]
        await asyncio.sleep(1)
        [endpoint] = running.stats().endpoints
        assert (endpoint.in_flight, endpoint.waiting) == (2, 3)
        await running.gather(await asyncio.gather(*starting))


@virtual_time
async def test_the_lag_behind_the_services_own_word_is_measured():
    class Dated(ScriptedProvider):
        async def poll(self, ref):
            shown = await super().poll(ref)
            return replace(shown, completed_at=clock.wall() - 3.0) if shown.status.terminal else shown

    clock = VirtualClock()
    async with AgentRuntime(clock=clock) as running:
        agent = Agent(Dated.text("done", seconds=5))
        await running.gather([await running.submit(agent, "x") for _ in range(9)])
        lag = running.stats().detection_lag
        assert (lag.count, lag.longest) == (9, pytest.approx(3.0))
        assert lag.p50 == lag.p99 == pytest.approx(3.0, rel=0.19)


@virtual_time
async def test_a_run_that_the_store_fails_is_lost_to_this_runtime_and_counted_so():
    class Full(MemoryStore):
        async def save(self, record, updates=()):
            if record.polls:
                raise StoreError("The disk is full.")

            await super().save(record, updates)

    async with runtime(Full()) as running:
        handle = await running.submit(Agent(ScriptedProvider.text("done")), "x")
        with pytest.raises(StoreError):
            await handle

        stats = running.stats()
        assert (stats.lost, stats.live, stats.ended) == (1, 0, {})


@virtual_time
async def test_taking_up_counts_too_and_wake_ups_are_on_time():
    store, agent = MemoryStore(), Agent(ScriptedProvider.text("done", seconds=60))
    async with runtime(store) as running:
        for _ in range(3):
            await running.submit(agent, "x")

    async with runtime(store, agents=[agent]) as running:
        stats: RuntimeStats = running.stats()
        assert stats.live == 3
        await running.gather(await running.list())
        stats = running.stats()
        assert (stats.live, stats.ended) == (0, {RunStatus.COMPLETED: 3})
        assert (stats.scheduler_lag.count, stats.scheduler_lag.longest) == (stats.polls, 0.0)
        assert stats.commits >= 3


# --- the instruments ---


@given(st.lists(st.floats(-1, 200_000), min_size=1, max_size=300))
def test_percentiles_are_at_most_a_step_too_high(delays: list[float]):
    histogram = Histogram()
    for delay in delays:
        histogram.add(delay)

    lag, ordered = histogram.lag(), sorted(max(delay, 0.0) for delay in delays)
    assert (lag.count, lag.longest) == (len(delays), ordered[-1])
    for shown, part in ((lag.p50, 0.5), (lag.p90, 0.9), (lag.p99, 0.99)):
        exact = ordered[math.ceil(len(ordered) * part) - 1]
        assert exact <= shown <= lag.longest
        assert shown <= max(exact * 1.19, 0.001) or exact > 86_400
