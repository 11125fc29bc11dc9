"""What is kept of a run's updates, when it is written, and that every consumer's text is right whatever is not."""

from __future__ import annotations

import asyncio
import copy
from itertools import pairwise

import pytest

from agentbg import Agent, AgentRuntime, RunStatus, StoreError, UpdateType, UsageError, tool
from agentbg.journal import AHEAD, CHECKPOINT, PIPELINED, UNKEPT_AHEAD
from agentbg.providers import Cap
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.provider import ALL_CAPS
from agentbg.testing.script import At

COUNT = 60
WORDS = "".join(f"word {number} " for number in range(COUNT))
MODES = [
    {"journal": "full", "flush": "commit"},
    {"journal": "full", "flush": "pipelined"},
    {"journal": "checkpoint"},
    {"journal": "off"},
]
names = {"ids": lambda mode: "-".join(mode.values()) if isinstance(mode, dict) else None}
every_mode = pytest.mark.parametrize("mode", MODES, **names)
late_modes = pytest.mark.parametrize("mode", MODES[1:], **names)


def runtime(store, provider=None, **settings) -> AgentRuntime:
    agents = [agent_of(provider)] if provider else []
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), agents=agents, **settings)


def agent_of(provider) -> Agent:
    return Agent(provider, name="writer", tools=[look])


@tool(idempotent=True)
async def look(seconds: float) -> str:
    """Look."""
    await asyncio.sleep(seconds)
    return "seen"


def told(seconds: float = 6.0, **settings) -> ScriptedProvider:
    return ScriptedProvider.text(WORDS, seconds=seconds, deltas=COUNT, **settings)


def in_rounds(**settings) -> ScriptedProvider:
    first = RunScript.call("look", {"seconds": 1.0}).steps[-2:]
    asking = RunScript.text(WORDS[:200], seconds=4, deltas=20).then(
        *(At(4.0, item=step.item, status=step.status) for step in first)
    )
    return ScriptedProvider([asking, RunScript.text(WORDS[200:], seconds=4, deltas=20)], **settings)


def joined(updates) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def crashed(store: MemoryStore) -> MemoryStore:
    """What a new process finds when the old one dies now."""
    found = MemoryStore()
    found._runs = copy.deepcopy(store._runs)
    return found


async def drain(stream):
    return [update async for update in stream]


async def check_all_places(handle, seen, text: str = WORDS) -> None:
    """Whoever holds a beginning of what was seen, or nothing, gets exactly the rest."""
    for held in [seen[:count] for count in range(len(seen) + 1)]:
        after = held[-1].seq if held else 0
        rest = await drain(handle.stream(after=after))
        assert joined([*held, *rest]) == text, after
        seqs = [after, *(update.seq for update in rest)]
        assert seqs == sorted(set(seqs))
        if after < handle._live.record.position.seq:
            assert rest[-1].type is UpdateType.END
            assert rest[-1].response.text == text


async def collect(handle, seen) -> None:
    async for update in handle.stream(after=seen[-1].seq if seen else 0):
        seen.append(update)


@every_mode
@virtual_time
async def test_every_consumer_gets_the_text_while_the_run_goes_on_and_after_its_end(mode):
    async with runtime(MemoryStore(), **mode) as running:
        handle = await running.submit(agent_of(told()), "x", stream=True)
        reading = []
        for _ in range(12):
            reading.append(asyncio.create_task(drain(handle.stream())))
            await asyncio.sleep(0.5)

        everything = await reading[0]
        assert [joined(await task) for task in reading] == [WORDS] * 12
        assert [update.seq for update in everything] == list(range(1, len(everything) + 1))
        await check_all_places(handle, everything)


@every_mode
@pytest.mark.parametrize("service", ["cursor", "window", "polled"])
@pytest.mark.parametrize("at", [0.0, 0.65, 1.0, 2.37, 5.4, 5.95])
def test_every_consumer_gets_the_text_across_a_crash(mode, service, at):
    @virtual_time
    async def story():
        caps = ALL_CAPS & ~Cap.STREAM_START if service == "polled" else ALL_CAPS
        provider = told(caps=caps, stream_window=1.5 if service == "window" else float("inf"))
        old, seen = MemoryStore(), []
        async with runtime(old, **mode) as first:
            handle = await first.submit(agent_of(provider), "x", stream=service != "polled")
            reading = asyncio.create_task(collect(handle, seen))
            await asyncio.sleep(at)
            new, run_id = crashed(old), handle.id
            reading.cancel()
            before = list(seen)

        await go_on(new, provider, mode, run_id, before)

    story()


async def go_on(store, provider, mode, run_id, before, text=WORDS):
    async with runtime(store, provider, **mode) as second:
        handle = await second.get(run_id)
        seen = list(before)
        early = asyncio.create_task(collect(handle, seen))
        assert (await handle.result()).text == text
        await early
        assert joined(seen) == text
        await check_all_places(handle, seen, text)

    async with runtime(store, **mode) as third:
        await check_all_places(await third.get(run_id), seen, text)


