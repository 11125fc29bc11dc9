"""What ends badly, or at a bad moment, in this process: nobody waits for ever, and no run disturbs another."""

from __future__ import annotations

import asyncio
import gc

import pytest

from agentbg import Agent, AgentRunOptions, AgentRuntime, RuntimeClosed, StoreError, UsageError
from agentbg.stores import MemoryStore
from agentbg.testing import ScriptedProvider, VirtualClock, virtual_time


class Moody(MemoryStore):
    """A store that refuses some saves, and takes its time to hand a run over."""

    def __init__(self, acquiring: float = 0.0) -> None:
        super().__init__()
        self.refusals = 0
        self.acquiring = acquiring

    async def save(self, record, updates=()):
        if self.refusals:
            self.refusals -= 1
            raise StoreError("The disk is full.")

        await super().save(record, updates)

    async def acquire(self, run_id):
        await asyncio.sleep(self.acquiring)
        return await super().acquire(run_id)

    async def find(self, provider, endpoint, remote_id):
        found = await super().find(provider, endpoint, remote_id)
        await asyncio.sleep(0)
        return found


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def complaints() -> list[dict]:
    """What nobody caught, from here on."""
    found: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


@virtual_time
async def test_closing_at_the_moment_that_a_run_is_due_is_quiet():
    uncaught = complaints()
    running = runtime()
    await running.__aenter__()
    await running.submit(Agent(ScriptedProvider.text("done", seconds=60)), "x")
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(running._driver._alarm.queue.next_at(), running._driver._host.stop)
    await asyncio.sleep(1)
    await running.__aexit__()
    del running
    gc.collect()
    assert uncaught == []


@virtual_time
async def test_what_is_under_way_of_a_run_let_go_leaves_the_run_taken_up_again_alone():
    store, provider = Moody(), ScriptedProvider.text("done", seconds=200)
    provider.delay("poll", 50, call=1)
    async with runtime(store, agents=[agent := Agent(provider)]) as running:
        handle = await running.submit(agent, "x")
        await asyncio.sleep(1)  # its first poll is under way
        store.refusals = 1
        with pytest.raises(StoreError, match="disk is full"):
            await handle.cancel()

        again = await running.get(handle.id)
        assert not again.done()
        assert (await again.result(timeout=3600)).text == "done"


@virtual_time
async def test_a_run_that_is_taken_up_while_the_runtime_closes_keeps_nobody_waiting():
    store, agent = Moody(), Agent(ScriptedProvider.text("done", seconds=60))
    async with runtime(store) as running:
        run_id = (await running.submit(agent, "x")).id

    store.acquiring = 5.0
    running = runtime(store)
    await running.__aenter__()
    running._intake.register(agent)
    getting = asyncio.ensure_future(running.get(run_id))
    await asyncio.sleep(1)
    closing = asyncio.ensure_future(running._driver.aclose())
    with pytest.raises(RuntimeClosed):
        await asyncio.wait_for(await_handle(getting), 3600)

    await closing
    await running.__aexit__()


async def await_handle(getting):
    return await (await getting)


@virtual_time
async def test_a_run_whose_taking_up_failed_can_be_taken_up_again():
    store, agent = Moody(), Agent(ScriptedProvider.text("done", seconds=60))
    async with runtime(store) as running:
        record = agent.record(None, 0.0, agent.request("x"))
        await store.create(record)  # an intent, whose process died
        running._intake.register(agent)
        store.refusals = 1
        with pytest.raises(StoreError, match="disk is full"):
            await running.get(record.id)

        handle = await running.get(record.id)
        assert await handle.wait(timeout=3600) == "failed"
        assert handle.response.error.code == "submit_unknown"
        assert handle.done()


@virtual_time
async def test_a_token_that_is_resumed_twice_at_once_is_one_run_with_one_poller():
    provider = ScriptedProvider.text("done", seconds=60)
    agent = Agent(provider)
    async with runtime() as running:
        token = (await running.submit(agent, "x")).token

    async with runtime(Moody()) as running:
        one, other = await asyncio.gather(*(running.resume(str(token), agent=agent) for _ in range(2)))
        assert one == other
        assert len(await running.list()) == 1
        assert (await one).text == (await other).text == "done"

    assert provider.pollers[token.ref.id] == 1


