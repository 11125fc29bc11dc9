"""Services that take a second start with the same key as the same run. All in virtual time."""

from __future__ import annotations

import asyncio
import math

import pytest

from agentbg import Agent, AgentRuntime, ServiceUnavailable, SubmitUnknown
from agentbg.providers import Cap
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.provider import ALL_CAPS


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def told(*, idempotent: bool = True) -> ScriptedProvider:
    caps = ALL_CAPS | Cap.IDEMPOTENT_START if idempotent else ALL_CAPS
    return ScriptedProvider.text("done", caps=caps)


@pytest.mark.parametrize(("stream", "method"), [(False, "start"), (True, "open")])
def test_a_start_whose_answer_was_lost_is_sent_again_with_the_same_key(stream, method):
    @virtual_time
    async def story():
        provider = told().fail(method, ServiceUnavailable("the connection broke"), times=2)
        async with runtime() as running:
            handle = await running.submit(Agent(provider), "x", stream=stream)
            assert (await handle).text == "done"

        assert [call.key for call in provider.calls if call.method == method] == [handle.id] * 3

    story()


@virtual_time
async def test_a_start_that_stays_lost_is_unknown_in_the_end():
    provider = told().fail("start", ServiceUnavailable("the connection broke"), times=None)
    async with runtime() as running:
        with pytest.raises(SubmitUnknown):
            await running.submit(Agent(provider), "x")

    assert provider.count("start") == 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("idempotent", [False, True])
def test_an_intent_whose_process_died_is_started_in_the_next_where_that_is_safe(stream, idempotent):
    @virtual_time
    async def story():
        store, hung = MemoryStore(), told().delay("open" if stream else "start", math.inf)
        async with runtime(store) as running:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await running.submit(Agent(hung), "x", stream=stream)

            (handle,) = await running.list()

        provider = told(idempotent=idempotent)
        async with runtime(store, agents=[Agent(provider)]) as running:
            handle = await running.get(handle.id)
            if idempotent:
                assert (await handle).text == "done"
                assert [call.key for call in provider.calls if call.request] == [handle.id]
            else:
                with pytest.raises(SubmitUnknown):
                    await handle

                assert provider.calls == []

    story()


@virtual_time
async def test_an_intent_past_its_deadline_is_not_started():
    store, hung = MemoryStore(), told().delay("start", math.inf)
    async with runtime(store) as running:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await running.submit(Agent(hung), "x", deadline=5)

        (handle,) = await running.list()

    provider = told()
    async with runtime(store, agents=[Agent(provider)]) as running:
        with pytest.raises(SubmitUnknown):
            await (await running.get(handle.id))

    assert provider.calls == []


@virtual_time
async def test_an_answer_has_no_key_and_is_not_sent_again_when_its_own_answer_was_lost():
    scripts = [RunScript.asks(seconds=1), RunScript.text("done")]
    provider = ScriptedProvider(scripts, caps=ALL_CAPS | Cap.IDEMPOTENT_START).lose("respond")
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        await handle.wait()
        await handle.respond(*(request.approve() for request in handle.response.requests))
        with pytest.raises(SubmitUnknown):
            await handle

        assert provider.count("respond") == 1
        await handle.respond()
        assert (await handle).text == "done"
