"""Calls are cancelled at each step of the event loop that there is: nothing is lost, repeated, or left behind."""

from __future__ import annotations

import asyncio
import gc
from itertools import count

import pytest

from agentbg import Agent, AgentRunOptions, AgentRuntime, RunStatus, SubmitUnknown, UpdateType, resume_stream, tool
from agentbg.core.model import SUBMIT_UNKNOWN
from agentbg.providers import Cap
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock
from agentbg.testing.provider import ALL_CAPS
from agentbg.testing.script import function_call

from .stepped import cancel_at, run_stepped

TEXT = "It was a bright cold day in April."
PATIENCE = 3600.0
BACKGROUND = AgentRunOptions(allow_background_responses=True)
both = pytest.mark.parametrize("streamed", [False, True])


class SlowStore(MemoryStore):
    """Waits before and after each write, and before each read."""

    async def create(self, record):
        await asyncio.sleep(0)
        await super().create(record)
        await asyncio.sleep(0.01)

    async def save(self, record, updates=()):
        await asyncio.sleep(0)
        await super().save(record, updates)
        await asyncio.sleep(0)

    async def append(self, record, updates):
        await asyncio.sleep(0)
        await super().append(record, updates)
        await asyncio.sleep(0)

    async def read(self, run_id, *, after=0, limit=256):
        await asyncio.sleep(0)
        return await super().read(run_id, after=after, limit=min(limit, 4))


class Stage:
    """A service and what came of it, for one scene."""

    def __init__(self, *scripts, **settings) -> None:
        self.provider = ScriptedProvider(*scripts, latency=0.01, **settings)
        self.calls: list[str] = []

        @tool
        async def look() -> str:
            self.calls.append("look")
            await asyncio.sleep(1)
            return "the sea"

        self.agent = Agent(self.provider, tools=[look], clock=VirtualClock())
        self.runtime = AgentRuntime(SlowStore(), agents=[self.agent], draw=lambda: 0.5, clock=VirtualClock())
        self.at = 0
        self.over = False

    async def cancel(self, call) -> None:
        """Begin this call, and cancel it at the step of this scene."""
        task = await cancel_at(self.at, call)
        self.over = task is None


def everywhere(scene, make) -> int:
    """Play a scene once for each step at which its call can be cancelled; how many these were."""
    for at in count(1):
        stage, uncaught = make(), []
        stage.at = at

        async def play(stage=stage, uncaught=uncaught) -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
            await scene(stage)
            await asyncio.sleep(1)
            gc.collect(0)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run_stepped(play())

        assert uncaught == [], f"cancelled at {at}"
        assert stage.provider.open_streams == 0, f"cancelled at {at}"
        assert stage.provider.count("cancel") == 0, "only `cancel` cancels"
        if stage.over:
            return at

    raise AssertionError("unreachable")


def told(**settings) -> Stage:
    return Stage(RunScript.text(TEXT, seconds=2, deltas=6), **settings)


def asking() -> Stage:
    return Stage(
        [RunScript.asks(function_call("ask", {}), seconds=1), RunScript.text(TEXT, seconds=1, deltas=3)],
        caps=ALL_CAPS & ~Cap.RESPOND,
    )


def looking() -> Stage:
    first = RunScript.text("Let me see. ", seconds=1, deltas=2)
    call = RunScript.asks(function_call("look", {}), seconds=1).steps[-2:]
    return Stage([first.then(*call), RunScript.text(TEXT, seconds=1, deltas=3)], caps=ALL_CAPS & ~Cap.RESPOND)


def joined(updates) -> str:
    assert not any(update.type is UpdateType.RESET for update in updates)
    return "".join(update.text for update in updates)


async def take(stream, into: list) -> None:
    async with stream as updates:
        async for update in updates:
            into.append(update)  # noqa: PERF401  what was taken counts, also when the next is not


def check(updates, text: str = TEXT) -> None:
    assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
    assert joined(updates) == text
    assert [update.type for update in updates].count(UpdateType.END) == 1


@both
def test_a_submit_that_is_cancelled_is_one_run_in_the_store_or_was_never_sent(streamed):
    async def scene(stage):
        async with stage.runtime as runtime:
            await stage.cancel(runtime.submit(stage.agent, "x", stream=streamed))
            await asyncio.sleep(1)
            handles = await runtime.list()
            assert len(stage.provider.runs) == len(handles) <= 1
            for handle in handles:
                assert (await handle.result(timeout=PATIENCE)).text == TEXT

    assert everywhere(scene, told) > 5


@both
def test_a_result_that_nobody_waits_for_any_more_is_there_for_others(streamed):
    async def scene(stage):
        async with stage.runtime as runtime:
            handle = await runtime.submit(stage.agent, "x", stream=streamed)
            other = asyncio.ensure_future(handle.result())
            await stage.cancel(handle.result())
            assert (await asyncio.wait_for(other, PATIENCE)).text == TEXT
            assert (await handle).text == TEXT

    assert everywhere(scene, told) > 5