@virtual_time
async def test_a_run_that_is_looked_up_while_its_token_is_resumed_is_one_run():
    class Slow(MemoryStore):
        async def create(self, record):
            await super().create(record)
            await asyncio.sleep(1)

    agent = Agent(ScriptedProvider.text("done", seconds=60))
    options = AgentRunOptions(allow_background_responses=True)
    response = await agent.run("x", thread=agent.get_new_thread(), options=options)
    async with runtime(Slow(), agents=[agent]) as running:
        resuming = asyncio.ensure_future(running.resume(response.continuation_token, agent=agent))
        await asyncio.sleep(0.5)
        [listed] = await running.list()
        assert (await (await resuming).result(timeout=3600)).text == "done"
        assert (await listed.result(timeout=3600)).text == "done"


@virtual_time
async def test_a_callback_that_raises_is_reported_and_keeps_no_other_from_being_called():
    uncaught = complaints()
    agent = Agent(ScriptedProvider.text("done"))
    thread = agent.get_new_thread()
    async with runtime() as running:
        handle = await running.submit(agent, "x", thread=thread)
        handle.add_done_callback(lambda _: 1 / 0)
        assert [done async for done in running.as_completed([handle])] == [handle]
        assert (await handle).text == "done"

    assert [type(context["exception"]) for context in uncaught] == [ZeroDivisionError]
    assert thread.last is not None


@virtual_time
async def test_closing_waits_for_a_streamed_start_to_be_answered_and_no_longer():
    clock = VirtualClock()
    provider = ScriptedProvider.text("a long story", seconds=600)
    provider.delay("open", 2)
    running = runtime()
    await running.__aenter__()
    submitting = asyncio.ensure_future(running.submit(Agent(provider), "x", stream=True))
    await asyncio.sleep(1)
    before = clock.now()
    await running.__aexit__()
    assert (await submitting).token is not None
    assert clock.now() - before == pytest.approx(1, abs=0.5)


@virtual_time
async def test_a_closing_that_is_cancelled_leaves_no_task_behind():
    running = runtime()
    await running.__aenter__()
    await running.submit(Agent(ScriptedProvider.text("done", seconds=60)), "x", stream=True)
    closing = asyncio.ensure_future(running.__aexit__())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtual_time
async def test_a_run_that_a_closing_runtime_was_taking_up_is_not_taken_from_the_next():
    store, agent = Moody(), Agent(ScriptedProvider.text("done", seconds=60))
    async with runtime(store) as running:
        run_id = (await running.submit(agent, "x")).id

    async with runtime(store) as running:
        running._intake.register(agent)
        store.acquiring = 5.0
        getting = asyncio.ensure_future(running.get(run_id))
        await asyncio.sleep(1)
        getting.cancel()

    store.acquiring = 0.0
    async with runtime(store, agents=[agent]) as running:
        assert (await (await running.get(run_id)).result(timeout=3600)).text == "done"


@virtual_time
async def test_a_taking_up_that_fails_when_nobody_waits_for_it_any_more_is_quiet():
    uncaught = complaints()
    store, agent = Moody(acquiring=5.0), Agent(ScriptedProvider.text("done", seconds=60))
    async with runtime(store) as running:
        await store.create(record := agent.record(None, 0.0, agent.request("x")))
        running._intake.register(agent)
        store.refusals = 1
        getting = asyncio.ensure_future(running.get(record.id))
        await asyncio.sleep(1)
        getting.cancel()
        await asyncio.sleep(10)

    del getting
    gc.collect()
    assert uncaught == []


def test_two_agents_of_one_name_cannot_both_be_found_by_it():
    one, other = (Agent(ScriptedProvider(), name="writer") for _ in range(2))
    AgentRuntime(agents=[one, one])
    with pytest.raises(UsageError, match="writer"):
        AgentRuntime(agents=[one, other])


@virtual_time
async def test_a_negative_limit_is_refused_whatever_the_store():
    async with runtime() as running:
        with pytest.raises(UsageError, match="-1"):
            await running.list(limit=-1)


@virtual_time
async def test_an_empty_store_is_the_store_all_the_same():
    class Sized(MemoryStore):
        def __len__(self) -> int:
            return len(self._runs)

    store = Sized()
    async with runtime(store) as running:
        await running.submit(Agent(ScriptedProvider()), "x")

    assert len(store) == 1
