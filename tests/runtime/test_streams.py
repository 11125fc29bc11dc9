"""Streams through the runtime: cuts, silence, refusals, and several consumers. All in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    RunStatus,
    ServiceUnavailable,
    StreamPolicy,
    StreamRefused,
    SubmitUnknown,
    UpdateType,
    UsageError,
)
from agentbg.providers import Cap, Resume
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, message, virtual_time
from agentbg.testing.provider import ALL_CAPS

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen."


def runtime(**settings):
    return AgentRuntime(draw=lambda: 0.5, clock=VirtualClock(), **settings)


def told(**settings) -> ScriptedProvider:
    return ScriptedProvider.text(TEXT, seconds=30, deltas=20, **settings)


async def read(handle, after: int = 0):
    async with handle.stream(after=after) as updates:
        return [update async for update in updates]


def joined(updates) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def check(updates, text: str = TEXT) -> None:
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert joined(updates) == text
    assert updates[-1].type is UpdateType.END
    assert updates[-1].continuation_token is None
    assert all(update.continuation_token is not None for update in updates[:-1])


@virtual_time
async def test_a_whole_stream_needs_no_poll():
    provider = told()
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))
        assert (await handle).text == TEXT

    assert (provider.count("open"), provider.count("attach"), provider.count("poll")) == (1, 0, 0)


@pytest.mark.parametrize("error", [None, ServiceUnavailable("reset")])
def test_cuts_that_brought_something_new_are_followed_by_the_next_connection_at_once(error):
    @virtual_time
    async def story():
        provider = told().cut(3, error, times=None)
        async with runtime() as running:
            handle = await running.submit(Agent(provider), "x", stream=True)
            updates = await read(handle)

        check(updates)
        assert not any(update.type is UpdateType.RESET for update in updates)
        assert provider.count("attach") <= len(updates) // 3 + 1

    story()


@virtual_time
async def test_events_that_come_again_are_dropped_and_counted():
    provider = told().cut(5, times=3).repeat(4, times=None).double(times=None)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))
        assert handle.dropped > 0


@virtual_time
async def test_silence_is_a_cut():
    provider = told().stall(6)
    async with runtime(stream=StreamPolicy(idle=20)) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))


@virtual_time
async def test_a_start_that_is_answered_late_is_not_given_up_for_silence():
    provider = told()
    provider.delay("open", 400)
    async with runtime(stream=StreamPolicy(idle=20)) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))

    assert provider.count("open") == 1


@virtual_time
async def test_a_refused_stream_goes_over_to_polls_and_brings_exactly_the_missing_tail():
    provider = told(stream_window=5).cut(9)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        updates = await read(handle)

    check(updates)
    assert not any(update.type is UpdateType.RESET for update in updates)
    assert provider.count("poll") > 0


@virtual_time
async def test_connections_that_bring_nothing_are_given_up_for_polls():
    provider = told().cut(4).cut(0, call=2, times=None)
    policy = StreamPolicy(attempts=3)
    async with runtime(stream=policy) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))

    assert provider.count("attach") == 1 + policy.attempts - 1


@virtual_time
async def test_a_service_without_streams_is_streamed_from_its_polls():
    provider = told(resume=Resume.NONE)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))

    assert provider.count("open") == 0


@pytest.mark.parametrize("resume", [Resume.CURSOR, Resume.NONE])
def test_a_service_that_cannot_start_with_a_stream_is_attached_to_or_polled(resume):
    @virtual_time
    async def story():
        provider = told(resume=resume, caps=ALL_CAPS & ~Cap.STREAM_START)
        agent = Agent(provider, clock=VirtualClock())
        async with runtime() as running:
            check(await read(await running.submit(agent, "x", stream=True)))

        options = AgentRunOptions(allow_background_responses=True)
        async with agent.run_streaming("x", agent.get_new_thread(), options) as updates:
            check([update async for update in updates])

        assert (provider.count("open"), provider.count("start")) == (0, 2)
        assert provider.count("attach") == (2 if resume is Resume.CURSOR else 0)

    story()


@virtual_time
async def test_a_cancellation_that_leaks_from_a_client_is_a_failed_call():
    class Leaky(ScriptedProvider):
        def leak(self, method):
            if self.count(method) == 2:
                raise asyncio.CancelledError

        async def poll(self, ref):
            snapshot = await super().poll(ref)
            self.leak("poll")
            return snapshot

        async def attach(self, ref, *, after=None):
            async for events in super().attach(ref, after=after):
                self.leak("attach")
                yield events

    provider = Leaky.text(TEXT, seconds=30, deltas=20).cut(3, times=2)
    async with runtime() as running:
        agent = Agent(provider)
        check(await read(await running.submit(agent, "x", stream=True)))
        assert (await (await running.submit(agent, "x"))).text == TEXT


@virtual_time
async def test_a_cancellation_that_leaks_into_a_start_loses_its_answer_and_hangs_nobody():
    class Leaky(ScriptedProvider):
        async def start(self, request, *, key=None):
            await super().start(request, key=key)
            raise asyncio.CancelledError

    async with runtime() as running:
        with pytest.raises(SubmitUnknown, match="client cancelled the call"):
            await running.submit(Agent(Leaky.text(TEXT)), "x")


@virtual_time
async def test_a_run_that_was_not_submitted_for_streaming_streams_from_its_polls():
    async with runtime() as running:
        check(await read(await running.submit(Agent(told()), "x")))


@virtual_time
async def test_a_final_text_that_does_not_begin_with_what_was_delivered_resets():
    provider = ScriptedProvider(
        RunScript(
            [
                At(0, status="running"),
                At(1, item=message()),
                At(2, text="Hullo "),
                At(3, status="completed", text="Hello world"),
            ]
        )
    )
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        updates = await read(handle)

    check(updates, "Hello world")
    assert [update.type for update in updates][-2:] == [UpdateType.RESET, UpdateType.END]


@virtual_time
async def test_consumers_join_where_and_when_they_like_over_one_connection():
    provider = told()
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)

        async def join(delay: float, after: int):
            await asyncio.sleep(delay)
            return await read(handle, after)

        whole, late, part, ended = await asyncio.gather(join(0, 0), join(12, 0), join(12, 7), join(99, 3))
        assert [u.seq for u in late] == [u.seq for u in whole]
        assert [u.seq for u in part] == [u.seq for u in whole[7:]]
        assert [u.text for u in ended] == [u.text for u in whole[3:]]
        check(whole)

    assert provider.max_streams == 1


@virtual_time
async def test_closing_a_stream_disturbs_nobody_and_leaves_the_run_alive():
    provider = told()
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        async with handle.stream() as leaving:
            async for update in leaving:
                if update.seq == 5:
                    break

        check(await read(handle))
        assert (await handle).text == TEXT

    assert provider.count("cancel") == 0


@virtual_time
async def test_a_consumer_that_stops_reading_for_ten_minutes_still_gets_everything():
    text = "word " * 600
    provider = ScriptedProvider.text(text, seconds=60, deltas=600)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        updates = []
        async with handle.stream() as stream:
            async for update in stream:
                updates.append(update)
                if update.seq == 10:
                    await asyncio.sleep(600)

    check(updates, text)


@virtual_time
async def test_a_time_out_around_one_update_of_a_handle_ends_nothing():
    provider = ScriptedProvider.text(TEXT, seconds=300, deltas=20)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        updates, outs = [], 0
        async with handle.stream() as stream:
            while not updates or updates[-1].type is not UpdateType.END:
                try:
                    updates.append(await asyncio.wait_for(anext(stream), 4))
                except TimeoutError:
                    outs += 1

        check(updates)
        assert outs > 10
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def impatient(stream):
    while True:
        await asyncio.wait_for(anext(stream), 4)


@virtual_time
async def test_a_time_out_around_one_update_of_an_agent_does_not_look_like_the_end():
    agent = Agent(ScriptedProvider.text(TEXT, seconds=300, deltas=20), clock=VirtualClock())
    async with agent.run_streaming("x") as stream:
        with pytest.raises(TimeoutError):
            await impatient(stream)

        with pytest.raises(UsageError, match="token"):
            await anext(stream)


@virtual_time
async def test_cancel_does_not_wait_for_the_stream():
    provider = told(cancel_delay=2.0)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        await asyncio.sleep(10)
        await handle.cancel(reason="enough")
        assert await handle.wait() is RunStatus.CANCELLED
        updates = await read(handle)
        assert TEXT.startswith(joined(updates))
        assert updates[-1].response.status is RunStatus.CANCELLED


@virtual_time
async def test_a_stream_refused_at_its_start_is_polled():
    provider = told().cut(3).fail("attach", StreamRefused("not created with stream=true"), times=None)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        check(await read(handle))

    assert provider.count("attach") == 1
