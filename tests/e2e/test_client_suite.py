"""One suite for every Responses server: ours, and one that others wrote, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agentbg import (
    AgentRuntime,
    ContinuationToken,
    PollPolicy,
    RunCancelled,
    RunFailed,
    RunIncomplete,
    RunNotFound,
    RunStatus,
    UpdateType,
)
from agentbg.core.model import RunRef
from agentbg.stores import SQLiteStore
from agentbg.testing.server import ResponsesServer, Script
from agentbg.testing.server.wire import JSON, input_text

from .helpers import POLL, STREAM, agent_of, background, bounded, check, joined


def words(count: int) -> str:
    """What the servers answer."""
    return "".join(f"w{number} " for number in range(count))


def ask(deltas: int = 20, delay: float = 0.0, end: str = "completed") -> str:
    """An input that says what is to be answered; see `tests/peers/azure_server.py`."""
    return json.dumps({"deltas": deltas, "delay": delay, "end": end})


def obey(request: JSON) -> Script:
    """The same for our server."""
    asked = json.loads(input_text(request))
    text = words(asked["deltas"])
    match asked["end"]:
        case "completed":
            script = Script.text(text)
        case "incomplete":
            script = Script.incomplete(text)
        case _:
            script = Script.failed("server_error", "as the script says", after=text)

    return script.lasting(delay=asked["delay"])


@dataclass(frozen=True)
class Peer:
    """A server to test against."""

    url: str
    unknown: str
    """An id in this server's shape, of no run."""


@pytest.fixture(params=["ours", "azure"])
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    if request.param == "azure":
        url = request.getfixturevalue("azure_url")
        yield Peer(url, "caresp_" + "0" * 50)
        return

    async with ResponsesServer(script=obey) as server:
        yield Peer(server.base_url, "resp_" + "0" * 48)


LATE = PollPolicy(initial=1.0, growth=0.0, maximum=1.0)
both = pytest.mark.parametrize("streamed", [False, True])


@both
async def test_a_run_is_created_and_driven_to_its_end(peer: Peer, streamed: bool) -> None:
    async with agent_of(peer.url) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():
        handle = await runtime.submit(agent, ask(20, 0.002), stream=streamed)
        assert handle.status.live
        assert not handle.done()
        response = await handle
        assert response.status is RunStatus.COMPLETED
        assert response.text == words(20)
        assert [message.role for message in response.messages] == ["assistant"]
        assert response.continuation_token is None
        updates = [update async for update in handle.stream()]
        check(updates, words(20))
        if streamed:
            assert [update.type for update in updates].count(UpdateType.TEXT) == 20


async def test_a_caller_that_holds_the_token_polls_to_the_end(peer: Peer) -> None:
    async with agent_of(peer.url) as agent, bounded():
        thread, options = agent.get_new_thread(), background()
        response = await agent.run(ask(10, 0.01), thread, options)
        assert response.continuation_token is not None
        while response.continuation_token is not None:
            await asyncio.sleep(0.02)
            options.continuation_token = str(response.continuation_token)
            response = await agent.run(thread=thread, options=options)

        assert response.text == words(10)
        assert [message.role for message in thread.messages] == ["user", "assistant"]


@pytest.mark.parametrize("delay", [0.0, 0.005], ids=["at once", "live"])
@pytest.mark.parametrize("last", [1, 4, 12])
async def test_a_stream_broken_after_any_update_goes_on_exactly_there(peer: Peer, last: int, delay: float) -> None:
    async with agent_of(peer.url) as agent, bounded():
        held = []
        async with agent.run_streaming(ask(20, delay), agent.get_new_thread(), background()) as updates:
            async for update in updates:
                held.append(update)
                if update.seq == last:
                    break

        for _ in range(2):  # a token can be used again
            options = background(str(held[-1].continuation_token))
            stream = agent.run_streaming(thread=agent.get_new_thread(), options=options)
            rest = [update async for update in stream]
            check(rest, words(20), after=last, before=joined(held))
            assert UpdateType.RESET not in [update.type for update in rest]


