"""What hooks see, in which order, and that theirs is no trouble of the run. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentbg import Agent, AgentRuntime, RequestRejected, RunStatus, ServiceUnavailable, UsageError, tool
from agentbg.providers.base import Cap
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.provider import ALL_CAPS


class Notes:
    """A hook of every kind."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_submit(self, handle):
        self.seen.append(("submit", handle.status, handle.metadata))

    def on_poll(self, handle, error, seconds):
        self.seen.append(("poll", handle.status, type(error), seconds))

    def on_event(self, handle, update):
        self.seen.append(("event", update.seq))

    def on_tool_call(self, handle, request, output, seconds):
        self.seen.append(("tool", request.name, output, seconds))

    def on_completion(self, handle):
        self.seen.append(("completion", handle.status, handle.response.text, handle.done()))

    def of(self, kind: str) -> list[Any]:
        return [note for note in self.seen if note[0] == kind]


class Broken:
    def on_submit(self, handle):
        raise RuntimeError("submit")

    on_poll = on_event = on_tool_call = on_completion = lambda self, *_: 1 / 0


@tool
async def wind(city: str) -> str:
    """The wind."""
    await asyncio.sleep(3)
    return f"5 in {city}"


def watched(*hooks: Any) -> AgentRuntime:
    return AgentRuntime(hooks=hooks, draw=lambda: 0.5, clock=VirtualClock())


def windy(**settings: Any) -> Agent[str]:
    scripts = [RunScript.call("wind", {"city": "Ghent"}), RunScript.text("Windy.")]
    return Agent(ScriptedProvider(scripts, caps=ALL_CAPS & ~Cap.RESPOND, **settings), tools=[wind])


@virtual_time
async def test_a_hook_sees_the_whole_life_of_a_run_in_order():
    notes = Notes()
    async with watched(notes) as runtime:
        handle = await runtime.submit(windy(), "How windy is it?", stream=True, metadata={"user": 7})
        await handle.result()
        async with handle.stream() as stream:
            seqs = [update.seq async for update in stream]

    assert notes.seen[0] == ("submit", RunStatus.QUEUED, {"user": 7})
    assert notes.of("event") == [("event", seq) for seq in seqs]
    assert notes.of("tool") == [("tool", "wind", "5 in Ghent", 3.0)]
    assert notes.seen[-1] == ("completion", RunStatus.COMPLETED, "Windy.", True)
    assert len(notes.of("submit")) == len(notes.of("completion")) == 1


@virtual_time
async def test_a_hook_sees_polls_that_fail_and_polls_that_do_not():
    notes = Notes()
    provider = ScriptedProvider.text("Hello", latency=0.25).fail("poll")
    async with watched(notes) as runtime:
        handle = await runtime.submit(Agent(provider), "x")
        await handle.result()

    polls = notes.of("poll")
    assert polls[0] == ("poll", RunStatus.QUEUED, ServiceUnavailable, 0.25)
    assert {kind for _, _, kind, _ in polls[1:]} == {type(None)}
    assert len(polls) == handle.polls == provider.count("poll")


@virtual_time
async def test_a_start_that_fails_is_no_submit_and_a_run_that_waits_has_not_ended():
    notes = Notes()
    provider = ScriptedProvider(RunScript.asks(), RunScript.asks()).fail("start", RequestRejected("400"))
    async with watched(notes) as runtime:
        with pytest.raises(RequestRejected):
            await runtime.submit(Agent(provider), "x")

        assert notes.of("submit") == []
        notes.seen.clear()
        handle = await runtime.submit(Agent(provider), "x")
        assert await handle.wait() is RunStatus.INPUT_REQUIRED
        assert (len(notes.of("submit")), notes.of("completion")) == (1, [])


@virtual_time
async def test_what_a_hook_raises_is_told_to_the_loop_and_to_nobody_else():
    told, notes = list[Any](), Notes()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with watched(Broken(), notes) as runtime:
        handle = await runtime.submit(windy(), "x", stream=True)
        assert (await handle.result()).text == "Windy."

    assert {type(error) for error in told} == {RuntimeError, ZeroDivisionError}
    assert notes.of("completion")


@virtual_time
async def test_an_end_is_in_the_store_when_its_hook_is_called():
    class Peeks:
        def on_completion(self, handle):
            peeked.append(asyncio.ensure_future(runtime.get(handle.id)))

    peeked: list[Any] = []
    async with watched(Peeks()) as runtime:
        handle = await runtime.submit(Agent(ScriptedProvider.text("Hello")), "x")
        await handle.result()
        assert [(await found).response.text for found in peeked] == ["Hello"]


def test_what_is_no_hook_is_refused():
    class Late:
        async def on_completion(self, handle):
            pass

    for hook in (object(), Late):
        with pytest.raises(UsageError, match="on_submit, on_poll"):
            AgentRuntime(hooks=[hook])

    with pytest.raises(UsageError, match="is async"):
        AgentRuntime(hooks=[Late()])

    with pytest.raises(UsageError, match=r"hooks=\[…\]"):
        AgentRuntime(hooks=Late())