@both
def test_a_stream_that_is_cancelled_goes_on_where_it_was_and_disturbs_no_other(streamed):
    async def scene(stage):
        async with stage.runtime as runtime:
            handle = await runtime.submit(stage.agent, "x", stream=streamed)
            beside = asyncio.ensure_future(take(handle.stream(), whole := []))
            await stage.cancel(take(handle.stream(), seen := []))
            await take(handle.stream(after=len(seen)), seen)
            check(seen)
            await beside
            check(whole)
            assert stage.provider.max_streams <= 1

    assert everywhere(scene, told) > 20


@pytest.mark.parametrize("partial", [False, True])
def test_a_wait_for_one_update_that_is_cancelled_ends_no_stream_of_a_handle(partial):
    async def scene(stage):
        stage.agent = Agent(stage.provider, output_type=list[str] if partial else None, clock=VirtualClock())
        async with stage.runtime as runtime:
            handle = await runtime.submit(stage.agent, "x", stream=True)
            stream, seen = handle.stream(partial=partial), []

            async def consume():
                async for update in stream:
                    seen.append(update)  # noqa: PERF401  as above

            await stage.cancel(consume())
            await take(stream, seen)
            check(seen)

    assert everywhere(scene, told) > 20


def test_answers_whose_giver_is_cancelled_are_sent_once_or_can_be_given_again():
    async def scene(stage):
        async with stage.runtime as runtime:
            handle = await runtime.submit(stage.agent, "x")
            assert await handle.wait(PATIENCE) is RunStatus.INPUT_REQUIRED
            answers = [request.answer("42") for request in handle.response.requests]
            await stage.cancel(handle.respond(*answers))
            await asyncio.sleep(60)
            if handle.status is RunStatus.INPUT_REQUIRED:
                await handle.respond(*answers)

            assert (await handle.result(timeout=PATIENCE)).text == TEXT
            assert stage.provider.count("answer") == 1

    assert everywhere(scene, asking) > 3


def test_a_run_streaming_that_is_cancelled_is_taken_up_after_its_last_update_and_makes_no_call_twice():
    async def scene(stage):
        thread = stage.agent.get_new_thread()
        await stage.cancel(take(stage.agent.run_streaming("x", thread, BACKGROUND), seen := []))
        assert stage.provider.open_streams == 0
        if not seen:  # the start was not sent, or nobody has heard of it
            assert len(stage.provider.runs) <= 1
            return

        if seen[-1].type is not UpdateType.END:
            async with asyncio.timeout(PATIENCE):
                await take(resume_stream(stage.agent, seen[-1].continuation_token, thread=thread), seen)

        told = 1
        if seen[-1].type is UpdateType.WAITING:  # the answers were on their way: whether they arrived, the user decides
            assert seen[-1].response.error.code == SUBMIT_UNKNOWN
            await take(stage.agent.run_streaming([], thread), seen)
            told = 2

        check(seen, f"Let me see. {TEXT}")
        assert len(stage.calls) <= 1, "a call that was cut off counts as made"
        assert stage.provider.count("answer") == told

    assert everywhere(scene, looking) > 50


def test_a_run_that_is_polled_by_hand_survives_the_cancelling_of_any_poll():
    async def scene(stage):
        thread = stage.agent.get_new_thread()
        options = AgentRunOptions(allow_background_responses=True)
        token = (await stage.agent.run("x", thread, options)).continuation_token

        async def poll():
            options.continuation_token = token
            response = await stage.agent.run(thread=thread, options=options)
            while response.continuation_token is not None:
                options.continuation_token = response.continuation_token
                await asyncio.sleep(0.3)
                response = await stage.agent.run(thread=thread, options=options)

            return response

        await stage.cancel(poll())
        token = options.continuation_token or token
        told = 1
        async with asyncio.timeout(PATIENCE):
            try:
                response = await poll()
            except SubmitUnknown:
                token = (await stage.agent.run([], thread, BACKGROUND)).continuation_token
                response = await poll()
                told = 2

        assert response.text == f"Let me see. {TEXT}"
        assert len(stage.calls) <= 1
        assert stage.provider.count("answer") == told

    assert everywhere(scene, looking) > 20


def test_a_taking_up_that_is_cancelled_leaves_one_run_with_one_driver():
    async def scene(stage):
        response = await stage.agent.run("x", stage.agent.get_new_thread(), BACKGROUND)
        async with stage.runtime as runtime:
            await stage.cancel(runtime.resume(response.continuation_token, agent=stage.agent))
            handle = await runtime.resume(response.continuation_token, agent=stage.agent)
            assert (await handle.result(timeout=PATIENCE)).text == TEXT
            assert len(await runtime.list()) == 1

        assert list(stage.provider.pollers.values()) == [1]

    assert everywhere(scene, told) > 3