@every_mode
@pytest.mark.parametrize("follow_up", [ALL_CAPS, ALL_CAPS & ~Cap.RESPOND])
@pytest.mark.parametrize("at", [0.5, 2.05, 3.9, 4.5, 4.97, 5.1, 6.05, 8.8])
def test_every_consumer_gets_the_text_of_all_rounds_across_two_crashes(mode, follow_up, at):
    @virtual_time
    async def story():
        provider, store, seen = in_rounds(caps=follow_up), MemoryStore(), []
        agent = agent_of(provider)
        async with runtime(store, **mode) as first:
            handle = await first.submit(agent, "x", stream=True)
            run_id = handle.id
            reading = asyncio.create_task(collect(handle, seen))
            await asyncio.sleep(at)
            store = crashed(store)
            reading.cancel()
            before = list(seen)

        async with runtime(store, provider, **mode) as second:
            handle = await second.get(run_id)
            reading = asyncio.create_task(collect(handle, before))
            await asyncio.sleep(0.33)
            store = crashed(store)
            reading.cancel()
            before = list(before)

        await go_on(store, provider, mode, run_id, before)

    story()


@late_modes
@virtual_time
async def test_a_runtime_that_is_closed_has_stored_all_that_was_seen(mode):
    provider, store, seen = told(), MemoryStore(), []
    async with runtime(store, **mode) as first:
        handle = await first.submit(agent_of(provider), "x", stream=True)
        reading = asyncio.create_task(collect(handle, seen))
        await asyncio.sleep(2.37)
        run_id = handle.id

    await asyncio.gather(reading, return_exceptions=True)
    async with runtime(store, provider, **mode) as second:
        handle = await second.get(run_id)
        rest = await drain(handle.stream(after=seen[-1].seq))
        assert joined([*seen, *rest]) == WORDS
        exact = mode["journal"] != "off"
        assert exact == all(update.type is not UpdateType.RESET for update in rest)
        assert exact == (rest[0].seq == seen[-1].seq + 1)


@virtual_time
async def test_a_pipelined_update_is_seen_at_once_and_stored_a_moment_later():
    store = MemoryStore()
    async with runtime(store, flush="pipelined") as running:
        handle = await running.submit(agent_of(told()), "x", stream=True)
        stream = handle.stream()
        while (update := await anext(stream)).type is not UpdateType.TEXT:
            pass

        assert (await store.load(handle.id)).position.seq < update.seq
        await asyncio.sleep(PIPELINED + 0.01)
        stored = await store.read(handle.id)
        assert [each.seq for each in stored][: update.seq] == list(range(1, update.seq + 1))
        assert all(each.raw is not None for each in stored)


@virtual_time
async def test_checkpoints_are_a_second_apart_and_keep_text_and_place_only():
    store = MemoryStore()
    saved = []
    append = store.append

    async def noted(record, updates):
        saved.append((asyncio.get_running_loop().time(), len(updates)))
        await append(record, updates)

    store.append = noted
    async with runtime(store, journal="checkpoint") as running:
        handle = await running.submit(agent_of(told(12)), "x", stream=True)
        seen = await drain(handle.stream())
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(saved)]
        assert len(saved) >= 9
        assert all(gap >= CHECKPOINT for gap in gaps)
        stored = await store.read(handle.id)
        assert [(each.seq, each.type, each.text) for each in stored] == [(u.seq, u.type, u.text) for u in seen]
        assert all(each.raw is None for each in stored)
        assert any(each.raw is not None for each in seen)


@virtual_time
async def test_a_journal_that_is_off_keeps_the_record_and_the_last_update_only():
    store = MemoryStore()
    async with runtime(store, journal="off") as running:
        handle = await running.submit(agent_of(told()), "x", stream=True)
        seen = await drain(handle.stream())
        assert [(each.seq, each.type) for each in await store.read(handle.id)] == [(seen[-1].seq, UpdateType.END)]
        assert (await store.load(handle.id)).snapshot.text == WORDS


@pytest.mark.parametrize("mode", [MODES[1], MODES[2]], **names)
@virtual_time
async def test_no_more_than_a_bound_is_seen_and_not_stored(mode):
    """At any moment: of a service that sends as fast as it can."""
    store = MemoryStore()
    append = store.append

    async def slow(record, updates):
        await asyncio.sleep(0.5)
        await append(record, updates)

    store.append = slow
    async with runtime(store, **mode) as running:
        provider = ScriptedProvider.text("x" * 5000, seconds=2, deltas=5000)
        handle = await running.submit(agent_of(provider), "x", stream=True)
        lead = [update.seq - (await store.load(handle.id)).position.seq async for update in handle.stream()]
        assert 0 < max(lead) <= AHEAD
        assert (await handle.result()).text == "x" * 5000


