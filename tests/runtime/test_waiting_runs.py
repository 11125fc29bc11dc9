"""Runs that wait for their user, and those whose calls are made, when something else happens too. In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    InputRequired,
    RunContext,
    RunStatus,
    RuntimeClosed,
    ServiceUnavailable,
    StoreError,
    tool,
)
from agentbg.providers import Cap
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.provider import ALL_CAPS

SCRIPTS = [RunScript.call("look", {}, seconds=5), RunScript.text("done", seconds=5)]
NO_RESPOND = ALL_CAPS & ~Cap.RESPOND


class SlowStore(MemoryStore):
    """Takes `pause` seconds to save, and then refuses as often as it is told."""

    pause = 0.0
    refuses = 0

    async def save(self, record, updates=()):
        await asyncio.sleep(self.pause)
        if self.refuses:
            self.refuses -= 1
            raise StoreError("The disk is full.")

        await super().save(record, updates)


def service(caps=NO_RESPOND, **settings) -> ScriptedProvider:
    return ScriptedProvider(SCRIPTS, caps=caps, **settings)


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


async def waiting(running, agent):
    handle = await running.submit(agent, "x")
    assert await handle.wait() is RunStatus.INPUT_REQUIRED
    return handle


async def answer(handle):
    return await handle.respond(*(request.answer("seen") for request in handle.response.requests))


@virtual_time
async def test_an_answer_that_the_store_refuses_leaves_the_run_waiting_in_the_store():
    store, provider = SlowStore(), service()
    async with runtime(store) as running:
        handle = await waiting(running, Agent(provider))
        store.refuses = 1
        with pytest.raises(StoreError):
            await answer(handle)

        assert not handle.done()
        with pytest.raises(StoreError):
            await answer(handle)

        again = await running.get(handle.id)
        assert again.status is RunStatus.INPUT_REQUIRED
        await answer(again)
        assert (await again).text == "done"

    assert provider.count("answer") == 1


@virtual_time
async def test_a_cancel_that_the_store_refuses_is_an_error_and_the_run_still_waits():
    store = SlowStore()
    async with runtime(store) as running:
        handle = await waiting(running, Agent(service()))
        store.refuses = 1
        with pytest.raises(StoreError):
            await asyncio.wait_for(handle.cancel(), 60)

        assert not handle.done()
        again = await running.get(handle.id)
        assert await again.cancel() is RunStatus.CANCELLED


@pytest.mark.parametrize("caps", [ALL_CAPS, NO_RESPOND])
@pytest.mark.parametrize("ticks", range(6))
def test_who_cancels_a_waiting_run_while_the_runtime_closes_is_told(caps, ticks):
    @virtual_time
    async def story():
        store = SlowStore()
        provider = service(caps).delay("cancel", 1000)
        async with runtime(store) as running:
            handle = await waiting(running, Agent(provider))
            store.pause = 1.0
            cancelling = asyncio.ensure_future(handle.cancel())
            for _ in range(ticks):
                await asyncio.sleep(0)

        await asyncio.wait({cancelling}, timeout=60)
        assert isinstance(cancelling.exception(), RuntimeClosed)

    story()


@pytest.mark.parametrize("ticks", range(6))
def test_who_answers_while_the_runtime_closes_is_told_and_what_is_stored_is_sent(ticks):
    @virtual_time
    async def story():
        store, provider = SlowStore(), service()
        agent = Agent(provider)
        async with runtime(store) as running:
            handle = await waiting(running, agent)
            store.pause = 1.0
            answering = asyncio.ensure_future(answer(handle))
            for _ in range(ticks):
                await asyncio.sleep(0)

        await asyncio.wait({answering}, timeout=60)
        stored = answering.exception() is None
        assert stored or isinstance(answering.exception(), RuntimeClosed)
        async with runtime(store, agents=[agent]) as running:
            handle = await running.get(handle.id)
            if not stored:
                with pytest.raises(InputRequired):
                    await handle

                await answer(handle)

            assert (await handle).text == "done"

        assert provider.count("answer") == 1

    story()


@pytest.mark.parametrize("ticks", range(12))
def test_an_answer_and_a_cancel_may_come_at_once(ticks):
    @virtual_time
    async def story():
        provider = service(ALL_CAPS, cancel_delay=None)
        async with runtime() as running:
            handle = await waiting(running, Agent(provider))
            cancelling = asyncio.ensure_future(handle.cancel())
            for _ in range(ticks):
                await asyncio.sleep(0)

            await answer(handle)
            await cancelling
            assert (await handle).text == "done"

    story()


@virtual_time
async def test_a_cancel_that_came_to_nothing_can_be_asked_for_again():
    """The service says yes, and goes on; then the answers are lost, and the run waits."""
    provider = service(ALL_CAPS, cancel_delay=None)
    async with runtime() as running:
        handle = await waiting(running, Agent(provider))
        await handle.cancel()
        await handle.cancel()
        assert provider.count("cancel") == 2


@virtual_time
async def test_closing_makes_the_calls_that_are_stored_as_begun():
    made = []

    async def look() -> str:
        made.append("look")
        return "seen"

    store, provider = SlowStore(), service()
    agent = Agent(provider, tools=[tool(look)])
    async with runtime(store) as running:
        handle = await running.submit(agent, "x")
        await asyncio.sleep(4.9)
        store.pause = 3.0
        while not handle._live.record.rounds:
            await asyncio.sleep(0.1)

    assert made == ["look"]
    async with runtime(store, agents=[agent]) as running:
        assert (await (await running.get(handle.id))).text == "done"

    assert provider.run(2).request.input[0]["output"] == "seen"
    assert made == ["look"]


@virtual_time
async def test_a_call_may_be_answered_while_the_service_cannot_be_reached():
    provider = service(ALL_CAPS).fail("answer", ServiceUnavailable("429", unsent=True), times=2)
    async with runtime() as running:
        handle = await waiting(running, Agent(provider))
        await answer(handle)
        assert (await handle).text == "done"


@virtual_time
async def test_who_asks_for_a_run_while_the_runtime_closes_does_not_take_it():
    class SlowLoad(MemoryStore):
        async def load(self, run_id):
            await asyncio.sleep(1)
            return await super().load(run_id)

    store, agent = SlowLoad(), Agent(service())
    async with runtime(store) as running:
        handle = await waiting(running, agent)

    async with runtime(store, agents=[agent]) as running:
        getting = asyncio.ensure_future(running.get(handle.id))
        await asyncio.sleep(0.5)

    await store.open()
    await asyncio.wait({getting})
    assert isinstance(getting.exception(), RuntimeClosed)
    assert (await store.load(handle.id)).epoch == handle._live.record.epoch


@pytest.mark.parametrize("stream", [False, True])
@virtual_time
async def test_a_follow_up_that_was_refused_is_sent_by_the_next_process_without_asking(stream):
    store, provider = MemoryStore(), service().fail("answer", ServiceUnavailable("429", unsent=True), times=3)
    agent = Agent(provider)
    async with runtime(store) as running:
        handle = await running.submit(agent, "x", stream=stream)
        await handle.wait()
        await answer(handle)
        while provider.count("answer") < 3:
            await asyncio.sleep(0.1)

    assert (await record_in(store, handle.id)).rounds[-1].sent is False
    async with runtime(store, agents=[agent]) as running:
        handle = await running.get(handle.id)
        assert (await handle).text == "done"

    assert provider.count("answer") == 4


async def record_in(store, run_id):
    await store.open()
    try:
        return await store.load(run_id)
    finally:
        await store.aclose()


@virtual_time
async def test_a_call_has_a_key_of_its_own_which_it_keeps_in_the_next_process():
    keys = []

    @tool(idempotent=True, timeout=None)
    async def look(context: RunContext) -> str:
        """Look."""
        keys.append((context.call_id, context.key))
        await asyncio.sleep(60 if len(keys) == 1 else 1)
        return "seen"

    again = RunScript.call("look", {}, seconds=5)
    store = MemoryStore()
    agent = Agent(ScriptedProvider([again, again, RunScript.text("done")], caps=NO_RESPOND), tools=[look])
    async with runtime(store) as running:
        handle = await running.submit(agent, "x")
        while not keys:
            await asyncio.sleep(1)

    async with runtime(store, agents=[agent]) as running:
        assert (await (await running.get(handle.id))).text == "done"

    (first, begun), (second, begun_again), (third, next_round) = keys
    assert first == second == third, "the service gives each call the same id"
    assert begun == begun_again != next_round
