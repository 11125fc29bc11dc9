"""What a runtime learns of how long its runs take, what it keeps of that, and what comes of it. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    Hazard,
    PollPolicy,
    RunCancelled,
    RunExpired,
    ServiceUnavailable,
    StoreError,
)
from agentbg.learning import INTERVAL, PREFIX, Learning
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing import ScriptedProvider, VirtualClock, announced, virtual_time

ADAPTIVE = PollPolicy(schedule="adaptive")


class NotingStore(MemoryStore):
    """Keeps notes, and when they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, bytes] = {}
        self.written: list[float] = []
        self.fails = False

    async def note(self, key: str, value: bytes) -> None:
        self.written.append(asyncio.get_running_loop().time())
        if self.fails:
            raise StoreError("The disk is full.")

        self.kept[key] = value

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        if self.fails:
            raise StoreError("The disk is gone.")

        return {key: value for key, value in self.kept.items() if key.startswith(prefix)}

    def ends(self, agent: str = "agent", model: str = "") -> float:
        return Hazard.from_json(self.kept[f"{PREFIX}{agent!r} {model!r}"]).ends


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


async def finish(running, agent, *, runs=1, **settings):
    """Submit runs one after the other, and wait for each."""
    for _ in range(runs):
        await (await running.submit(agent, "x", **settings))


@virtual_time
async def test_polls_gather_where_runs_were_seen_to_end():
    provider = ScriptedProvider.text("done", seconds=120)
    agent = Agent(provider)
    async with runtime(poll=ADAPTIVE) as running:
        await finish(running, agent)
        naive, before = provider.count("poll"), asyncio.get_running_loop().time()
        await finish(running, agent, runs=60)
        delay = (asyncio.get_running_loop().time() - before) / 60 - 120
        known = provider.count("poll")
        await finish(running, agent)

    assert provider.count("poll") - known < naive / 2
    assert delay < 5


@virtual_time
async def test_the_next_runtime_on_the_store_knows_what_this_one_has_learned():
    store, provider = NotingStore(), ScriptedProvider.text("done", seconds=120)
    agent = Agent(provider)
    async with runtime(store, poll=ADAPTIVE) as running:
        await finish(running, agent, runs=30)

    assert store.ends() == pytest.approx(30)
    known = provider.count("poll")
    async with runtime(store, poll=ADAPTIVE) as running:
        await finish(running, agent)

    assert provider.count("poll") - known < known / 30
    assert store.ends() == pytest.approx(31)


@virtual_time
async def test_so_does_one_on_a_file(tmp_path):
    agent = Agent(ScriptedProvider.text("done", seconds=120))
    for known in (0, 3):
        async with runtime(announced(SQLiteStore(tmp_path / "runs.db"))) as running:
            assert running._learning.of(agent, agent.record(None, 0.0, None)).ends == pytest.approx(known)
            await finish(running, agent, runs=3)


@virtual_time
async def test_agents_and_models_are_told_apart():
    class Named(ScriptedProvider):
        model = "small"

    store, provider = NotingStore(), Named.text("done", seconds=10)
    other = AgentRunOptions(allow_background_responses=True, extra={"model": "large"})
    async with runtime(store) as running:
        await finish(running, Agent(provider, name="one"), runs=2)
        await finish(running, Agent(provider, name="two"))
        await finish(running, Agent(provider, name="two"), options=other, runs=3)

    ends = {key: Hazard.from_json(value).ends for key, value in store.kept.items()}
    assert ends == {
        PREFIX + "'one' 'small'": pytest.approx(2),
        PREFIX + "'two' 'small'": pytest.approx(1),
        PREFIX + "'two' 'large'": pytest.approx(3),
    }


@virtual_time
async def test_it_is_written_at_most_every_half_minute_and_when_the_runtime_closes():
    store = NotingStore()
    async with runtime(store) as running:
        await finish(running, Agent(ScriptedProvider.text("done", seconds=3)), runs=40)
        written, now = list(store.written), asyncio.get_running_loop().time()
        await asyncio.sleep(10 * INTERVAL)  # nothing happens, so nothing is written but the rest
        assert len(store.written) <= len(written) + 1

    assert 2 <= len(written) <= now / INTERVAL
    assert store.ends() == pytest.approx(40)