@both
async def test_a_run_is_taken_up_by_its_token_in_another_runtime(peer: Peer, streamed: bool) -> None:
    async with agent_of(peer.url) as agent, bounded():
        async with AgentRuntime(poll=POLL, stream=STREAM) as runtime:
            token = str((await runtime.submit(agent, ask(20, 0.01), stream=streamed)).token)

        async with AgentRuntime(poll=POLL, stream=STREAM) as runtime:
            handle = await runtime.resume(token, agent=agent)
            assert (await handle.result()).text == words(20)
            check([update async for update in handle.stream()], words(20), after=handle_start(token))


def handle_start(token: str) -> int:
    """The seq of the last update that was given before the token."""
    return ContinuationToken.parse(token).position.seq


@both
async def test_a_cancelled_run_is_cancelled_once_and_for_all(peer: Peer, streamed: bool) -> None:
    async with agent_of(peer.url) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():
        handle = await runtime.submit(agent, ask(2000, 0.01), stream=streamed)
        await handle.cancel("enough")
        await handle.cancel("really")
        with pytest.raises(RunCancelled):
            await handle.result()

        assert handle.status is RunStatus.CANCELLED
        updates = [update async for update in handle.stream()]
        assert updates[-1].type is UpdateType.END
        assert words(2000).startswith(joined(updates))


@both
async def test_a_cancel_that_comes_too_late_changes_nothing(peer: Peer, streamed: bool) -> None:
    async with agent_of(peer.url) as agent, AgentRuntime(poll=LATE, stream=STREAM) as runtime, bounded():
        handle = await runtime.submit(agent, ask(3), stream=streamed)
        await asyncio.sleep(0.05)
        await handle.cancel()
        assert (await handle.result()).text == words(3)


@both
async def test_a_run_that_fails_or_is_cut_short_shows_it(peer: Peer, streamed: bool) -> None:
    async with agent_of(peer.url) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():
        handle = await runtime.submit(agent, ask(5, end="failed"), stream=streamed)
        with pytest.raises(RunFailed, match="as the script says") as failed:
            await handle.result()

        assert failed.value.response.error is not None
        assert failed.value.response.error.code == "server_error"
        handle = await runtime.submit(agent, ask(5, end="incomplete"), stream=streamed)
        with pytest.raises(RunIncomplete, match="max_output_tokens") as short:
            await handle.result()

        assert short.value.response.text == words(5)


async def test_a_run_that_the_service_does_not_know_is_not_found(peer: Peer) -> None:
    poll = replace(POLL, missing_grace=0.05)
    async with agent_of(peer.url) as agent, AgentRuntime(poll=poll, stream=STREAM) as runtime, bounded():
        ref = RunRef("openai", agent.provider.endpoint, {"response": peer.unknown})
        token = ContinuationToken(ref, issued_at=time.time() - 3600, streamed=True)
        with pytest.raises(RunNotFound):
            await agent.run(thread=agent.get_new_thread(), options=background(token))

        handle = await runtime.resume(token, agent=agent)
        assert await handle.wait() is RunStatus.EXPIRED


async def test_runs_are_listed_and_got_again(peer: Peer, tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs")
    async with agent_of(peer.url) as agent, bounded():
        async with AgentRuntime(store, poll=POLL, stream=STREAM) as runtime:
            done = await runtime.submit(agent, ask(3))
            await done.result()
            live = await runtime.submit(agent, ask(2000, 0.01), metadata={"user": 7})
            assert await runtime.list() == [live, done]
            assert await runtime.list(status=[RunStatus.QUEUED, RunStatus.RUNNING]) == [live]
            assert await runtime.list(status="completed", agent="agent") == [done]
            assert await runtime.list(agent="nobody") == []
            assert await runtime.list(limit=1) == [live]

        async with AgentRuntime(store, poll=POLL, stream=STREAM, agents=[agent]) as runtime:
            assert (await (await runtime.get(done.id)).result()).text == words(3)
            again = await runtime.get(live.id)
            assert again.metadata == {"user": 7}
            await again.cancel()
            assert await again.wait() is RunStatus.CANCELLED
