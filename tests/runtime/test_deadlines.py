"""Runs that are late, or stand still: what is done about them, and who is told. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf, nan
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    InputRequired,
    PollPolicy,
    RequestBudget,
    RunCancelled,
    RunExpired,
    RunStatus,
    ServiceUnavailable,
    UsageError,
)
from agentbg.providers.base import Cap
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.provider import ALL_CAPS


def runtime(store=None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def now() -> float:
    return asyncio.get_running_loop().time()


class Notes:
    """A hook that notes what was late, stood still, or ended, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, RunStatus]] = []

    def on_stall(self, handle):
        self.seen.append(("stall", now(), handle.status))

    def on_deadline(self, handle):
        self.seen.append(("deadline", now(), handle.status))

    def on_completion(self, handle):
        self.seen.append(("completion", now(), handle.status))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.seen]


# --- what is refused ---


@pytest.mark.parametrize("deadline", [0, -1.0, inf, nan])
@virtual_time
async def test_a_deadline_that_is_none_is_refused(deadline):
    with pytest.raises(UsageError, match="deadline is in seconds"):
        runtime(deadline=deadline)

    provider = ScriptedProvider()
    async with runtime() as running:
        with pytest.raises(UsageError, match="deadline is in seconds"):
            await running.submit(Agent(provider), "x", deadline=deadline)

    assert provider.count("start") == 0


@virtual_time
async def test_another_word_for_what_is_done_then_is_refused():
    word: Any = "explode"
    with pytest.raises(UsageError, match="'detach', 'cancel'"):
        runtime(on_deadline=word)

    async with runtime() as running:
        with pytest.raises(UsageError, match="'detach', 'cancel'"):
            await running.submit(Agent(ScriptedProvider()), "x", on_deadline=word)


# --- detach ---


@virtual_time
async def test_a_run_that_is_let_go_of_can_be_taken_up_by_its_token():
    provider, notes = ScriptedProvider.text("The whole answer.", seconds=100, deltas=10), Notes()
    async with runtime(hooks=[notes]) as running:
        agent = Agent(provider)
        handle = await running.submit(agent, "x", deadline=50, metadata={"user": 7})
        assert handle.deadline_at == handle._live.record.created_at + 50
        with pytest.raises(RunExpired, match="deadline") as caught:
            await handle

        assert notes.seen == [("deadline", 50, RunStatus.EXPIRED), ("completion", 50, RunStatus.EXPIRED)]
        token = caught.value.token
        assert token is not None
        assert token == handle.token == handle.response.continuation_token
        assert caught.value.response.text

        again = await running.resume(str(token), agent=agent)
        assert (again.id == handle.id, again.deadline_at, again.metadata) == (False, None, {"user": 7})
        assert (await again).text == "The whole answer."
        assert await running.resume(str(token), agent=agent) == again, "and is that run from then on"
        assert (await running.get(handle.id)).status is RunStatus.EXPIRED

    assert (provider.count("start"), provider.count("cancel")) == (1, 0)


@virtual_time
async def test_another_process_takes_it_up_too_and_streams_exactly_what_is_missing():
    store, provider = MemoryStore(), ScriptedProvider.text("The whole answer.", seconds=100, deltas=10)
    agent = Agent(provider)
    async with runtime(store) as running:
        handle = await running.submit(agent, "x", deadline=50, stream=True)
        async with handle.stream() as updates:
            had = "".join([update.text async for update in updates])

        with pytest.raises(RunExpired):
            await handle

    async with runtime(store) as running:
        again = await running.resume(handle.token, agent=agent)
        async with again.stream() as updates:
            rest = "".join([update.text async for update in updates])

    assert had
    assert rest
    assert had + rest == "The whole answer."


@virtual_time
async def test_the_token_on_the_last_update_is_good_too():
    provider = ScriptedProvider.text("The whole answer.", seconds=100, deltas=10)
    async with runtime() as running:
        agent = Agent(provider)
        handle = await running.submit(agent, "x", deadline=50)
        async with handle.stream() as updates:
            seen = [update async for update in updates]

        assert seen[-1].response.continuation_token == handle.token


