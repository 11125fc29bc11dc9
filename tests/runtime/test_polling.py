"""When the runtime polls, and what polls that fail do to a run. All in virtual time."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    AuthenticationFailed,
    Backoff,
    PollPolicy,
    RequestBudget,
    RequestRejected,
    RunExpired,
    RunNotFound,
    RunStatus,
    RunTimeout,
    ServiceUnavailable,
    UsageError,
)
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time

HOUR = 3600.0


def runtime(**settings):
    return AgentRuntime(draw=lambda: 0.5, clock=VirtualClock(), **settings)


def gaps(provider: ScriptedProvider) -> list[float]:
    times = provider.times("poll")
    return [later - earlier for earlier, later in pairwise(times)]


@virtual_time
async def test_the_interval_grows_by_a_tenth_of_the_runs_age_up_to_the_maximum():
    provider = ScriptedProvider.text("done", seconds=600)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        assert (await handle).text == "done"

    times, policy = provider.times("poll"), PollPolicy()
    assert times[0] == pytest.approx(policy.shortest / 2)
    for time, gap in zip(times, gaps(provider), strict=False):
        assert gap == pytest.approx(min(policy.shortest + policy.growth * time, policy.longest))

    assert provider.count("start") == 1


@virtual_time
async def test_many_waiters_share_one_poller():
    provider = ScriptedProvider.text("done", seconds=60)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        again = await running.get(handle.id)
        responses = await asyncio.gather(*(h.result() for h in [handle, again] * 50))

    assert {response.text for response in responses} == {"done"}
    assert set(provider.pollers.values()) == {1}
    alone = ScriptedProvider.text("done", seconds=60)
    async with runtime() as running:
        await (await running.submit(Agent(alone), "x"))

    assert gaps(provider) == pytest.approx(gaps(alone))


@virtual_time
async def test_a_run_that_the_service_answers_at_once_is_done_already():
    provider = ScriptedProvider(RunScript([At(0, status="completed", text="quick")]))
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        assert handle.done()
        assert handle.token is None
        assert (await handle).text == "quick"

    assert provider.count("poll") == 0


@virtual_time
async def test_the_services_hint_is_a_floor_and_is_read_again_at_each_poll():
    script = RunScript(
        [
            At(0, status="running", poll_after=7),
            At(20, status="running", poll_after=0.1),
            At(40, status="completed", text="done"),
        ]
    )
    provider = ScriptedProvider(script)
    async with runtime(poll=PollPolicy(initial=1, growth=0, maximum=1, jitter=0)) as running:
        await (await running.submit(Agent(provider), "x"))

    assert provider.times("poll")[:4] == pytest.approx([7.5, 14.5, 21.5, 22.5])  # spread over the first interval


@virtual_time
async def test_a_hint_beyond_reason_is_capped():
    provider = ScriptedProvider(RunScript([At(0, status="running", poll_after=1e9), At(10, status="completed")]))
    async with runtime(poll=PollPolicy(hint_maximum=120)) as running:
        await (await running.submit(Agent(provider), "x"))

    assert provider.times("poll") == pytest.approx([120 + 0.25])


@virtual_time
async def test_a_service_that_is_down_for_an_hour_delays_the_result_and_loses_nothing():
    provider = ScriptedProvider.text("done", seconds=60)
    provider.fail("poll", times=None)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        with pytest.raises(RunTimeout):
            await handle.result(timeout=HOUR)

        assert handle.status.live
        assert max(gaps(provider)) <= Backoff().maximum
        provider.faults.clear()
        assert (await handle).text == "done"


@virtual_time
async def test_retry_after_delays_the_next_poll():
    provider = ScriptedProvider.text("done", seconds=60)
    provider.fail("poll", ServiceUnavailable("slow down", retry_after=42.0, status_code=429))
    async with runtime() as running:
        await (await running.submit(Agent(provider), "x"))

    assert 42.0 <= gaps(provider)[0] <= 42.0 * 1.1


@virtual_time
async def test_a_404_soon_after_the_start_is_not_the_end():
    provider = ScriptedProvider.text("done", seconds=30)
    provider.fail("poll", RunNotFound("no such run", status_code=404), times=4)
    async with runtime() as running:
        assert (await (await running.submit(Agent(provider), "x"))).text == "done"


@virtual_time
async def test_a_run_that_the_service_has_forgotten_is_expired():
    provider = ScriptedProvider.text("done", seconds=HOUR)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        await handle.wait(timeout=100)
        provider.fail("poll", RunNotFound("no such run", status_code=404), times=None)
        with pytest.raises(RunExpired, match="no longer has the run") as caught:
            await handle

    assert caught.value.response.status is RunStatus.EXPIRED
    assert caught.value.token is None


@virtual_time
async def test_a_refused_poll_tells_the_waiters_and_the_run_goes_on():
    provider = ScriptedProvider.text("done", seconds=60)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        provider.fail("poll", AuthenticationFailed("wrong key", status_code=401))
        with pytest.raises(RequestRejected, match="wrong key"):
            await handle

        assert handle.status.live
        assert (await handle).text == "done"


@virtual_time
async def test_a_deadline_ends_a_run_that_does_not():
    provider = ScriptedProvider(RunScript([At(0, status="running", text="so far")]))
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", deadline=90)
        with pytest.raises(RunExpired, match="deadline"):
            await handle

        assert handle.elapsed == pytest.approx(90)
        assert handle.response.text == "so far"


@virtual_time
async def test_no_run_waits_for_ever():
    provider = ScriptedProvider(RunScript([At(0, status="running")]))
    async with runtime(poll=PollPolicy(max_age=2 * HOUR)) as running:
        with pytest.raises(RunExpired):
            await (await running.submit(Agent(provider), "x"))


@virtual_time
async def test_a_poll_that_is_never_answered_is_given_up_and_sent_again():
    provider = ScriptedProvider.text("done", seconds=60).delay("poll", math.inf)
    async with runtime() as running:
        assert (await (await running.submit(Agent(provider), "x"))).text == "done"


@virtual_time
async def test_an_unknown_status_counts_as_running_and_keeps_its_word():
    provider = ScriptedProvider(RunScript([At(0, status="pondering"), At(9, status="completed", text="done")]))
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        assert handle.status is RunStatus.RUNNING
        assert handle.response.raw_status == "pondering"
        assert (await handle).text == "done"


@virtual_time
async def test_a_run_that_shows_no_change_for_long_is_stalled():
    provider = ScriptedProvider.text("done", seconds=HOUR, deltas=1)
    async with runtime(poll=PollPolicy(stall_after=300)) as running:
        handle = await running.submit(Agent(provider), "x")
        await handle.wait(timeout=380)
        assert not handle.stalled
        await handle.wait(timeout=600)
        assert handle.stalled
        await handle
        assert not handle.stalled


@virtual_time
async def test_runs_submitted_together_are_polled_apart():
    import random

    provider = ScriptedProvider.text("done", seconds=60)
    draw = random.Random(7).random
    policy = PollPolicy(initial=2.0)
    async with AgentRuntime(
        poll=policy, draw=draw, clock=VirtualClock(), budget=RequestBudget(in_flight=2000)
    ) as running:
        agent = Agent(provider)
        handles = await asyncio.gather(*(running.submit(agent, "x") for _ in range(2000)))
        await handles[0].wait(timeout=10)
        slots: dict[int, int] = {}
        for time in provider.times("poll"):
            slots[math.floor(time * 10)] = slots.get(math.floor(time * 10), 0) + 1

    assert max(slots.values()) <= 150


@virtual_time
async def test_no_more_requests_are_under_way_than_allowed():
    provider = ScriptedProvider.text("done", seconds=30, latency=0.7)
    async with runtime(budget=RequestBudget(in_flight=5)) as running:
        agent = Agent(provider)
        handles = await asyncio.gather(*(running.submit(agent, "x") for _ in range(100)))
        assert {(await handle).text for handle in handles} == {"done"}

    assert provider.max_in_flight == 5
    assert set(provider.pollers.values()) == {1}


@virtual_time
async def test_a_poll_that_changes_nothing_writes_nothing():
    from agentbg.stores import MemoryStore

    saves = []

    class Counting(MemoryStore):
        async def save(self, record, updates=()):
            saves.append(len(updates))
            await super().save(record, updates)

    provider = ScriptedProvider(RunScript([At(0, status="running"), At(600, status="completed", text="done")]))
    async with runtime(store=Counting()) as running:
        await (await running.submit(Agent(provider), "x"))

    assert provider.count("poll") > 30
    assert len(saves) == 2  # the start's answer, the end


@pytest.mark.parametrize(
    "settings", [{"initial": 0}, {"initial": 2, "maximum": 1}, {"growth": -1}, {"jitter": 1}, {"jitter": -0.1}]
)
def test_a_policy_that_cannot_be_is_refused(settings):
    with pytest.raises(UsageError, match="PollPolicy"):
        PollPolicy(**settings)
