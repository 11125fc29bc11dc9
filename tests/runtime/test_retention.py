"""Runs that ended long ago are forgotten, and no others."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from agentbg import Agent, AgentRuntime, RunStatus, RunUnknown, StoreError, UsageError
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.samples import make_record

DAY = 86_400.0
STORY = RunScript.text("a story", seconds=5)


def runtime(store, **settings) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


async def ids(store) -> list[str]:
    return sorted(record.id for record in await store.list())


async def filled() -> MemoryStore:
    """A store with runs that ended so many days ago, one that waits, and one that goes on."""
    now = VirtualClock().wall()
    store = MemoryStore()
    await store.open()
    for days in (0, 10, 29, 31, 400):
        await store.create(make_record(f"{days} days", status=RunStatus.COMPLETED, finished_at=now - days * DAY))

    await store.create(make_record("waits", status=RunStatus.INPUT_REQUIRED, finished_at=None))
    await store.create(make_record("goes on", status=RunStatus.RUNNING))
    await store.aclose()
    return store


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {"0 days", "10 days", "29 days"}),
        ({"retention": timedelta(days=1)}, {"0 days"}),
        ({"retention": None}, {"0 days", "10 days", "29 days", "31 days", "400 days"}),
    ],
    ids=["default", "a day", "for ever"],
)
def test_entering_forgets_runs_that_ended_too_long_ago(settings, kept):
    @virtual_time
    async def story():
        store = await filled()
        async with runtime(store, **settings):
            await asyncio.sleep(0)
            assert set(await ids(store)) == kept | {"waits", "goes on"}

    story()


@virtual_time
async def test_a_runtime_that_lives_long_looks_again_at_most_once_an_hour():
    store, purges = MemoryStore(), []
    purge = store.purge

    async def noted(*, before):
        purges.append(asyncio.get_running_loop().time())
        return await purge(before=before)

    store.purge = noted
    async with runtime(store, retention=timedelta(hours=2)) as running:
        agent = Agent(ScriptedProvider(STORY))
        handles = []
        for _ in range(10):
            handles.append(await running.submit(agent, "x"))
            await asyncio.sleep(1200)

        assert purges == [0.0, 3600.0, 7200.0, 10800.0]
        assert len(await store.list()) == 7
        assert [handle.response.text for handle in handles] == ["a story"] * 10


@virtual_time
async def test_purge_forgets_what_ended_before_a_time_and_says_how_many():
    store = await filled()
    async with runtime(store, retention=None) as running:
        assert await running.purge(before=datetime.fromtimestamp(running.clock.wall(), UTC) - timedelta(days=30)) == 2
        assert await running.purge(before=running.clock.wall() - 20 * DAY) == 1
        assert await running.purge(before=running.clock.wall() + DAY) == 2
        assert await ids(store) == ["goes on", "waits"]
        with pytest.raises(UsageError, match="no time zone"):
            await running.purge(before=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@virtual_time
async def test_runs_that_go_on_or_wait_are_never_forgotten():
    async with runtime(MemoryStore()) as running:
        going = await running.submit(Agent(ScriptedProvider(RunScript.endless())), "x")
        waiting = await running.submit(Agent(ScriptedProvider(RunScript.asks(seconds=5))), "x")
        await waiting.wait()
        assert await running.purge(before=running.clock.wall() + 400 * DAY) == 0
        assert {handle.id for handle in await running.list()} == {going.id, waiting.id}


@virtual_time
async def test_a_handle_of_a_forgotten_run_keeps_its_response_and_its_streams_say_that_it_is_gone():
    async with runtime(MemoryStore()) as running:
        handle = await running.submit(Agent(ScriptedProvider(STORY)), "x", stream=True)
        followed = [update async for update in handle.stream()]
        half_read = handle.stream()
        await running.purge(before=running.clock.wall() + 1)

        assert (await handle).text == "a story"
        assert handle.status is RunStatus.COMPLETED
        assert [update async for update in handle.stream(after=followed[-1].seq)] == []
        for stream in (half_read, handle.stream()):
            with pytest.raises(RunUnknown, match="deleted"):
                await anext(stream)

        with pytest.raises(RunUnknown):
            await running.get(handle.id)


@virtual_time
async def test_a_store_that_refuses_to_forget_does_not_disturb_the_runtime(caplog):
    class Stubborn(MemoryStore):
        async def purge(self, *, before):
            raise StoreError("The disk is full.")

    with caplog.at_level(logging.WARNING):
        async with runtime(Stubborn()) as running:
            handle = await running.submit(Agent(ScriptedProvider(STORY)), "x")
            assert (await handle).text == "a story"

    assert "refused to forget" in caplog.text


@virtual_time
async def test_closing_waits_for_a_purge_that_is_under_way():
    class Slow(MemoryStore):
        async def purge(self, *, before):
            await asyncio.sleep(5)
            return await super().purge(before=before)

    store = Slow()
    async with runtime(store):
        await asyncio.sleep(1)

    assert asyncio.get_running_loop().time() == 5


@pytest.mark.parametrize("wrong", [timedelta(), timedelta(days=-1), 30, 30.0])
def test_an_age_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match="timedelta above 0"):
        AgentRuntime(retention=wrong)
