"""What a fleet of runs costs this process: the memory of a live handle, and how many are woken at a time."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from itertools import product

import pytest

from agentbg import Agent, AgentRunOptions, AgentRuntime, PollPolicy
from agentbg.alarm import AT_ONCE, Alarm
from agentbg.core.model import RunRef, Snapshot
from agentbg.core.status import RunStatus
from agentbg.live import Mutex
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.stores.codec import encode_request
from agentbg.testing import ScriptedProvider, VirtualClock, virtual_time

MOST = 2500
"""Bytes of a live handle, beyond its input."""
RUNS = 2000


class Forgetful(ScriptedProvider):
    """It keeps nothing of its runs, which would weigh as much as what holds them here."""

    started = 0

    async def start(self, request, *, key=None):
        self.started += 1
        ref = RunRef(self.name, self.endpoint, {"response": f"resp_{self.started:048x}"})
        return Snapshot(ref, RunStatus.QUEUED, "queued", raw={"id": ref.id, "tools": [{}] * 20})


def weight_of(request, kind):
    """What is the user's own: the input, and, where the store is in memory, too, the text of it."""
    stored = [encode_request(request)] if kind is MemoryStore else []
    return sum(map(sys.getsizeof, (request.input, request.input[0], *stored)))


@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
@virtual_time
async def test_a_live_handle_is_light(kind, tmp_path):
    store = MemoryStore() if kind is MemoryStore else SQLiteStore(tmp_path / "runs.db", durable=False)
    policy = PollPolicy(initial=3600, maximum=3600)
    async with AgentRuntime(store, poll=policy, clock=VirtualClock()) as running:
        agent = Agent(Forgetful())
        held = [await running.submit(agent, "x") for _ in range(50)]
        gc.collect()
        tracemalloc.start()
        try:
            held += [await running.submit(agent, "x") for _ in range(RUNS)]
            gc.collect()
            weight = tracemalloc.get_traced_memory()[0] / RUNS
        finally:
            tracemalloc.stop()

        assert all(handle.status is RunStatus.QUEUED for handle in held)
        assert weight - weight_of(agent.request("x"), kind) < MOST


@virtual_time
async def test_thousands_that_are_due_together_leave_the_loop_its_turns():
    woken: list[str] = []
    turns: list[int] = []
    alarm = Alarm(VirtualClock(), woken.append)
    for number in range(3 * AT_ONCE):
        alarm.set(f"run_{number}", asyncio.get_running_loop().time() + 5)

    while len(woken) < 3 * AT_ONCE:
        await asyncio.sleep(5 if not woken else 0)
        turns.append(len(woken))

    assert max(after - before for before, after in zip([0, *turns], turns, strict=False)) == AT_ONCE
    assert woken == [f"run_{number}" for number in range(3 * AT_ONCE)]


@virtual_time
async def test_an_earlier_time_is_not_slept_through_and_a_later_one_wakes_nobody_early():
    loop, woken = asyncio.get_running_loop(), []
    began = loop.time()
    alarm = Alarm(VirtualClock(), lambda run_id: woken.append((run_id, loop.time() - began)))
    alarm.set("late", began + 60)
    alarm.set("early", began + 10)
    alarm.set("moved", began + 5)
    alarm.set("moved", began + 30)
    alarm.set("gone", began + 20)
    alarm.discard("gone")
    await asyncio.sleep(45)
    alarm.stop()
    await asyncio.sleep(45)
    assert woken == [("early", 10), ("moved", 30)]


@virtual_time
async def test_the_services_own_object_is_kept_of_runs_that_have_ended():
    agent = Agent(ScriptedProvider.text("done", seconds=60))
    async with AgentRuntime(clock=VirtualClock()) as running:
        handle = await running.submit(agent, "x")
        assert not handle.response.raw
        assert (await handle.result()).raw["status"] == "completed"


@virtual_time
async def test_whoever_asks_once_is_shown_the_services_own_object():
    agent = Agent(ScriptedProvider.text("done", seconds=60), clock=VirtualClock())
    thread, options = agent.get_new_thread(), AgentRunOptions(allow_background_responses=True)
    response = await agent.run("x", thread, options)
    assert response.raw["status"] in ("queued", "in_progress")
    options.continuation_token = response.continuation_token
    await asyncio.sleep(20)
    assert (await agent.run(thread=thread, options=options)).raw["status"] == "in_progress"


async def hold(mutex: Mutex, name: str, held: list[str], turns: int) -> None:
    async with mutex:
        held.append(name)
        for _ in range(turns):
            await asyncio.sleep(0)

        assert held[-1] == name
        held.append("")


@pytest.mark.parametrize(("victim", "at"), [*product("abcd", range(9))])
@virtual_time
async def test_a_mutex_goes_from_one_to_the_next_in_order_whoever_is_cancelled_when(victim, at):
    mutex, held, turns = Mutex(), [], {"a": 2, "b": 0, "c": 1, "d": 0}
    tasks = {name: asyncio.create_task(hold(mutex, name, held, turns[name])) for name in turns}
    for _ in range(at):
        await asyncio.sleep(0)

    tasks[victim].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    order = [name for name in held if name]
    assert order == [name for name in "abcd" if name in order]
    assert set("abcd") - set(order) <= {victim}
    assert not mutex.locked()
    await hold(mutex, "e", held, 1)
