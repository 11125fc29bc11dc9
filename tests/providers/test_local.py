"""Functions of one's own as background runs. All in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
import gc

import pytest
from local_functions import BACKGROUND, WORDS, agent_of, asked, check, lasting, read, runtime, words
from pydantic import BaseModel

from agentbg import (
    AgentRunOptions,
    Message,
    OutputInvalid,
    RequestRejected,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunStatus,
    Unsupported,
    UpdateType,
    UsageError,
)
from agentbg.core.model import EventKind
from agentbg.providers import Local, LocalRun, Provider
from agentbg.stores import MemoryStore
from agentbg.testing import virtual_time


class Report(BaseModel):
    title: str
    pages: int


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
        await local.respond(ref, [])

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