@virtual_time
async def test_without_a_journal_the_record_is_saved_before_its_seqs_run_out(monkeypatch):
    monkeypatch.setattr("agentbg.journal.UNKEPT_AHEAD", 10)
    store = MemoryStore()
    async with runtime(store, journal="off") as running:
        handle = await running.submit(agent_of(told()), "x", stream=True)
        lead = [update.seq - (await store.load(handle.id)).position.seq async for update in handle.stream()]
        assert max(lead) < 10
        assert UNKEPT_AHEAD == 100_000


@late_modes
@virtual_time
async def test_a_store_that_refuses_lets_go_of_the_run_and_tells_its_consumers(mode):
    store, provider = MemoryStore(), told()
    async with runtime(store, **mode) as running:
        handle = await running.submit(agent_of(provider), "x", stream=True)
        reading = asyncio.create_task(drain(handle.stream()))
        await asyncio.sleep(1)

        async def refuse(*_):
            raise StoreError("The disk is full.")

        store.append = store.save = refuse
        with pytest.raises(StoreError, match="full"):
            await reading

        with pytest.raises(StoreError, match="full"):
            await handle.result()

        del store.append, store.save
        again = await running.get(handle.id)
        assert joined(await drain(again.stream())) == WORDS
        assert again.status is RunStatus.COMPLETED


@late_modes
@virtual_time
async def test_a_consumer_that_stands_still_gets_everything(mode):
    text = "".join(f"{number} " for number in range(2000))
    provider = ScriptedProvider.text(text, seconds=20, deltas=2000)
    async with runtime(MemoryStore(), **mode) as running:
        handle = await running.submit(agent_of(provider), "x", stream=True)
        seen = []
        async for update in handle.stream():
            seen.append(update)
            if update.seq in (3, 900):
                await asyncio.sleep(6)

        assert joined(seen) == text
        kept = mode["journal"] != "off"
        assert kept == ([update.seq for update in seen] == list(range(1, len(seen) + 1)))


@every_mode
@virtual_time
async def test_a_run_that_waits_for_its_user_shows_its_text_to_the_next_process(mode):
    asking = RunScript.text(WORDS[:200], seconds=4, deltas=20).then(At(4.0, status="input_required"))
    provider = ScriptedProvider([asking, RunScript.text(WORDS[200:], seconds=4, deltas=20)])
    store = MemoryStore()
    async with runtime(store, **mode) as first:
        handle = await first.submit(agent_of(provider), "x", stream=True)
        seen = await drain(handle.stream())
        assert seen[-1].type is UpdateType.WAITING

    async with runtime(store, provider, **mode) as second:
        handle = await second.get(handle.id)
        waiting = await drain(handle.stream())
        assert joined(waiting) == WORDS[:200]
        assert waiting[-1].response.requests
        await handle.respond(*(request.answer("yes") for request in waiting[-1].response.requests))
        seen += await drain(handle.stream(after=seen[-1].seq))
        assert joined(seen) == WORDS
        await check_all_places(handle, seen)


@every_mode
@virtual_time
async def test_a_run_of_a_token_has_its_text_right_in_the_end(mode):
    provider = told()
    async with runtime(MemoryStore()) as elsewhere:
        handle = await elsewhere.submit(agent_of(provider), "x", stream=True)
        seen = []
        async for update in handle.stream():
            seen.append(update)
            if update.seq == 30:
                break

        async with runtime(MemoryStore(), **mode) as here:
            token = seen[-1].continuation_token
            taken = await here.resume(token, agent=agent_of(provider))
            rest = await drain(taken.stream(after=30))
            assert joined([*seen, *rest]) == WORDS
            assert taken.response.text.endswith(WORDS[-20:])


@virtual_time
async def test_a_run_keeps_the_mode_that_it_was_submitted_with():
    store, provider = MemoryStore(), told()
    async with runtime(store) as first:
        handle = await first.submit(agent_of(provider), "x", stream=True, journal="off")
        await asyncio.sleep(1)

    async with runtime(store, provider, flush="pipelined") as second:
        handle = await second.get(handle.id)
        await handle.result()
        assert len(await store.read(handle.id)) == 1
        assert (await store.load(handle.id)).journal == "off"


async def test_a_mode_that_there_is_not_is_refused():
    for wrong in ({"journal": "none"}, {"flush": "never"}, {"journal": None}):
        with pytest.raises(UsageError, match=r"(journal|flush) is one of '"):
            AgentRuntime(**wrong)

    async with AgentRuntime() as running:
        with pytest.raises(UsageError, match="journal is one of"):
            await running.submit(agent_of(told()), "x", journal="none")