@virtual_time
async def test_a_slow_store_is_written_to_by_one_at_a_time_and_is_told_all_in_the_end():
    class Slow(NotingStore):
        writing = most = 0

        async def note(self, key: str, value: bytes) -> None:
            self.writing += 1
            self.most = max(self.most, self.writing)
            await asyncio.sleep(3 * INTERVAL)
            self.writing -= 1
            await super().note(key, value)

    store = Slow()
    async with runtime(store) as running:
        agent = Agent(ScriptedProvider.text("done", seconds=3))
        await finish(running, agent, runs=40)
        await asyncio.sleep(20 * INTERVAL)
        assert store.ends() == pytest.approx(40), "also what it learned while it wrote"
        await finish(running, agent)

    assert store.ends() == pytest.approx(41)
    assert store.most == 1


@virtual_time
async def test_what_is_not_written_yet_is_when_the_runtime_closes():
    store = NotingStore()
    async with runtime(store) as running:
        await finish(running, Agent(ScriptedProvider.text("done", seconds=3)))
        assert not store.written

    assert store.ends() == pytest.approx(1)


@virtual_time
async def test_a_store_without_notes_does_as_well():
    class Plain:
        def __init__(self) -> None:
            self._inner = MemoryStore()

        def __getattr__(self, name):
            if name in ("note", "notes"):
                raise AttributeError(name)

            return getattr(self._inner, name)

    async with runtime(Plain(), poll=ADAPTIVE) as running:
        await finish(running, Agent(ScriptedProvider.text("done", seconds=100)), runs=3)
        await asyncio.sleep(2 * INTERVAL)


@virtual_time
async def test_a_damaged_note_is_told_of_and_learned_anew(caplog):
    store = NotingStore()
    key = PREFIX + "'agent' ''"
    store.kept[key] = b'{"v": 99}'
    async with runtime(store) as running:
        assert key in caplog.text
        await finish(running, Agent(ScriptedProvider.text("done", seconds=3)))

    assert store.ends() == pytest.approx(1)


@virtual_time
async def test_a_store_that_keeps_no_notes_today_costs_no_run_anything(caplog):
    store = NotingStore()
    store.fails = True
    async with runtime(store) as running:
        assert "cannot be read" in caplog.text
        await finish(running, Agent(ScriptedProvider.text("done", seconds=3)), runs=20)
        assert "was not written: The disk is full." in caplog.text

    assert not store.kept


@virtual_time
async def test_runs_that_we_end_ourselves_have_not_ended():
    store, provider = NotingStore(), ScriptedProvider.text("done", seconds=1000)
    async with runtime(store) as running:
        agent = Agent(provider)
        handle = await running.submit(agent, "x")
        await handle.wait(timeout=100)
        await handle.cancel()
        with pytest.raises(RunCancelled):
            await handle

        with pytest.raises(RunExpired):
            await (await running.submit(agent, "x", deadline=50))

        assert running._learning.of(agent, handle._live.record).ends == 0

    assert not store.kept


@virtual_time
async def test_a_service_that_was_down_teaches_nothing_about_how_long_runs_take():
    store, provider = NotingStore(), ScriptedProvider.text("done", seconds=60)
    async with runtime(store) as running:
        handle = await running.submit(Agent(provider), "x")
        await handle.wait(timeout=20)
        provider.fail("poll", ServiceUnavailable("down"), times=None)
        await handle.wait(timeout=3600)
        provider.faults.clear()
        await handle
        await finish(running, Agent(ScriptedProvider.text("done", seconds=60)))

    assert store.ends() == pytest.approx(1)


@virtual_time
async def test_cancelling_the_last_write_loses_only_that():
    class Slow(NotingStore):
        async def note(self, key: str, value: bytes) -> None:
            await asyncio.sleep(1000)

    learning = Learning(Slow())
    agent = Agent(ScriptedProvider.text("done"))
    learning.of(agent, agent.record(None, 0.0, None)).ended(1, 2)
    closing = asyncio.ensure_future(learning.aclose())
    await asyncio.sleep(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
