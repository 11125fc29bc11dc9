"""Consumers that stand still, that are forgotten, and that come when the service has forgotten their run."""

from __future__ import annotations

import asyncio
import gc

import pytest

from agentbg import Agent, AgentRunOptions, AgentRunResponseUpdate, AgentRuntime, TokenExpired, UpdateType
from agentbg.providers import OpenAIResponses, Resume
from agentbg.reader import RECENT
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing import ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.clock import announced
from agentbg.testing.server import ResponsesServer, Script

COUNT = 800
WORDS = "word " * COUNT
DAY = 86_400.0
BACKGROUND = AgentRunOptions(allow_background_responses=True)


def runtime(store=None, **settings) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def told(seconds: float = 150, **settings) -> ScriptedProvider:
    return ScriptedProvider.text(WORDS, seconds=seconds, deltas=COUNT, **settings)


def check(updates, text: str = WORDS) -> None:
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert not any(update.type is UpdateType.RESET for update in updates)
    assert "".join(update.text for update in updates) == text
    assert updates[-1].type is UpdateType.END


async def drain(stream) -> list[AgentRunResponseUpdate]:
    return [update async for update in stream]


def in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, AgentRunResponseUpdate) for each in gc.get_objects())


@virtual_time
async def test_consumers_that_stand_still_hold_little_and_stop_nobody(tmp_path):
    before = in_memory()
    async with runtime(announced(SQLiteStore(tmp_path / "runs"))) as running:
        handle = await running.submit(Agent(told()), "x", stream=True)
        standing = [handle.stream() for _ in range(4)]
        seen = [[await anext(stream)] for stream in standing]
        check(await drain(handle.stream()))
        assert in_memory() - before < 2 * RECENT, "memory has the latest, the store has all"

        await asyncio.sleep(600)
        for stream, updates in zip(standing, seen, strict=True):
            updates += await drain(stream)
            check(updates)


@pytest.mark.parametrize("resume", [Resume.CURSOR, Resume.NONE])
@pytest.mark.parametrize("seconds", [150, 2000])
def test_a_stream_of_an_agent_that_is_not_read_for_ten_minutes_still_gets_everything(resume, seconds):
    @virtual_time
    async def story():
        provider = told(seconds, resume=resume, stream_window=300)
        agent = Agent(provider, clock=VirtualClock())
        updates = []
        async with agent.run_streaming("x", agent.get_new_thread(), BACKGROUND) as stream:
            async for update in stream:
                updates.append(update)
                if update.seq in (2, 10):
                    await asyncio.sleep(600)

        check(updates)
        assert provider.open_streams == 0

    story()


@virtual_time
async def test_a_connection_is_read_no_faster_than_its_consumer_reads():
    text = "word " * 16_000
    before = in_memory()
    async with ResponsesServer(script=Script.text(text, deltas=16_000)) as server:
        provider = OpenAIResponses("test", base_url=server.base_url, api_key="any")
        async with Agent(provider, clock=VirtualClock()) as agent:
            updates = []
            async with agent.run_streaming("x", agent.get_new_thread(), BACKGROUND) as stream:
                async for update in stream:
                    updates.append(update)
                    if update.seq == 10:
                        await asyncio.sleep(600)
                        assert in_memory() - before < 8000, "what was on its way"

            check(updates, text)
            assert server.count("stream") == 1


@virtual_time
async def test_streams_that_are_forgotten_leave_nobody_waiting():
    provider = told()
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        tasks = asyncio.all_tasks()
        async for update in handle.stream():
            if update.seq == 9:
                break

        stream = handle.stream()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(drain(stream), 5)

        del stream, update
        gc.collect()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks
        assert not handle._live.bell._waiting
        check(await drain(handle.stream()))

    assert provider.count("cancel") == 0


@virtual_time
async def test_a_run_that_the_service_has_forgotten_is_streamed_from_the_store():
    store, provider = MemoryStore(), told(retention=3600)
    agent = Agent(provider, clock=VirtualClock())
    async with runtime(store) as running:
        handle = await running.submit(agent, "x", stream=True)
        whole = await drain(handle.stream())

    await asyncio.sleep(DAY)
    asked = len(provider.calls)
    async with runtime(store, agents=[agent]) as running:
        for again in (
            await running.get(handle.id),
            await running.resume(str(whole[7].continuation_token), agent=agent),
        ):
            assert again == handle
            check(await drain(again.stream()))
            assert [update.seq for update in await drain(again.stream(after=7))] == [each.seq for each in whole[7:]]
            assert (await again).text == WORDS

    assert len(provider.calls) == asked, "nobody was asked"

    async with runtime() as running:
        with pytest.raises(TokenExpired):
            await running.resume(whole[7].continuation_token, agent=agent)