@virtual_time
async def test_a_thread_goes_on_with_the_run_that_was_let_go_of():
    provider = ScriptedProvider(RunScript.text("Late.", seconds=100), RunScript.text("Next.", seconds=1))
    async with runtime() as running:
        agent = Agent(provider)
        thread = agent.get_new_thread()
        handle = await running.submit(agent, "x", thread=thread, deadline=50)
        with pytest.raises(RunExpired) as caught:
            await handle

        assert thread.current is None, "the thread waits for nobody"
        again = await running.resume(caught.value.token, agent=agent, thread=thread)
        assert (await again).text == "Late."
        assert [message.text for message in thread.messages] == ["x", "Late."]
        assert (await (await running.submit(agent, "y", thread=thread))).text == "Next."


@virtual_time
async def test_a_run_that_ends_just_before_its_deadline_has_ended():
    notes = Notes()
    async with runtime(hooks=[notes], poll=PollPolicy(initial=30, maximum=30)) as running:
        handle = await running.submit(Agent(ScriptedProvider.text("done", seconds=49)), "x", deadline=50)
        assert (await handle).text == "done"
        assert now() == 50

    assert notes.kinds == ["completion"]


@virtual_time
async def test_a_run_that_waits_for_its_user_expires_at_its_deadline():
    store, notes, agent = MemoryStore(), Notes(), Agent(ScriptedProvider(RunScript.asks()))
    async with runtime(store, hooks=[notes]) as running:
        handle = await running.submit(agent, "x", deadline=50)
        with pytest.raises(InputRequired) as waiting:
            await handle

        await asyncio.sleep(60)
        assert handle.status is RunStatus.EXPIRED
        assert notes.kinds == ["deadline", "completion"]
        with pytest.raises(UsageError, match="waits for no answer"):
            await handle.respond(waiting.value.response.requests[0].approve())

        late = await running.submit(agent, "x", deadline=50)
        await late.wait()

    await asyncio.sleep(100)
    async with runtime(store, agents=[agent], hooks=[notes]) as running:
        again = await running.get(late.id)
        await asyncio.sleep(1)
        assert again.status is RunStatus.EXPIRED


# --- cancel ---


@virtual_time
async def test_a_run_may_be_cancelled_at_its_deadline():
    provider, notes = ScriptedProvider.text("done", seconds=100, latency=1.0), Notes()
    async with runtime(hooks=[notes]) as running:
        handle = await running.submit(Agent(provider), "x", deadline=50, on_deadline="cancel")
        with pytest.raises(RunCancelled) as caught:
            await handle

        assert caught.value.token is None
        assert handle._live.record.cancel_reason == "deadline"

    assert notes.kinds == ["deadline", "completion"]
    assert provider.count("cancel") == 1


@virtual_time
async def test_a_run_that_ends_while_it_is_being_cancelled_keeps_its_end():
    provider = ScriptedProvider.text("done", seconds=60, cancel_delay=None)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x", deadline=50, on_deadline="cancel")
        assert (await handle).text == "done"


@pytest.mark.parametrize("refuses", [True, False])
def test_a_run_that_cannot_be_cancelled_is_let_go_of_in_the_end(refuses):
    @virtual_time
    async def story():
        notes = Notes()
        provider = ScriptedProvider.text("done", seconds=1000, cancel_delay=None)
        if refuses:
            provider.fail("cancel", ServiceUnavailable("503"), times=None)

        async with runtime(hooks=[notes]) as running:
            agent = Agent(provider)
            handle = await running.submit(agent, "x", deadline=50, on_deadline="cancel")
            with pytest.raises(RunExpired) as caught:
                await handle

            assert now() == 50 + 120
            assert notes.kinds == ["deadline", "completion"]
            assert (await (await running.resume(caught.value.token, agent=agent))).text == "done"

    story()


@virtual_time
async def test_what_is_done_then_is_the_runtimes_unless_the_run_says_otherwise_and_outlives_the_process():
    store, provider = MemoryStore(), ScriptedProvider.text("done", seconds=1000)
    agent = Agent(provider)
    async with runtime(store, deadline=50, on_deadline="cancel") as running:
        default = await running.submit(agent, "x")
        own = await running.submit(agent, "x", deadline=90, on_deadline="detach")
        assert own.deadline_at - default.deadline_at == 40

    async with runtime(store, agents=[agent]) as running:
        handles = [await running.get(each.id) for each in (default, own)]
        ends = await running.gather(handles, return_exceptions=True)
        assert [type(each) for each in ends] == [RunCancelled, RunExpired]


# --- standing still ---


