"""What becomes of a local run whose process, event loop or `Local` is gone. All in virtual time, but for the kill."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_functions import BACKGROUND, WORDS, agent_of, check, joined, lasting, read, runtime, words

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    RequestRejected,
    RunFailed,
    RunStatus,
    StreamPolicy,
    UpdateType,
)
from agentbg.core.model import RunRef
from agentbg.providers import Local, LocalRun
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing import VirtualClock, announced, virtual_time

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_of_another_process_is_failed_as_lost(stream):
    @virtual_time
    async def story():
        store = MemoryStore()
        async with agent_of(words) as gone:
            async with runtime(store) as running:
                handle = await running.submit(gone, "x", stream=stream)
                await asyncio.sleep(2.5)

            before = asyncio.get_running_loop().time()
            async with runtime(store, agents=[agent_of(words)]) as running:
                handle = await running.get(handle.id)
                with pytest.raises(RunFailed, match=r"lost: .*another process"):
                    await handle

                assert handle.response.error.code == "lost"
                assert asyncio.get_running_loop().time() - before < 2, "no grace: it is known"
                assert handle.token is None
                assert joined(await read(handle)) == ("It was " if stream else "It "), "what was seen of it stays"

    story()


@virtual_time
async def test_a_token_of_another_process_tells_that_the_run_is_lost():
    async with agent_of(words) as there, agent_of(words) as here:
        response = await there.run("x", there.get_new_thread(), BACKGROUND)
        options = AgentRunOptions(True, str(response.continuation_token))
        seen = await here.run(thread=here.get_new_thread(), options=options)
        assert (seen.status, seen.error.code) == ("failed", "lost")
        updates = [u async for u in here.run_streaming(thread=here.get_new_thread(), options=options)]
        assert updates[-1].response.error.code == "lost"
        async with runtime() as running:
            handle = await running.resume(options.continuation_token, agent=here)
            with pytest.raises(RunFailed, match="lost"):
                await handle

            assert await handle.cancel() is RunStatus.FAILED

        local = here.provider
        assert (await local.cancel(response.continuation_token.ref)).lost


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_idempotent_run_is_started_again_under_its_id(stream, kind, tmp_path):
    @virtual_time
    async def story():
        keep = MemoryStore()
        ids = []

        def store():
            return announced(SQLiteStore(tmp_path / "runs")) if kind == "sqlite" else keep

        async def work(run: LocalRun):
            ids.append((run.id, run.text))
            async for word in words(run.text):
                yield word

        async with runtime(store()) as running:
            gone = agent_of(work, idempotent=True)
            run_id = (await running.submit(gone, "the sky", stream=stream)).id
            await asyncio.sleep(2.5)

        await gone.aclose()
        async with agent_of(work, idempotent=True) as agent, runtime(store(), agents=[agent]) as running:
            handle = await running.get(run_id)
            updates = await read(handle)
            assert (await handle).text == "".join(WORDS)

        check(updates, "".join(WORDS))
        assert [update.type for update in updates].count(UpdateType.RESET) == stream
        assert ids == [(run_id, "the sky")] * 2

    story()


@virtual_time
async def test_a_run_may_be_lost_again_and_again():
    store = MemoryStore()
    run_id = None
    for _ in range(5):
        agent = agent_of(words, idempotent=True)
        async with runtime(store, agents=[agent]) as running:
            run_id = run_id or (await running.submit(agent, "x", stream=True)).id
            await asyncio.sleep(3)

        await agent.aclose()

    async with agent_of(words, idempotent=True) as agent, runtime(store, agents=[agent]) as running:
        handle = await running.get(run_id)
        updates = await read(handle)
        check(updates, "".join(WORDS))
        assert [update.type for update in updates].count(UpdateType.RESET) == 5
        tail = updates[-4].continuation_token
        options = AgentRunOptions(True, str(tail))
        rest = [u async for u in agent.run_streaming(thread=agent.get_new_thread(), options=options)]
        assert [u.text for u in rest] == [u.text for u in updates[-3:]]


def test_an_idempotent_run_goes_on_in_the_next_loop_of_its_process():
    store, agent = MemoryStore(), agent_of(words, idempotent=True)

    @virtual_time
    async def story(run_id=None):
        async with runtime(store, agents=[agent]) as running:
            if run_id is None:
                run_id = (await running.submit(agent, "x", stream=True)).id
                await asyncio.sleep(3)
                return run_id

            return (await (await running.get(run_id))).text

    assert story(story()) == "".join(WORDS)


@virtual_time
async def test_a_cancelled_run_and_one_past_its_deadline_are_not_started_again():
    begun = []

    async def work(text: str):
        begun.append(text)
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(60)

    store = MemoryStore()
    gone = agent_of(work, idempotent=True)
    async with runtime(store) as running:
        cancelled = await running.submit(gone, "cancelled")
        late = await running.submit(gone, "late", deadline=30)
        await asyncio.sleep(5)
        assert (await cancelled.cancel()).live

    await gone.aclose()
    await asyncio.sleep(30)
    async with agent_of(work, idempotent=True) as agent, runtime(store, agents=[agent]) as running:
        assert await (await running.get(cancelled.id)).wait() is RunStatus.FAILED
        assert not (await (await running.get(late.id)).wait()).live

    assert begun == ["cancelled", "late"]


@virtual_time
async def test_only_its_own_agent_starts_a_run_again():
    store, other = MemoryStore(), Agent(Local(lasting(1), idempotent=True), name="other")
    gone = agent_of(lasting(600), idempotent=True)
    async with runtime(store) as running:
        handle = await running.submit(gone, "x")
        token = handle.token

    await gone.aclose()
    async with runtime(store) as running:
        with pytest.raises(RunFailed, match="lost"):
            await (await running.resume(token, agent=other))


@virtual_time
async def test_a_closed_agent_starts_nothing_again_and_the_next_process_does():
    store = MemoryStore()
    async with runtime(store) as running:
        async with agent_of(words, idempotent=True) as agent:
            handle = await running.submit(agent, "x", stream=True)
            await asyncio.sleep(2.5)

        with pytest.raises(RequestRejected, match="closed"):
            await handle

        assert len(agent.provider._works) == 1

    async with agent_of(words, idempotent=True) as agent, runtime(store, agents=[agent]) as running:
        assert (await (await running.get(handle.id))).text == "".join(WORDS)


@virtual_time
async def test_a_clock_that_went_back_loses_no_answer(monkeypatch):
    store, gone = MemoryStore(), agent_of(words, idempotent=True)
    async with runtime(store) as running:
        handle = await running.submit(gone, "x", stream=True)
        await asyncio.sleep(2.5)

    await gone.aclose()
    monkeypatch.setattr("agentbg.providers.local.time.time_ns", lambda: 1_000_000)
    async with agent_of(words, idempotent=True) as agent, runtime(store, agents=[agent]) as running:
        handle = await running.get(handle.id)
        check(await read(handle), "".join(WORDS))


@virtual_time
async def test_an_impatient_client_loses_nothing():
    async def work(text: str):
        yield "before "
        await asyncio.sleep(100)
        yield "after"

    policy = StreamPolicy(idle=5.0)
    async with runtime(stream=policy) as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        check(await read(handle), "before after")


@virtual_time
async def test_an_unknown_ref_is_lost_and_cannot_be_streamed():
    local = Local(lasting(1))
    shown = await local.poll(RunRef("local", "local", {"run": "run_1", "instance": "another"}))
    assert (shown.status, shown.error.code) == (RunStatus.FAILED, "lost")


CHILD = """
import asyncio, sys
from agentbg import Agent, AgentRuntime
from agentbg.providers import Local
from agentbg.stores import SQLiteStore

