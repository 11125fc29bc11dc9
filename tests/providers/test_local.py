"""Functions of one's own as background runs. All in virtual time, but for the process that is killed."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    Message,
    OutputInvalid,
    RequestRejected,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunStatus,
    StreamPolicy,
    Unsupported,
    UpdateType,
    UsageError,
)
from agentbg.core.model import EventKind, RunRef, StartRequest
from agentbg.providers import Local, LocalRun, Provider
from agentbg.stores import MemoryStore, SQLiteStore
from agentbg.testing import VirtualClock, announced, virtual_time

ROOT = Path(__file__).parents[2]
WORDS = ["It ", "was ", "a ", "bright ", "cold ", "day."]
BACKGROUND = AgentRunOptions(allow_background_responses=True)


class Report(BaseModel):
    title: str
    pages: int


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def agent_of(function, *, output_type=None, stream=None, **settings):
    return Agent(
        Local(function, **settings), name="worker", clock=VirtualClock(), output_type=output_type, stream=stream
    )


def lasting(seconds: float, answer: object = "done"):
    async def work(text: str):
        await asyncio.sleep(seconds)
        return answer

    return work


def asked(text: str = "x", *, background: bool = True) -> StartRequest:
    return StartRequest(input=[Message("user", text).item], background=background)


async def words(text: str):
    for word in WORDS:
        await asyncio.sleep(1)
        yield word


async def read(handle, after: int = 0):
    async with handle.stream(after=after) as updates:
        return [update async for update in updates]


def joined(updates) -> str:
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def check(updates, text: str) -> None:
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert joined(updates) == text
    assert [update.type for update in updates].count(UpdateType.END) == 1
    assert updates[-1].type is UpdateType.END


async def result_of(function, input="x", **settings):
    async with runtime() as running, agent_of(function, **settings) as agent:
        return await (await running.submit(agent, input, stream=True))


# --- failures ---


@virtual_time
async def test_an_exception_fails_the_run_with_its_name_and_message_and_is_logged_with_its_traceback(caplog):
    async def work(text: str):
        await asyncio.sleep(1)
        raise LookupError("no such star")

    async with runtime() as running, agent_of(work) as agent:
        for stream in (False, True):
            with pytest.raises(RunFailed, match="LookupError: no such star") as caught:
                await (await running.submit(agent, "x", stream=stream))

            assert caught.value.response.error.code == "LookupError"
            assert "Traceback" not in caught.value.response.error.message

    assert "Traceback" in caplog.text
    assert "in work" in caplog.text


@virtual_time
async def test_a_generator_that_fails_keeps_what_it_yielded():
    async def work(text: str):
        yield "so far, "
        yield "so good"
        raise RuntimeError

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        with pytest.raises(RunFailed, match=r"RuntimeError: RuntimeError\(\)") as caught:
            await handle

        check(await read(handle), "so far, so good")

    assert caught.value.response.text == "so far, so good"


@virtual_time
async def test_a_cancellation_that_nobody_asked_for_is_a_failure():
    async def work(text: str):
        inner = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(1, inner.cancel)
        await inner

    with pytest.raises(RunFailed, match=r"CancelledError: .*nobody had cancelled the run"):
        await result_of(work)


@pytest.mark.parametrize(
    ("made", "said"), [(lambda text: "done", "gave a str; make it an `async def`"), (lambda text: None, "gave a None")]
)
def test_a_function_that_is_not_async_says_so(made, said):
    @virtual_time
    async def story():
        with pytest.raises(RunFailed, match=f"TypeError: .*{said}"):
            await result_of(made)

    story()


@virtual_time
async def test_pieces_must_be_text_and_answers_must_be_json():
    async def numbers(text: str):
        yield 1

    async def opaque(text: str):
        return object()

    with pytest.raises(RunFailed, match="pieces of str, not of int"):
        await result_of(numbers)

    with pytest.raises(RunFailed, match="PydanticSerializationError"):
        await result_of(opaque)


@virtual_time
async def test_an_exception_that_cannot_be_shown_ends_its_run_all_the_same():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    async def work(text: str):
        raise Broken

    with pytest.raises(RunFailed, match="Broken: The exception cannot be shown"):
        await result_of(work)


async def _none(): ...
async def _two(a: str, b: str): ...
async def _number(a: int): ...
async def _keyword(*, a: str): ...


@pytest.mark.parametrize("function", [_none, _two, _number, _keyword, "text", None])
def test_a_function_of_anything_but_a_text_or_a_run_is_refused_where_it_is_given(function):
    with pytest.raises(UsageError, match="a str"):
        Local(function)


def test_wrong_bounds_are_refused():
    for wrong in ({"limit": 0}, {"keep": 0.0}):
        with pytest.raises(UsageError, match="limit >= 1 and keep > 0"):
            Local(lasting(1), **wrong)


@virtual_time
async def test_what_it_has_not_it_says():
    local = Local(lasting(1))
    ref = (await local.start(asked())).ref
    assert isinstance(local, Provider)
    with pytest.raises(Unsupported):
        await local.respond(ref, {})

    with pytest.raises(Unsupported):
        await local.delete(ref)

    await local.aclose()


# --- cancelling ---


@virtual_time
async def test_cancel_ends_the_function_and_its_finally_runs():
    cleaned = []

    async def work(text: str):
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.append(text)

    async with runtime() as running, agent_of(work) as agent:
        for stream in (False, True):
            handle = await running.submit(agent, f"{stream}", stream=stream)
            await asyncio.sleep(5)
            assert await handle.cancel(reason="enough") is RunStatus.CANCELLED
            with pytest.raises(RunCancelled):
                await handle

    assert cleaned == ["False", "True"]


@virtual_time
async def test_cancel_closes_a_generator_where_it_stands():
    closed = []

    async def work(text: str):
        try:
            async for word in words(text):
                yield word
        finally:
            await asyncio.sleep(0.1)
            closed.append(True)

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        await asyncio.sleep(2.5)
        await handle.cancel()
        check(await read(handle), "It was ")
        assert handle.status is RunStatus.CANCELLED

    assert closed == [True]


@virtual_time
async def test_a_function_that_cleans_up_for_long_is_waited_for_by_polls():
    async def work(text: str):
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(30)

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x")
        await asyncio.sleep(5)
        began = asyncio.get_running_loop().time()
        assert (await handle.cancel()).live
        assert asyncio.get_running_loop().time() - began <= 1.0
        assert await handle.wait() is RunStatus.CANCELLED


@virtual_time
async def test_cleaning_up_is_not_disturbed_by_another_cancel_nor_by_a_runtime_that_takes_the_run_up_nor_by_closing():
    cleaned = []

    async def work(text: str):
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(9)
            cleaned.append(asyncio.get_running_loop().time())

    store, agent = MemoryStore(), agent_of(work)
    async with runtime(store) as running:
        handle = await running.submit(agent, "x")
        await asyncio.sleep(5)
        await handle.cancel()
        await handle.cancel()

    async with runtime(store, agents=[agent]):
        await asyncio.sleep(1)

    await agent.aclose()
    assert cleaned == [14]


@virtual_time
async def test_a_function_that_answers_its_cancellation_has_answered():
    async def work(text: str):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            return "what I have"

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x")
        await asyncio.sleep(5)
        assert await handle.cancel() is RunStatus.COMPLETED
        assert (await handle).text == "what I have"
        assert await handle.cancel() is RunStatus.COMPLETED


@virtual_time
async def test_a_cancelled_waiter_a_closed_stream_and_a_left_runtime_leave_the_function_at_work():
    store = MemoryStore()
    async with agent_of(lasting(60)) as agent:
        async with runtime(store) as running:
            handle = await running.submit(agent, "x", stream=True)
            waiter = asyncio.ensure_future(handle.result())
            await asyncio.sleep(1)
            waiter.cancel()
            async with handle.stream() as updates:
                await anext(updates)

        await asyncio.sleep(20)
        async with runtime(store, agents=[agent]) as running:
            assert (await (await running.get(handle.id))).text == "done"
            assert asyncio.get_running_loop().time() < 62


# --- closing ---


@virtual_time
async def test_closing_cancels_what_is_at_work_or_queued_and_waits_for_it():
    log = []

    async def work(text: str):
        log.append(f"begun {text}")
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(3)
            log.append(f"cleaned {text}")

    async with runtime() as running:
        async with agent_of(work, limit=1) as agent:
            handles = [await running.submit(agent, name, stream=True) for name in ("a", "b")]
            await asyncio.sleep(1)

        assert log == ["begun a", "cleaned a"]
        for handle in handles:
            with pytest.raises(RunFailed, match=r"lost: .*agent was closed"):
                await handle

        await agent.aclose()
        with pytest.raises(RequestRejected, match="closed"):
            await running.submit(agent, "c")

    assert len(asyncio.all_tasks()) == 1


@virtual_time
async def test_a_function_that_will_not_end_does_not_hold_up_closing_for_ever(caplog):
    release = asyncio.Event()

    async def work(text: str):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    local = Local(work)
    await local.start(asked())
    await asyncio.sleep(1)
    await local.aclose()
    assert asyncio.get_running_loop().time() == 11
    assert "did not end within 10 s" in caplog.text
    release.set()
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) == 1


@virtual_time
async def test_a_function_may_close_its_own_agent():
    agent = agent_of(lambda text: work(text))

    async def work(text: str):
        await agent.aclose()
        return "closed"

    async with runtime() as running:
        assert (await (await running.submit(agent, "x"))).text == "closed"


@pytest.mark.filterwarnings("error")
def test_a_loop_that_ends_leaves_no_tasks_and_no_warnings_and_its_runs_are_lost(caplog):
    cleaned, store = [], MemoryStore()

    async def work(text: str):
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.append(True)

    agent = agent_of(work, limit=1)

    @virtual_time
    async def first():
        async with runtime(store) as running:
            return [await running.submit(agent, "x") for _ in range(2)]

    @virtual_time
    async def second(run_id):
        async with runtime(store, agents=[agent]) as running:
            with pytest.raises(RunFailed, match=r"lost: .*event loop ended"):
                await (await running.get(run_id))

    handles = first()
    gc.collect()
    assert cleaned == [True]
    for handle in handles:
        second(handle.id)

    assert "never retrieved" not in caplog.text
    assert "destroyed" not in caplog.text


def test_a_loop_that_is_dropped_with_all_its_tasks_leaves_its_runs_lost():
    local = Local(lasting(60))
    loop = asyncio.new_event_loop()
    begun = []

    async def start():
        snapshot = await local.start(asked())
        begun.append(snapshot.ref)
        tasks.append(asyncio.ensure_future(read_all(snapshot.ref)))
        await asyncio.sleep(0)

    async def read_all(ref):
        return [events async for events in local.attach(ref)]

    tasks: list[asyncio.Task] = []
    loop.run_until_complete(start())

    @virtual_time
    async def later():
        assert (await local.poll(begun[0])).lost
        assert [(await local.start(asked())).status for _ in range(2)] == ["queued"] * 2
        await local.aclose()

    later()
    for task in asyncio.all_tasks(loop):
        task.cancel()

    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


@virtual_time
async def test_it_works_in_one_event_loop_at_a_time():
    local = Local(lasting(60))
    ref = (await local.start(asked())).ref

    def elsewhere():
        asyncio.run(local.poll(ref))

    with pytest.raises(RequestRejected, match="another event loop"):
        await asyncio.to_thread(elsewhere)

    await local.aclose()


@virtual_time
async def test_nothing_is_left_behind_by_runs_that_ended():
    async with runtime() as running:
        agent = agent_of(words)
        await asyncio.gather(*[(await running.submit(agent, "x", stream=True)).wait() for _ in range(20)])

    assert len(asyncio.all_tasks()) == 1


# --- answers ---


@virtual_time
async def test_an_answer_is_a_text_as_it_is_and_anything_else_as_json():
    assert (await result_of(lasting(1, "plain"))).text == "plain"
    assert (await result_of(lasting(1, {"a": [1, None]}))).text == '{"a":[1,null]}'
    assert (await result_of(lasting(1, None))).text == ""
    assert (await result_of(lasting(1, UpdateType.END))).text == "end"
    assert (await result_of(lasting(1, UpdateType.END), output_type=UpdateType)).value is UpdateType.END
    assert (await result_of(lasting(1, [1, 2]), output_type=list[int])).value == [1, 2]
    response = await result_of(lasting(1, Report(title="Tides", pages=3)), output_type=Report)
    assert response.value == Report(title="Tides", pages=3)
    assert (await result_of(lasting(1, None), output_type=Report | None)).value is None
    with pytest.raises(OutputInvalid):
        await result_of(lasting(1, "no report"), output_type=Report)


@virtual_time
async def test_the_function_gets_the_text_or_the_run():
    seen = []

    async def of_run(run: LocalRun) -> str:
        seen.append(run)
        return run.text.upper()

    class Worker:
        async def method(self, run: LocalRun) -> str:
            return await of_run(run)

        async def __call__(self, text):
            return text

    assert (await result_of(of_run, "hello")).text == "HELLO"
    assert (await result_of(Worker().method, "hello")).text == "HELLO"
    assert (await result_of(Worker(), "hello")).text == "hello"
    response = await result_of(of_run, [Message("user", "first"), Message("user", "second")])
    run = seen[-1]
    assert response.text == "SECOND"
    assert [item["content"] for item in run.items] == ["first", "second"]
    assert run.id == response.response_id
    assert run.request.background


@virtual_time
async def test_a_thread_is_part_of_the_items():
    async def work(run: LocalRun) -> str:
        return f"{len(run.items)}: {run.text}"

    async with runtime() as running, agent_of(work) as agent:
        thread = agent.get_new_thread()
        assert (await (await running.submit(agent, "one", thread=thread))).text == "1: one"
        assert (await (await running.submit(agent, "two", thread=thread))).text == "3: two"


@virtual_time
async def test_context_variables_are_those_of_the_submitter_at_the_start():
    user = contextvars.ContextVar("user")

    async def work(text: str) -> str:
        await asyncio.sleep(5)
        seen = user.get()
        user.set("changed inside")
        return seen

    async with runtime() as running, agent_of(work, limit=1) as agent:
        handles = []
        for name in ("ann", "bob"):
            user.set(name)
            handles.append(await running.submit(agent, "x", stream=name == "bob"))

        user.set("later")
        assert [(await handle).text for handle in handles] == ["ann", "bob"]
        assert user.get() == "later"


# --- streams ---


@virtual_time
async def test_pieces_come_as_they_are_yielded():
    async with runtime() as running, agent_of(words) as agent:
        handle = await running.submit(agent, "x", stream=True)
        times = {}
        async with handle.stream() as updates:
            async for update in updates:
                times.setdefault(update.text, asyncio.get_running_loop().time())

        check(await read(handle), "".join(WORDS))
        assert [times[word] for word in WORDS] == [1, 2, 3, 4, 5, 6]
        assert (await handle).text == "".join(WORDS)
        assert (handle.polls, handle.reconnects, handle.dropped) == (0, 0, 0)


@virtual_time
async def test_a_generator_that_never_waits_shares_the_loop():
    async def work(text: str):
        for _ in range(1_000):
            yield "."

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        async with handle.stream() as updates:
            async for update in updates:
                if update.seq == 10:
                    assert not handle.done()

        check(await read(handle), "." * 1_000)


@virtual_time
async def test_a_run_writes_and_tells_its_progress():
    kept = []

    async def work(run: LocalRun) -> None:
        kept.append(run)
        run.progress(step="search", found=3)
        run.write("Found ")
        run.write("")
        run.write("three.")
        with pytest.raises(UsageError, match="pieces of str"):
            run.write(3)
        with pytest.raises(UsageError, match="JSON"):
            run.progress(value=object())

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        updates = await read(handle)

    check(updates, "Found three.")
    (progress,) = [update for update in updates if update.type is UpdateType.PROGRESS]
    assert (progress.raw["step"], progress.raw["found"]) == ("search", 3)
    assert [update.text for update in updates if update.type is UpdateType.TEXT] == ["Found ", "three."]
    assert all(update.type is not UpdateType.RESET for update in updates)
    with pytest.raises(UsageError, match="has ended"):
        kept[0].write("too late")


@virtual_time
async def test_an_answer_that_is_not_what_was_written_takes_its_place():
    async def work(run: LocalRun) -> str:
        run.write("a draft")
        return "the answer"

    async with runtime() as running, agent_of(work) as agent:
        handle = await running.submit(agent, "x", stream=True)
        updates = await read(handle)

    check(updates, "the answer")
    assert UpdateType.RESET in [update.type for update in updates]


@virtual_time
async def test_a_silent_function_keeps_its_stream():
    async with runtime() as running, agent_of(lasting(3_000)) as agent:
        handle = await running.submit(agent, "x", stream=True)
        assert (await handle).text == "done"
        assert handle.reconnects == 0


@virtual_time
async def test_a_stream_is_resumed_exactly_after_any_update():
    async with agent_of(words) as agent:
        whole = [u async for u in agent.run_streaming("x", agent.get_new_thread(), BACKGROUND)]
        check(whole, "".join(WORDS))
        for held in whole[:-1]:
            options = AgentRunOptions(True, str(held.continuation_token))
            rest = [u async for u in agent.run_streaming(thread=agent.get_new_thread(), options=options)]
            assert [u.seq for u in rest] == [u.seq for u in whole[held.seq :]]
            assert [u.text for u in rest] == [u.text for u in whole[held.seq :]]


@virtual_time
async def test_events_are_numbered_from_zero_and_attach_gives_what_follows():
    local = Local(words)
    ref = (await local.start(asked())).ref
    await asyncio.sleep(60)
    events = [event async for batch in local.attach(ref) for event in batch]
    assert [event.cursor for event in events] == list(range(len(events)))
    assert events[-1].kind is EventKind.END
    for after in range(len(events)):
        assert [event async for batch in local.attach(ref, after=after) for event in batch] == events[after + 1 :]


# --- without a runtime ---


@virtual_time
async def test_run_in_the_background_gives_tokens_until_the_end():
    async with agent_of(lasting(60)) as agent:
        thread = agent.get_new_thread()
        options = AgentRunOptions(allow_background_responses=True)
        response = await agent.run("x", thread, options)
        statuses = [response.status]
        while response.continuation_token is not None:
            await asyncio.sleep(25)
            options.continuation_token = str(response.continuation_token)
            response = await agent.run(thread=thread, options=options)
            statuses.append(response.status)

        assert statuses == ["queued", "running", "running", "completed"]
        assert response.text == "done"


@virtual_time
async def test_run_in_the_foreground_waits_for_the_end():
    async def fails(text: str):
        raise ValueError("bad text")

    async with agent_of(lasting(60)) as agent:
        response = await agent.run("x")
        assert (response.status, response.text, response.continuation_token) == ("completed", "done", None)
        assert "".join([u.text async for u in agent.run_streaming("x")]) == "done"

    async with agent_of(fails) as agent:
        response = await agent.run("x")
        assert (response.status, response.error.code) == ("failed", "ValueError")


# --- many ---


@virtual_time
async def test_so_many_are_at_work_and_the_rest_is_queued():
    now, most = 0, 0

    async def work(text: str):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(10)
        now -= 1
        return text

    async with runtime() as running, agent_of(work, limit=3) as agent:
        handles = [await running.submit(agent, str(i), stream=True) for i in range(10)]
        await asyncio.sleep(1)
        assert [handle.status for handle in handles] == ["running"] * 3 + ["queued"] * 7
        assert await handles[5].cancel() is RunStatus.CANCELLED
        assert [(await handle.wait()).value for handle in handles].count("completed") == 9
        assert asyncio.get_running_loop().time() == 30

    assert most == 3


@virtual_time
async def test_a_start_with_the_same_key_is_the_same_run():
    calls = []

    async def work(text: str):
        calls.append(text)
        return "once"

    local = Local(work)
    first, second = await local.start(asked(), key="run_1"), await local.start(asked(), key="run_1")
    assert first.ref == second.ref
    await asyncio.sleep(1)
    assert (await local.start(asked(), key="run_1")).text == "once"
    assert calls == ["x"]


@virtual_time
async def test_a_run_that_ended_is_kept_for_its_time_and_then_expires():
    async with agent_of(lasting(10), keep=100) as agent:
        response = await agent.run("x", agent.get_new_thread(), BACKGROUND)
        options = AgentRunOptions(True, response.continuation_token)
        await asyncio.sleep(109)
        assert (await agent.run(thread=agent.get_new_thread(), options=options)).text == "done"
        await asyncio.sleep(2)
        response = await agent.run(thread=agent.get_new_thread(), options=options)
        assert (response.status, response.error.code) == ("expired", "not_found")
        updates = agent.run_streaming(thread=agent.get_new_thread(), options=options)
        assert [u.response.status async for u in updates] == ["expired"]
        assert agent.provider._works == {}
        async with runtime() as running:
            with pytest.raises(RunExpired, match="not kept any more"):
                await (await running.resume(options.continuation_token, agent=agent))


# --- after the process, the loop, or the Local is gone ---


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
        store = lambda: announced(SQLiteStore(tmp_path / "runs")) if kind == "sqlite" else keep  # noqa: E731
        ids = []

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
