"""Many runs at once: how they are started, gathered, and told of. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRunResponse,
    AgentRuntime,
    Progress,
    RequestRejected,
    RunExpired,
    RunFailed,
    RunStatus,
    RuntimeClosed,
    RunTimeout,
    UsageError,
)
from agentbg.stores import MemoryStore
from agentbg.testing import At, RunScript, ScriptedProvider, VirtualClock, virtual_time


def runtime(**settings: Any) -> AgentRuntime:
    return AgentRuntime(draw=lambda: 0.5, clock=VirtualClock(), **settings)


def lasting(*seconds: float, **settings: Any) -> ScriptedProvider:
    """A service whose runs take so long, and say so."""
    return ScriptedProvider(*(RunScript.text(f"after {each:g}", seconds=each) for each in seconds), **settings)


def failing(seconds: float) -> RunScript:
    return RunScript([At(0, status="running"), At(seconds, status="failed")])


def now() -> float:
    return asyncio.get_running_loop().time()


def texts(responses: Any) -> list[str]:
    return [getattr(each, "text", type(each).__name__) for each in responses]


async def collect(source: AsyncIterable[Any], into: list[Any]) -> None:
    async for each in source:
        into.append(each)  # noqa: PERF401  what came before an error counts


class Source:
    """An endless source of inputs, that knows how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        self.taken += 1
        return f"question {self.taken}"


# --- submit_many: what is refused ---


@pytest.mark.parametrize("inputs", ["one text", b"bytes", {"a": "mapping"}, 7, None])
@virtual_time
async def test_inputs_that_are_none_are_refused_at_once(inputs):
    async with runtime() as running:
        with pytest.raises(UsageError, match="inputs are a list"):
            running.submit_many(Agent(lasting(1)), inputs, max_active=2)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, None])
@virtual_time
async def test_a_bound_that_is_none_is_refused_at_once(bound):
    async with runtime() as running:
        with pytest.raises(UsageError, match="max_active"):
            running.submit_many(Agent(lasting(1)), ["x"], max_active=bound)


@virtual_time
async def test_a_closed_runtime_takes_no_batch_and_begins_none():
    running = runtime()
    with pytest.raises(RuntimeClosed):
        running.submit_many(Agent(lasting(1)), ["x"], max_active=1)

    async with running:
        batch = running.submit_many(Agent(lasting(1)), ["x"], max_active=1)

    with pytest.raises(RuntimeClosed):
        await batch


@virtual_time
async def test_a_batch_is_taken_once():
    async with runtime() as running:
        batch = running.submit_many(Agent(lasting(1)), ["x"], max_active=1)
        await batch
        with pytest.raises(UsageError, match="once"):
            await batch

        with pytest.raises(UsageError, match="once"):
            async for _ in batch:
                pass


@virtual_time
async def test_an_async_progress_callback_is_refused():
    async def report(progress: Progress) -> None: ...

    async with runtime() as running:
        with pytest.raises(UsageError, match="plain function"):
            running.submit_many(Agent(lasting(1)), ["x"], max_active=1, on_progress=report)

        with pytest.raises(UsageError, match="plain function"):
            await running.gather([], on_progress=report)


# --- submit_many: what it does ---


@virtual_time
async def test_no_inputs_are_no_runs():
    provider = lasting(1)
    async with runtime() as running:
        assert await running.submit_many(Agent(provider), [], max_active=3) == []
        assert [outcome async for outcome in running.submit_many(Agent(provider), [], max_active=3)] == []

    assert provider.count("start") == 0


@virtual_time
async def test_responses_come_in_the_order_of_the_inputs_and_outcomes_in_that_of_their_ends():
    async with runtime() as running:
        assert texts(await running.submit_many(Agent(lasting(90, 5, 40)), ["a", "b", "c"], max_active=3)) == [
            "after 90",
            "after 5",
            "after 40",
        ]
        outcomes = running.submit_many(Agent(lasting(90, 5, 40)), ("a", "b", "c"), max_active=3)
        assert [(each.index, each.input) async for each in outcomes] == [(1, "b"), (2, "c"), (0, "a")]