async def work(text: str):
    yield "half a "
    await asyncio.sleep(60)

async def main(path, idempotent):
    agent = Agent(Local(work, idempotent=bool(idempotent)), name="worker")
    async with AgentRuntime(SQLiteStore(path)) as runtime:
        handle = await runtime.submit(agent, "x", stream=True)
        async with handle.stream() as updates:
            async for update in updates:
                if update.text:
                    print(handle.id, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_run_of_a_killed_process_is_failed_as_lost_or_started_again(idempotent, tmp_path):
    path = tmp_path / "runs"
    arguments = [sys.executable, "-c", CHILD, str(path), "yes" if idempotent else ""]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        child.send_signal(signal.SIGKILL)

    assert run_id.startswith("run_")

    @virtual_time
    async def story():
        agent = agent_of(words, idempotent=idempotent)
        clock = VirtualClock(time.time())  # the child lived in real time
        store = announced(SQLiteStore(path))
        async with agent, AgentRuntime(store, agents=[agent], draw=lambda: 0.5, clock=clock) as running:
            handle = await running.get(run_id)
            check(await read(handle), "".join(WORDS) if idempotent else "half a ")
            if not idempotent:
                with pytest.raises(RunFailed, match="lost"):
                    await handle

    story()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_lives_and_dies_no_run_is_without_an_end_and_no_text_is_wrong(seed):
    """Random functions, processes, cancels and closings: a property of all the promises together."""
    chance = random.Random(seed)
    pieces, idempotent = chance.randint(1, 8), chance.random() < 0.7

    async def work(text: str):
        for number in range(pieces):
            await asyncio.sleep(chance.choice([0, 0.1, 1, 20]))
            yield f"{number} " if chance.random() < 0.9 else f"{chance.random()} "

    @virtual_time
    async def story():
        store, ids = MemoryStore(), []
        agent = agent_of(work, idempotent=idempotent, limit=2)
        for _life in range(chance.randint(1, 5)):
            if chance.random() < 0.7:
                await agent.aclose()
                agent = agent_of(work, idempotent=idempotent, limit=2)

            async with runtime(store, agents=[agent]) as running:
                ids += [(await running.submit(agent, "x", stream=chance.random() < 0.6)).id for _ in range(2)]
                if chance.random() < 0.3:
                    await (await running.get(chance.choice(ids))).cancel()

                await asyncio.sleep(chance.choice([0, 1, 30]))

        async with agent, runtime(store, agents=[agent]) as running:
            for run_id in ids:
                handle = await running.get(run_id)
                status = await handle.wait(timeout=1e5)
                updates = await read(handle)
                assert not status.live
                check(updates, handle.response.text if status is RunStatus.COMPLETED else joined(updates))
                if status is RunStatus.FAILED:
                    assert handle.response.error.code == "lost"
                    assert not idempotent or handle._live.record.cancel_requested

        assert len(asyncio.all_tasks()) == 1

    story()
