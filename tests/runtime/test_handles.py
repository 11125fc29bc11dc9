"""What a handle promises to those who wait, and what survives the process. All in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from agentbg import (
    Agent,
    AgentRuntime,
    ContinuationToken,
    InputRequired,
    OutputInvalid,
    RequestBudget,
    RequestRejected,
    RunCancelled,
    RunErrorInfo,
    RunFailed,
    RunIncomplete,
    RunStatus,
    RuntimeClosed,
    RunTimeout,
    RunUnknown,
    ServiceUnavailable,
    SubmitUnknown,
    TokenForeign,
    UsageError,
)
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time


class Report(BaseModel):
    title: str
    pages: int


def runtime(store=None, **settings):
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def ending(status: str, **what) -> ScriptedProvider:
    return ScriptedProvider(RunScript([At(0, status="running"), At(5, status=status, **what)]))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("failed", RunFailed),
        ("incomplete", RunIncomplete),
        ("cancelled", RunCancelled),
        ("input_required", InputRequired),
    ],
)
def test_a_run_without_a_result_raises_its_own_error(status, error):
    @virtual_time
    async def story():
        provider = ending(status, text="partial", error=RunErrorInfo("bad_luck", "it rained"))
        async with runtime() as running:
            handle = await running.submit(Agent(provider), "x")
            with pytest.raises(error, match="bad_luck: it rained") as caught:
                await handle

            assert caught.value.handle is handle
            assert caught.value.response.text == "partial"
            assert caught.value.token is None
            assert await handle.wait() is RunStatus(status)
            assert handle.done()

    story()


@virtual_time
async def test_a_time_out_and_a_cancelled_waiter_leave_the_run_alive():
    provider = ScriptedProvider.text("done", seconds=60)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        with pytest.raises(RunTimeout, match="It goes on") as caught:
            await handle.result(timeout=10)

        assert isinstance(caught.value, TimeoutError)
        assert caught.value.token == handle.token
        waiter = asyncio.ensure_future(handle.result())
        await asyncio.sleep(1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

        assert await handle.wait(timeout=5) is RunStatus.RUNNING
        assert (await handle).text == "done"

    assert provider.count("cancel") == 0


@virtual_time
async def test_cancel_is_the_services_word_and_tolerates_a_run_that_has_just_ended():
    provider = ScriptedProvider.text("done", seconds=10)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        await asyncio.sleep(9.99)
        provider.fail("cancel", ServiceUnavailable("busy"), times=1)
        await handle.cancel()
        assert (await handle).text == "done"
        assert await handle.cancel() is RunStatus.COMPLETED


@virtual_time
async def test_a_cancel_that_the_service_cannot_take_is_an_error_and_the_run_goes_on():
    provider = ScriptedProvider.text("done", seconds=60)
    provider.fail("cancel", times=None)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        with pytest.raises(ServiceUnavailable):
            await handle.cancel()

        assert (await handle).text == "done"


@virtual_time
async def test_a_cancel_that_failed_is_not_sent_again_by_a_later_process():
    store, provider = MemoryStore(), ScriptedProvider.text("done", seconds=600, deltas=20)
    provider.fail("cancel", times=None)
    agent = Agent(provider)
    async with runtime(store) as running:
        handle = await running.submit(agent, "x", stream=True)
        with pytest.raises(ServiceUnavailable):
            await handle.cancel()

        assert handle.token.streamed

    sent = provider.count("cancel")
    async with runtime(store, agents=[agent]) as running:
        assert (await (await running.get(handle.id))).text == "done"

    assert provider.count("cancel") == sent


@virtual_time
async def test_handles_come_as_they_complete():
    agent = Agent(ScriptedProvider(*(RunScript.text(f"after {seconds}", seconds=seconds) for seconds in (90, 5, 40))))
    async with runtime() as running:
        handles = [await running.submit(agent, "x") for _ in range(3)]
        texts = [(await handle).text async for handle in running.as_completed(handles)]

    assert texts == ["after 5", "after 40", "after 90"]


@virtual_time
async def test_a_refused_start_raises_and_a_lost_one_is_unknown_and_never_sent_again():
    provider = ScriptedProvider.text("done")
    provider.fail("start", RequestRejected("no such model", status_code=404))
    provider.lose("start", call=2)
    async with runtime() as running:
        with pytest.raises(RequestRejected, match="no such model"):
            await running.submit(Agent(provider), "x")

        with pytest.raises(SubmitUnknown, match="may exist") as caught:
            await running.submit(Agent(provider), "x")

        handle = await running.get(caught.value.run_id)
        with pytest.raises(SubmitUnknown):
            await handle

    assert provider.count("start") == 2


@virtual_time
async def test_a_start_that_surely_never_arrived_is_sent_again():
    provider = ScriptedProvider.text("done")
    provider.fail("start", ServiceUnavailable("refused", unsent=True), times=2)
    async with runtime() as running:
        assert (await (await running.submit(Agent(provider), "x"))).text == "done"

    assert provider.count("start") == 3


@virtual_time
async def test_a_cancelled_submit_loses_no_run():
    provider = ScriptedProvider.text("done", latency=5.0)
    async with runtime() as running:
        agent = Agent(provider)
        submitting = asyncio.ensure_future(running.submit(agent, "x"))
        await asyncio.sleep(1)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting

        (handle,) = await running.list()
        assert (await handle).text == "done"

    assert provider.count("start") == 1


@virtual_time
async def test_a_later_runtime_on_the_store_goes_on_by_itself():
    store, provider = MemoryStore(), ScriptedProvider.text("done", seconds=60)
    agent = Agent(provider, name="clerk")
    async with runtime(store) as running:
        run_id = (await running.submit(agent, "x", metadata={"user": 7})).id

    async with runtime(store, agents=[agent]) as running:
        handle = await running.get(run_id)
        assert (await handle).text == "done"
        assert handle.metadata == {"user": 7}

    assert provider.count("start") == 1


@virtual_time
async def test_a_run_of_an_unknown_agent_can_be_looked_at_and_says_what_it_needs():
    store = MemoryStore()
    async with runtime(store) as running:
        run_id = (await running.submit(Agent(ScriptedProvider.text("done", seconds=60), name="clerk"), "x")).id

    async with runtime(store) as running:
        handle = await running.get(run_id)
        assert handle.status.live
        with pytest.raises(UsageError, match="agents="):
            await handle


@virtual_time
async def test_a_token_takes_up_a_run_in_a_runtime_that_never_saw_it():
    provider = ScriptedProvider.text("a long story", seconds=60, deltas=6)
    agent = Agent(provider)
    async with runtime() as running:
        handle = await running.submit(agent, "x", stream=True)
        async with handle.stream() as updates:
            got = [await anext(updates) for _ in range(5)]

    async with runtime() as running:
        resumed = await running.resume(str(got[-1].continuation_token), agent=agent)
        async with resumed.stream(after=got[-1].seq) as updates:
            got += [update async for update in updates]

        assert (await running.resume(str(got[2].continuation_token), agent=agent)).id == resumed.id

    assert [update.seq for update in got] == list(range(1, len(got) + 1))
    assert "".join(update.text for update in got) == "a long story"


@virtual_time
async def test_a_foreign_token_is_refused():
    async with runtime() as running:
        handle = await running.submit(Agent(ScriptedProvider(endpoint="here")), "x")
        token = handle.token
        with pytest.raises(TokenForeign, match="another endpoint"):
            await running.resume(token, agent=Agent(ScriptedProvider(endpoint="there")))

        assert ContinuationToken.parse(str(token)) == token


@virtual_time
async def test_structured_output_is_checked_where_it_is_awaited():
    good, bad = Report(title="Tides", pages=3), '{"title": "Tides", "pa'
    provider = ScriptedProvider(RunScript.text(good.model_dump_json()), RunScript.text(bad))
    agent = Agent(provider, output_type=Report)
    async with runtime() as running:
        assert (await (await running.submit(agent, "x"))).value == good
        handle = await running.submit(agent, "x")
        with pytest.raises(OutputInvalid, match="output type") as caught:
            await handle

    assert caught.value.response.text == bad
    assert caught.value.handle is handle


@virtual_time
async def test_a_closed_runtime_tells_those_who_wait_and_those_who_come():
    provider = ScriptedProvider.text("done", seconds=600)
    async with runtime() as running:
        handle = await running.submit(Agent(provider), "x")
        waiter = asyncio.ensure_future(handle.result())
        await asyncio.sleep(1)

    with pytest.raises(RuntimeClosed, match="goes on"):
        await waiter

    for call in (handle.result, handle.cancel, lambda: running.submit(Agent(provider), "x"), lambda: running.get("x")):
        with pytest.raises(RuntimeClosed):
            await call()

    with pytest.raises(RuntimeClosed):
        handle.stream()

    with pytest.raises(UsageError, match="once"):
        await running.__aenter__()


@virtual_time
async def test_a_runtime_may_be_entered_in_one_task_and_left_in_another():
    running = runtime()
    await asyncio.create_task(running.__aenter__())
    handle = await running.submit(Agent(ScriptedProvider.text("done", seconds=60)), "x")
    assert (await handle).text == "done"
    await asyncio.create_task(running.__aexit__(None, None, None))
    assert len(asyncio.all_tasks()) == 1


@virtual_time
async def test_wrong_words_are_refused_before_anything_is_sent():
    provider = ScriptedProvider.text("done")
    async with runtime() as running:
        agent = Agent(provider)
        with pytest.raises(UsageError, match="statuses are: queued, running"):
            await running.list(status="sleeping")

        with pytest.raises(RunUnknown):
            await running.get("run_nowhere")

        with pytest.raises(UsageError, match="deadline"):
            await running.submit(agent, "x", deadline=-1)

        with pytest.raises(UsageError, match="empty"):
            await running.submit(agent, [])

        handle = await running.submit(agent, "x")
        with pytest.raises(UsageError, match="after"):
            handle.stream(after=-1)

    assert provider.count("start") == 1


@virtual_time
async def test_lists_are_by_status_and_newest_first():
    provider = ScriptedProvider(RunScript.text("quick", seconds=5), RunScript.text("slow", seconds=600))
    async with runtime() as running:
        agent = Agent(provider)
        quick = await running.submit(agent, "x")
        await asyncio.sleep(1)
        slow = await running.submit(agent, "x")
        await quick
        assert [handle.id for handle in await running.list()] == [slow.id, quick.id]
        assert await running.list(status="completed") == [quick]
        assert await running.list(status=["queued", "running"]) == [slow]
        assert quick.elapsed < 10 < slow.elapsed + 10


@virtual_time
async def test_two_thousand_runs_are_held_and_cancelled_at_once():
    provider = ScriptedProvider(RunScript([At(0, status="running")]))
    async with runtime(budget=RequestBudget(in_flight=100)) as running:
        agent = Agent(provider)
        handles = await asyncio.gather(*(running.submit(agent, "x") for _ in range(2_000)))
        await asyncio.gather(*(handle.cancel() for handle in handles))
        assert all([await handle.wait() is RunStatus.CANCELLED for handle in handles])

    assert provider.max_in_flight <= 100