@virtual_time
async def test_a_run_that_stands_still_is_told_of_once_for_each_time():
    notes = Notes()
    script = RunScript([At(0, status="running"), At(100, text="News."), At(300, status="completed")])
    async with runtime(hooks=[notes], poll=PollPolicy(stall_after=60)) as running:
        handle = await running.submit(Agent(ScriptedProvider(script)), "x")
        await asyncio.sleep(80)
        assert handle.stalled
        await asyncio.sleep(30)
        assert not handle.stalled
        await handle

    assert notes.kinds == ["stall", "stall", "completion"]
    first, second, _ = [at for _, at, _ in notes.seen]
    assert 60 < first <= 60 + 15 + 1
    assert 160 < second <= 160 + 2 * 16


@virtual_time
async def test_a_stream_that_only_keeps_alive_stands_still_too_and_a_handle_can_be_asked_to_tell():
    told = list[float]()
    provider = ScriptedProvider(RunScript([At(0, status="running"), At(1000, status="completed")]))
    async with runtime(poll=PollPolicy(stall_after=60)) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        handle.add_stall_callback(lambda which: told.append(now()) if which is handle else None)
        handle.add_stall_callback(lambda _: 1 / 0)
        errors = list[Any]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        await handle

    assert len(told) == 1
    assert [type(error) for error in errors] == [ZeroDivisionError]


@virtual_time
async def test_a_run_that_waits_for_its_user_does_not_stand_still():
    notes = Notes()
    async with runtime(hooks=[notes], poll=PollPolicy(stall_after=60)) as running:
        handle = await running.submit(Agent(ScriptedProvider(RunScript.asks())), "x")
        await asyncio.sleep(10_000)
        assert not handle.stalled

    assert notes.seen == []


# --- while a poll waits for its turn ---


@asynccontextmanager
async def crowded(script: RunScript | list[RunScript], *tools: Any, cut: int = 99) -> AsyncIterator[Any]:
    """A streamed run whose poll waits for its turn from 4.5 s on: a start that hangs has the only place."""
    provider = ScriptedProvider(script, RunScript.endless())
    provider.delay("start", 3000).cut(cut)
    async with runtime(budget=RequestBudget(in_flight=1)) as running:
        handle = await running.submit(Agent(provider, tools=tools), "x", stream=True, deadline=500)
        other = asyncio.ensure_future(running.submit(Agent(provider, name="other"), "x"))
        await asyncio.sleep(2.5)
        assert running.notify(handle.token.ref.id)
        await asyncio.sleep(2.5)
        assert running.stats().endpoints[0].waiting == 1
        yield handle
        other.cancel()


@virtual_time
async def test_a_run_that_came_to_wait_for_its_user_meanwhile_expires_all_the_same():
    async with crowded(RunScript.asks(seconds=10)) as handle:
        assert await handle.wait() is RunStatus.INPUT_REQUIRED
        await asyncio.sleep(500)
        assert handle.status is RunStatus.EXPIRED
        assert handle.elapsed == 500


@virtual_time
async def test_a_run_whose_calls_are_being_made_meanwhile_expires_all_the_same():
    async def slow() -> int:
        await asyncio.sleep(1000)
        return 1

    script = [RunScript.call("slow", {}, seconds=10), RunScript.endless()]
    async with crowded(script, slow) as handle:
        with pytest.raises(RunExpired):
            await handle

        assert handle.elapsed == 500


@virtual_time
async def test_a_run_whose_stream_is_cut_meanwhile_expires_all_the_same():
    steps = [At(0, status="running"), At(6, text="a"), At(9000, status="completed")]
    async with crowded(RunScript(steps), cut=2) as handle:
        with pytest.raises(RunExpired):
            await handle

        assert handle.elapsed == 500


@virtual_time
async def test_no_calls_are_made_after_a_deadline_whose_cancel_the_service_refused():
    calls = list[int]()
    scripts = [RunScript.call("tool", {"x": 1}, seconds=80), RunScript.text("done", seconds=5)]
    provider = ScriptedProvider(scripts, caps=ALL_CAPS & ~Cap.RESPOND, cancel_delay=None)
    provider.fail("cancel", ServiceUnavailable("429", status_code=429), times=None)

    def tool(x: int) -> None:
        calls.append(x)

    async with runtime() as running:
        agent = Agent(provider, tools=[tool])
        handle = await running.submit(agent, "x", deadline=50, on_deadline="cancel")
        with pytest.raises(RunCancelled):
            await handle

    assert not calls
    assert provider.count("start") == 1