class Live:
    """A hook that counts the runs that go on."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def on_submit(self, handle):
        self.now += 1
        self.most = max(self.most, self.now)

    def on_completion(self, handle):
        self.now -= 1


@virtual_time
async def test_no_more_than_max_active_go_on_at_a_time_and_no_input_is_taken_before_its_time():
    provider, source, live = lasting(10), Source(), Live()
    async with runtime(hooks=[live]) as running:
        batch, done = running.submit_many(Agent(provider), source, max_active=3), 0
        async for outcome in batch:
            assert (await outcome.result()).text == "after 10"
            done += 1
            assert len(batch.handles) <= 3
            assert source.taken <= done + 6
            if done == 12:
                break

    assert live.most == 3
    assert provider.count("start") <= 18


@virtual_time
async def test_starts_go_on_side_by_side():
    provider = lasting(100, latency=2.0)
    async with runtime() as running:
        await running.submit_many(Agent(provider), ["x"] * 20, max_active=20)
        assert now() < 130, "20 starts of 2 s each, one after the other, would take 40 s"

    assert provider.max_in_flight <= 32


@virtual_time
async def test_a_consumer_that_falls_behind_holds_up_the_starts():
    provider, source = lasting(1), Source()
    async with runtime() as running:
        async for _ in running.submit_many(Agent(provider), source, max_active=2):
            await asyncio.sleep(1000)
            break

    assert provider.count("start") == 5, "twice max_active, and one for that which was taken"


@virtual_time
async def test_asynchronous_inputs_are_taken_as_they_come():
    closed = []

    async def questions():
        try:
            for each in ("a", "b", "c"):
                await asyncio.sleep(10)
                yield each
        finally:
            closed.append(now())

    async with runtime() as running:
        outcomes = running.submit_many(Agent(lasting(1)), questions(), max_active=9)
        assert [each.input async for each in outcomes] == ["a", "b", "c"]
        assert closed == [30]


@virtual_time
async def test_each_run_is_submitted_as_is_said():
    provider = lasting(30)
    async with runtime() as running:
        batch = running.submit_many(
            Agent(provider),
            ["x", "y"],
            max_active=2,
            stream=True,
            deadline=10,
            metadata={"team": 7},
            return_exceptions=True,
        )
        assert [type(each) for each in await batch] == [RunExpired, RunExpired]
        handles = await running.list()
        assert [handle.metadata for handle in handles] == [{"team": 7}] * 2

    assert provider.count("open") == 2


# --- submit_many: what goes wrong ---


@virtual_time
async def test_a_start_that_fails_is_an_outcome_and_kills_no_other():
    provider = lasting(10).fail("start", RequestRejected("400"), call=2)
    async with runtime() as running:
        outcomes = [each async for each in running.submit_many(Agent(provider), ["a", "b", "c"], max_active=2)]
        [bad] = [each for each in outcomes if each.error is not None]
        assert (bad.index, bad.input, bad.handle) == (1, "b", None)
        with pytest.raises(RequestRejected):
            await bad.result()

        assert texts([await each.result() for each in outcomes if each is not bad]) == ["after 10"] * 2


@virtual_time
async def test_errors_take_the_place_of_responses_when_that_is_asked_for():
    scripts = [RunScript.text("good", seconds=5), failing(3)]
    provider = ScriptedProvider(*scripts).fail("start", RequestRejected("400"), call=3)
    async with runtime() as running:
        batch = running.submit_many(
            Agent(provider), ["a", "b", "c", {"no": object()}], max_active=9, return_exceptions=True
        )
        assert texts(await batch) == ["good", "RunFailed", "RequestRejected", "UsageError"]


@virtual_time
async def test_the_first_error_is_raised_at_once_starts_no_more_and_leaves_the_others_alive():
    scripts = [RunScript.text("long", seconds=100), failing(3)]
    provider, source = ScriptedProvider(*scripts), Source()
    async with runtime() as running:
        batch = running.submit_many(Agent(provider), source, max_active=2)
        with pytest.raises(RunFailed):
            await batch

        assert now() < 10
        [alive] = [handle for handle in batch.handles if handle.status.live][:1]
        assert (await alive).text == "long"
        assert not batch.handles

    assert provider.count("cancel") == 0
    assert source.taken <= 3


@virtual_time
async def test_being_cancelled_starts_no_more_and_leaves_what_was_started_alive():
    provider, source = lasting(50), Source()
    async with runtime() as running:
        batch = running.submit_many(Agent(provider), source, max_active=4)
        taking = asyncio.ensure_future(batch._gather())
        await asyncio.sleep(20)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking

        assert texts(await running.gather(batch.handles)) == ["after 50"] * 4
        await asyncio.sleep(100)

    assert (provider.count("start"), provider.count("cancel")) == (4, 0)


@virtual_time
async def test_a_start_that_is_under_way_when_the_loop_is_left_is_not_lost():
    provider = lasting(50, latency=5.0)
    async with runtime() as running:
        taking = asyncio.ensure_future(running.submit_many(Agent(provider), Source(), max_active=2)._gather())
        await asyncio.sleep(1)
        taking.cancel()
        await asyncio.wait([taking])
        assert texts(await running.gather(await running.list())) == ["after 50"] * 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_the_inputs_raise_is_raised_once_the_runs_before_are_done(asynchronous):
    def plain():
        yield "a"
        yield "b"
        raise OSError("the file is gone")

    async def later():
        for each in plain():
            yield each

    @virtual_time
    async def story():
        seen = list[Any]()
        async with runtime() as running:
            batch = running.submit_many(Agent(lasting(10)), later() if asynchronous else plain(), max_active=5)
            with pytest.raises(OSError, match="the file is gone"):
                await collect(batch, seen)

        assert texts([await outcome.result() for outcome in seen]) == ["after 10", "after 10"]

    story()


@virtual_time
async def test_a_runtime_that_closes_ends_the_batch_and_says_so():
    provider, seen = lasting(100), []

    async def take(running: AgentRuntime) -> None:
        async for outcome in running.submit_many(Agent(provider), Source(), max_active=3):
            with pytest.raises(RuntimeClosed):
                await outcome.result()

            seen.append(outcome.index)

    async with runtime() as running:
        taking = asyncio.ensure_future(take(running))
        await asyncio.sleep(10)

    with pytest.raises(RuntimeClosed):
        await taking

    assert sorted(seen) == [0, 1, 2]
    assert provider.count("start") == 3


@virtual_time
async def test_a_run_that_waits_for_its_user_makes_room():
    provider = ScriptedProvider(RunScript.asks(), RunScript.text("good", seconds=5))
    async with runtime() as running:
        results = await running.submit_many(Agent(provider), ["a", "b"], max_active=1, return_exceptions=True)
        assert texts(results) == ["InputRequired", "good"]


# --- gather ---


@virtual_time
async def test_gather_with_a_run_of_an_unknown_agent_says_so_and_leaves_nothing_behind():
    store, provider, reports = MemoryStore(), lasting(50), list[Progress]()
    known = Agent(provider, name="known")
    async with runtime(store=store) as running:
        handles = [await running.submit(agent, "x") for agent in (known, Agent(provider, name="stranger"))]

    async with runtime(store=store, agents=[known]) as running:
        handles = [await running.get(handle.id) for handle in handles]
        await asyncio.sleep(1)
        before = asyncio.all_tasks()
        with pytest.raises(UsageError, match="'stranger', which this runtime does not know"):
            await running.gather(handles, return_exceptions=True, on_progress=reports.append)

        assert asyncio.all_tasks() == before
        assert (await handles[0]).text == "after 50"
        assert not reports


@virtual_time
async def test_gather_gives_the_responses_in_order_also_of_a_handle_that_comes_twice():
    async with runtime() as running:
        agent = Agent(lasting(30, 5))
        slow, quick = await running.submit(agent, "x"), await running.submit(agent, "x")
        assert texts(await running.gather([slow, quick, slow])) == ["after 30", "after 5", "after 30"]
        assert await running.gather([]) == []


@virtual_time
async def test_gather_raises_the_first_error_and_leaves_the_others_alive():
    provider = ScriptedProvider(RunScript.text("long", seconds=100), failing(3))
    async with runtime() as running:
        agent = Agent(provider)
        handles = [await running.submit(agent, "x") for _ in range(2)]
        with pytest.raises(RunFailed):
            await running.gather(handles)

        assert now() < 10
        assert texts(await running.gather(handles, return_exceptions=True)) == ["long", "RunFailed"]

    assert provider.count("cancel") == 0


@virtual_time
async def test_a_cancelled_gather_leaves_the_runs_alive():
    provider = lasting(50)
    async with runtime() as running:
        handles = [await running.submit(Agent(provider), "x") for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await running.gather(handles)

        assert texts(await running.gather(handles)) == ["after 50"] * 3


@virtual_time
async def test_a_handle_of_another_runtime_is_refused():
    async with runtime() as one, runtime() as other:
        handle = await one.submit(Agent(lasting(5)), "x")
        with pytest.raises(UsageError, match="another runtime"):
            await other.gather([handle])

        with pytest.raises(UsageError, match="another runtime"):
            other.as_completed([handle])


@virtual_time
async def test_a_gather_whose_runtime_closes_raises_that():
    async with runtime() as running:
        handle = await running.submit(Agent(lasting(50)), "x")
        waiting = asyncio.ensure_future(running.gather([handle], return_exceptions=True))
        await asyncio.sleep(1)

    assert texts(await waiting) == ["RuntimeClosed"]


# --- as_completed ---


@virtual_time
async def test_as_completed_stops_waiting_in_time_and_the_runs_go_on():
    async with runtime() as running:
        agent = Agent(lasting(5, 80, 40))
        handles = [await running.submit(agent, "x") for _ in range(3)]
        came = list[Any]()
        with pytest.raises(RunTimeout, match="1 of 3 runs are not done after 50 s") as caught:
            await collect(running.as_completed(handles, timeout=50), came)

        assert came == [handles[0], handles[2]]
        assert caught.value.handle == handles[1]
        assert (await handles[1]).text == "after 80"
        assert [handle async for handle in running.as_completed(handles, timeout=0)] == handles


# --- progress ---


@virtual_time
async def test_progress_counts_each_start_and_each_end():
    seen: list[Progress] = []
    scripts = [RunScript.text("good", seconds=10), failing(20)]
    async with runtime() as running:
        await running.submit_many(
            Agent(ScriptedProvider(*scripts)), ["x"] * 5, max_active=2, return_exceptions=True, on_progress=seen.append
        )

    assert len(seen) == 10
    assert {each.total for each in seen} == {5}
    assert max(each.running for each in seen) == 2
    assert (seen[0].done, seen[0].running, seen[0].queued, seen[0].eta) == (0, 1, 4, None)
    last = seen[-1]
    assert (last.done, last.failed, last.running, last.queued, last.eta) == (5, 4, 0, 0, 0.0)
    assert last.elapsed == pytest.approx(now())


@virtual_time
async def test_the_eta_is_right_for_runs_that_take_as_long_as_those_before():
    seen: list[tuple[float, Progress]] = []
    async with runtime() as running:
        await running.submit_many(
            Agent(lasting(100)), ["x"] * 100, max_active=10, on_progress=lambda each: seen.append((now(), each))
        )
        end = now()

    for at, each in seen:
        if 10 < each.done < 100:
            assert each.eta is not None
            assert each.eta == pytest.approx(end - at, rel=0.25, abs=30)


@virtual_time
async def test_nobody_knows_the_end_of_inputs_without_a_length():
    seen: list[Progress] = []
    async with runtime() as running:
        await running.submit_many(Agent(lasting(5)), iter(["x", "y"]), max_active=1, on_progress=seen.append)

    assert {(each.queued, each.total, each.eta) for each in seen} == {(None, None, None)}


@virtual_time
async def test_progress_is_told_of_handles_too_and_to_nobody_who_has_left():
    seen: list[Progress] = []
    async with runtime() as running:
        agent = Agent(lasting(5, 60))
        handles = [await running.submit(agent, "x") for _ in range(2)]
        async for _ in running.as_completed(handles, on_progress=seen.append):
            break

        told = len(seen)
        assert [(each.done, each.running, each.queued) for each in seen] == [(1, 1, 0)]
        await running.gather(handles)
        assert len(seen) == told


@virtual_time
async def test_what_a_progress_callback_raises_is_told_to_the_loop_and_to_nobody_else():
    told = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with runtime() as running:
        batch = running.submit_many(Agent(lasting(1)), ["x"], max_active=1, on_progress=lambda _: 1 / 0)
        assert texts(await batch) == ["after 1"]

    assert [type(each) for each in told] == [ZeroDivisionError] * 2


@virtual_time
async def test_five_hundred_runs_are_a_batch_like_any_other():
    async with runtime() as running:
        results = await running.submit_many(Agent(lasting(30)), (f"{n}" for n in range(500)), max_active=200)
        assert len(results) == 500
        assert all(isinstance(each, AgentRunResponse) and each.status is RunStatus.COMPLETED for each in results)


@virtual_time
async def test_what_an_earlier_batch_has_taught_gives_an_eta_from_the_start():
    seen: list[Progress] = []
    async with runtime() as running:
        agent = Agent(lasting(100))
        await running.submit_many(agent, ["x"] * 40, max_active=40)
        await running.submit_many(agent, ["x"] * 40, max_active=10, on_progress=seen.append)
        other = running.submit_many(
            agent, ["x"], max_active=1, on_progress=seen.append, options=AgentRunOptions(extra={"model": "another"})
        )
        await other

    assert seen[0].eta == pytest.approx(400, rel=0.3)
    assert seen[-2].eta is None, "of another model nothing is known"
